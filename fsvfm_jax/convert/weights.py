"""Weights wherever they come from: our runs, our folders, the reference, other libraries."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
from etils import epath
from ml_collections import ConfigDict
from msgspec import Meta

from fsvfm_jax import compilation, finetune, pretrain, sharding
from fsvfm_jax import config as config_lib
from fsvfm_jax.checkpoint import Checkpoints
from fsvfm_jax.convert import foreign, pth, reference
from fsvfm_jax.convert.card import AUTHORS_LICENSE, LICENSES, is_license
from fsvfm_jax.convert.folder import read_folder
from fsvfm_jax.convert.huggingface import is_huggingface
from fsvfm_jax.convert.measures import HEADS, UnknownHeads, measures, network
from fsvfm_jax.convert.source_files import file_sha256, read_json
from fsvfm_jax.convert.training import number_of_updates
from fsvfm_jax.data.labelled import LABELS
from fsvfm_jax.data.stats import (
    REFERENCE_STATS_FILE,
    STATS_FILE,
    Stats,
    known_stats,
    load_stats,
)
from fsvfm_jax.errors import ConfigError, DataError, in_one_line
from fsvfm_jax.fingerprint import FINGERPRINT_FILE
from fsvfm_jax.integrity import MANIFEST_FILE
from fsvfm_jax.run_files import write_json
from fsvfm_jax.train_state import TrainState

LOG = logging.getLogger(__name__)

ORIGIN_FILE = "origin.json"
ORIGIN = ("source", "source_sha256", "license")
TASKS = {"pretrain": pretrain.make_task, "finetune": finetune.make_task}
# Under it a `.pth` of ours says what the reference's files do not.
OUR_KEY = "fsvfm_jax"


# What other libraries raise where a config of the wrong types is used.
ODD_CONFIG = (KeyError, AttributeError, TypeError, ValueError, ArithmeticError)


class Origin(TypedDict):
    """Content of a workdir's origin.json: what its run started from."""

    source: str | None
    source_sha256: str | None
    license: str | None


class RunData(TypedDict):
    """The part of a run's fingerprint that is read here."""

    dataset: str
    images: Annotated[int, Meta(ge=1)]


class RunFingerprint(TypedDict):
    """The part of a workdir's fingerprint.json that is read here."""

    fingerprint: RunData


class Source(NamedTuple):
    """Weights and what is known of them.

    Attributes:
        params: A tree of ours: student, teacher, encoder or detector.
        model: Measures of its network, as `convert.measures` gives them.
        facts: Fields of `card.Description` that are known.
        file: Of a file of others: its format, and where in it the network was.
    """

    params: dict[str, Any]
    model: dict[str, Any]
    facts: dict[str, Any]
    file: dict[str, Any] = MappingProxyType({})


class UnknownNetwork(DataError):
    """A file holds arrays that are not those of a network known here.

    Attributes:
        file: What is known of the file, as `Source.file`.
    """

    def __init__(self, message: str, *, file: Mapping[str, Any]):
        super().__init__(message)
        self.file = file


class Run(NamedTuple):
    """A training run of ours at a checkpoint.

    Attributes:
        state: The state.
        config: Resolved.
        stats: Mean and deviation that normalise the images.
        epoch: The last one that was finished, from 0; -1 before.
        dataset_fingerprint: Of its set.
        sha256: Of the checkpoint's manifest, which lists the hashes of all its files.
        license: Of the weights that it started from, if there were any and it is known.
    """

    state: TrainState
    config: ConfigDict
    stats: Stats
    epoch: int
    dataset_fingerprint: str
    sha256: str
    license: str | None


def read_source(
    path: Path,
    *,
    branch: str,
    told: dict[str, Any],
    step: int | None = None,
    sha256: str | None = None,
    encoder: Path | None = None,
    entry: str | None = None,
) -> Source:
    """Reads weights of any kind; what kind, the path says.

    Args:
        path: A workdir of ours, an exported folder, a folder or file of another library
            (`foreign.read_weights`), or a `.pth` file of the reference's or of MAE.
        branch: "student" or "teacher", of a workdir or of a file that has both.
        told: Measures that no shape says, such as `num_heads`.
        step: Of a workdir's checkpoints; None is the newest.
        sha256: What the file's hash must be.
        encoder: Folder of the encoder, where `path` is that of an adapter alone.
        entry: Of a file of others: which of its networks (`entries.find_network`).

    Raises:
        DataError: There are no such weights, or they are damaged, or have another hash.
        ConfigError: A number of heads is neither told nor known, or what is told is not so, or
            there is no network under `entry`.
    """
    check_sha256(path, sha256)
    if entry and (is_run(path) or is_exported(path)):
        raise ConfigError(f"{path} is a folder of this project, which has no entry {entry!r}")
    if is_run(path):
        source = _of_run(path, branch=branch, step=step)
    elif is_exported(path):
        source = _of_exported(path, encoder=encoder)
    elif path.is_dir() or path.suffix in foreign.SUFFIXES:
        source = _of_others(foreign.read_weights(path, entry=entry, branch=branch), told=told)
    else:
        source = of_pth(path, pth.read(path, entry=entry, branch=branch), told=told)
    for name, value in told.items():
        if name in source.model and source.model[name] != value:
            raise ConfigError(f"{path} has {name} {source.model[name]}, not {value} as told")
    return source


def is_run(path: Path) -> bool:
    """Whether it is a workdir of ours that has checkpoints."""
    return (path / "checkpoints").is_dir()


def is_exported(path: Path) -> bool:
    """Whether it is a folder that `convert.folder` wrote."""
    file = path / "config.json"
    return file.is_file() and "fsvfm_jax" in read_json(file, dict[str, Any], what="a JSON object")


def check_sha256(path: Path, sha256: str | None) -> None:
    """Raises DataError unless the file has this hash, in hexadecimal; None is any."""
    if sha256 is None:
        return
    if path.is_dir():
        raise ConfigError(f"--sha256 pins a file, and {path} is a folder")
    found = file_sha256(path)
    if found != sha256.lower():
        raise DataError(f"{path} has SHA-256 {found}, not {sha256} as was asked for")


def save_origin(workdir: epath.PathLike, origin: dict[str, Any]) -> None:
    """Notes in a workdir what it started from: the licence of that goes with what comes of it."""
    write_json(epath.Path(workdir) / ORIGIN_FILE, origin)


def origin_license(workdir: Path) -> str | None:
    """Returns the licence of the weights that a run started from.

    It is None where there were no such weights, or their licence is not known.

    Raises:
        DataError: The file that contains it is damaged.
    """
    file = workdir / ORIGIN_FILE
    if not file.exists():
        return None
    license = read_json(file, Origin, what="the origin of a run")["license"]
    if license is not None:
        _check_license(license, file)
    return license


def run_config(workdir: Path) -> ConfigDict:
    """The resolved config of a training run of ours.

    Raises:
        DataError: The workdir holds none, or one that no run can have.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise DataError(f"in {workdir} no run has started yet: start it, or use what it is made of")
    what = "that of a training run"
    try:
        content = read_json(file, dict[str, Any], what=what)
        if content.get("task") not in TASKS:
            raise DataError(f"{file} is not {what}")
        return config_lib.resolve_stored(content)
    except (ConfigError, *ODD_CONFIG) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not {what}, or of another version ({reason})") from error


def run_data(workdir: Path) -> RunData:
    """What the fingerprint of a training run of ours says of its data.

    Raises:
        DataError: The workdir has none.
    """
    file = workdir / FINGERPRINT_FILE
    return read_json(file, RunFingerprint, what="a run's fingerprint")["fingerprint"]


def read_run(workdir: Path, *, step: int | None = None) -> Run:
    """A checkpoint of a workdir, by the config and statistics stored in it.

    Args:
        workdir: Of the run, which may be going on.
        step: Which; None is the newest.

    Raises:
        DataError: The workdir holds no run, or not whole.
        ConfigError: There is no checkpoint of that step, or it is damaged.
    """
    config = run_config(workdir)
    try:
        stats = known_stats(config.data, epath.Path(workdir))
        if stats is None:
            raise DataError(f"{workdir} has no mean and std: {STATS_FILE} is missing")
        data = run_data(workdir)
        task = TASKS[config.task](config, stats=stats)
        mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.local_devices()[:1])
        template = compilation.state_template(task, mesh)
        directory = workdir / "checkpoints"
        with Checkpoints(epath.Path(directory), keep=1, read_only=True) as saved:
            if step is None:
                restored = saved.restore_newest_valid(template)
            else:
                restored = saved.restore(template, step=step)
        if restored is None:
            raise DataError(f"{workdir} has no checkpoint")
        return Run(
            restored.state,
            config,
            stats,
            epoch=restored.samples_seen // data["images"] - 1,
            dataset_fingerprint=data["dataset"],
            sha256=file_sha256(directory / str(int(restored.state.step)) / MANIFEST_FILE),
            license=origin_license(workdir),
        )
    except ODD_CONFIG as error:
        raise DataError(
            f"{workdir} is not whole, or of another version: what lies beside its checkpoints"
            f" does not fit them ({in_one_line(error)})"
        ) from error


def _check_license(license: object, file: Path) -> None:
    if not is_license(license):
        raise DataError(f"{file} is under the licence {str(license)[:200]!r}: {LICENSES}")


def _of_run(workdir: Path, *, branch: str, step: int | None) -> Source:
    run = read_run(workdir, step=step)
    facts = {
        "stats": run.stats,
        "step": int(run.state.step),
        "dataset_fingerprint": run.dataset_fingerprint,
        "source_sha256": run.sha256,
    }
    if run.license is not None:
        facts["license"] = run.license
    if run.config.task == "finetune":
        params = run.state.params
        facts |= {"recipe": run.config.mode, "source": workdir.name, "label_names": LABELS}
    else:
        params = run.state.params if branch == "student" else run.state.teacher_params
        facts |= {"recipe": run.config.recipe, "source": f"{workdir.name}, {branch}"}
    params = jax.device_get(params)
    heads = {name: run.config.model[name] for name in HEADS if name in run.config.model}
    return Source(params, measures(params, **heads), facts)


def _of_exported(folder: Path, *, encoder: Path | None) -> Source:
    exported = read_folder(folder, encoder=encoder)
    facts = vars(exported.description) | _facts(folder, file_sha256(folder / "config.json"))
    return Source(exported.params, dict(facts.pop("model")), facts)


def _of_others(weights: foreign.Weights, *, told: dict[str, Any]) -> Source:
    arrays = weights.network.state_dict
    about = {"format": weights.format} | weights.network.about()
    with _naming(weights.file, about):
        found = foreign.to_encoder(arrays, config=weights.config, **told)
    return Source(found.params, found.model, _facts(weights.file, weights.sha256), about)


def of_pth(path: Path, content: pth.Pth, *, told: dict[str, Any]) -> Source:
    """The network of a `.pth` file, every array's shape checked.

    Args:
        path: Of the file; mean and deviation of the reference's may lie beside it.
        content: What `pth.read` found there.
        told: As for `read_source`.

    Raises:
        DataError: It is no network known here.
        ConfigError: As `read_source`.
    """
    facts = _facts(path, content.sha256)
    # Files that we wrote say under which licence; all others are the authors', or made of theirs.
    ours = content.extra.get(OUR_KEY)
    license = ours.get("license") if isinstance(ours, dict) else AUTHORS_LICENSE
    if license is not None:
        _check_license(license, path)
        facts["license"] = license
    beside = path.with_name(REFERENCE_STATS_FILE)
    if beside.exists():
        facts["stats"] = load_stats(beside)
    try:
        if (step := number_of_updates(content)) is not None:
            facts["step"] = step
    except DataError as error:
        LOG.info("%s: its number of updates is unknown: %s", path, error)
    about = {"format": pth.FORMAT} | (content.network.about() if content.network else {})
    with _naming(path, about):
        if _is_foreign(content.state_dict):
            encoder = foreign.to_encoder(content.state_dict, **told)
            return Source(encoder.params, encoder.model, facts, about)
        params = reference.to_params(content.state_dict)
        network(params, **told)
        return Source(params, measures(params, **told), facts, about)


@contextmanager
def _naming(path: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Puts the file into the errors of the reading of its network."""
    try:
        yield
    except UnknownHeads as error:
        error.file = about
        raise
    except DataError as error:
        raise UnknownNetwork(f"{path}: {error}", file=about) from error


def _is_foreign(state_dict: Mapping[str, Any]) -> bool:
    """MAE's names are timm's; it has a pixel decoder but no representation decoder."""
    is_mae = "decoder_embed.weight" in state_dict and "rep_decoder_embed.weight" not in state_dict
    return is_mae or is_huggingface(state_dict)


def _facts(file: Path, sha256: str) -> dict[str, Any]:
    return {"source": file.name, "source_sha256": sha256}
