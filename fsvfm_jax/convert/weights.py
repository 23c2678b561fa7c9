"""Reads weights of all kinds: our runs, our folders, the reference's files, other libraries."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from fsvfm_jax.convert import foreign, pth, reference
from fsvfm_jax.convert.card import MAX_TEXT
from fsvfm_jax.convert.entries import Network
from fsvfm_jax.convert.families import check_supported
from fsvfm_jax.convert.folder import read_folder
from fsvfm_jax.convert.huggingface import is_huggingface
from fsvfm_jax.convert.licenses import AUTHORS_LICENSE
from fsvfm_jax.convert.measures import UnknownHeads, measures, network, unseen
from fsvfm_jax.convert.names import TIMM, has_pool, names_of
from fsvfm_jax.convert.runs import is_run, read_run
from fsvfm_jax.convert.source_files import file_sha256, read_source_json
from fsvfm_jax.convert.training import number_of_updates
from fsvfm_jax.convert.tuned import Tuned
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rand_augment import CROP_PCT
from fsvfm_jax.data.stats import REFERENCE_STATS_FILE, load_stats
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import OPTIONS, ViT
from fsvfm_jax.tuning import make_tuning, merge

LOG = logging.getLogger(__name__)

# The key in our `.pth` files for values that the reference's files do not contain.
OUR_KEY = "fsvfm_jax"


class LoadedWeights(NamedTuple):
    """Weights and what is known of them.

    Attributes:
        params: A tree of ours: student, teacher, encoder or detector.
        model: Measures of the network, as returned by `convert.measures`.
        facts: The known fields of `card.Description`.
        file: For a file of another program: its format, and the network's place in it.
        tuned: For a run of fine-tuning that does not train all parameters: what it trained.
    """

    params: dict[str, Any]
    model: dict[str, Any]
    facts: dict[str, Any]
    file: dict[str, Any] = MappingProxyType({})
    tuned: Tuned | None = None


class UnknownNetwork(DataError):
    """A file contains arrays that do not belong to a known network.

    Attributes:
        file: What is known of the file, as `LoadedWeights.file`.
    """

    def __init__(self, message: str, *, file: Mapping[str, Any]):
        super().__init__(message)
        self.file = file


def read_source(
    path: Path,
    *,
    branch: str,
    given: dict[str, Any],
    step: int | None = None,
    encoder: Path | None = None,
    entry: str | None = None,
) -> LoadedWeights:
    """Reads weights of any kind; what kind, the path says.

    Args:
        path: A workdir of ours, an exported folder, a folder or file of another library
            (`foreign.read_weights`), or a `.pth` file of the reference's or of MAE.
        branch: "student" or "teacher", of a workdir or of a file that has both.
        given: Measures that no shape says, such as `num_heads`.
        step: Of a workdir's checkpoints; None is the newest.
        encoder: Folder of the encoder, where `path` is that of an adapter alone.
        entry: Of a file of others: which of its networks (`entries.find_network`).

    Raises:
        DataError: There are no such weights, or they are damaged.
        ConfigError: A number of heads is neither given nor known, or the given one is wrong, there
            is no network under `entry`, or a step is given for something else than a workdir.
    """
    if entry and (is_run(path) or is_exported(path)):
        raise ConfigError(f"{path} is a folder of this project, which has no entry {entry!r}")
    if step is not None and not is_run(path):
        raise ConfigError(f"{path} is no workdir, which alone has steps: leave out step {step}")
    if is_run(path):
        source = _of_run(path, branch=branch, step=step)
    elif is_exported(path):
        source = _of_exported(path, encoder=encoder)
    elif path.is_dir() or path.suffix in foreign.SUFFIXES:
        source = _of_others(foreign.read_weights(path, entry=entry, branch=branch), given=given)
    else:
        source = of_pth(path, pth.read(path, entry=entry, branch=branch), given=given)
    for name, value in given.items():
        known = source.model.get(name, getattr(ViT, name) if name in OPTIONS else value)
        if known != value:
            raise ConfigError(f"{path} has {name} {known}, not {value} as given")
    return source


def is_exported(path: Path) -> bool:
    """Returns whether `convert.folder` wrote a folder."""
    file = path / "config.json"
    return file.is_file() and "fsvfm_jax" in read_source_json(
        file, dict[str, Any], what="a JSON object"
    )


def check_sha256(path: Path, sha256: str | None) -> None:
    """Checks the SHA-256 of a file.

    Args:
        path: The file.
        sha256: The expected hash in hexadecimal; None for any.

    Raises:
        DataError: The file has another hash.
        ConfigError: A hash is given, and the path is a folder.
    """
    if sha256 is None:
        return
    if path.is_dir():
        raise ConfigError(f"--sha256 pins a file, and {path} is a folder")
    found = file_sha256(path)
    if found != sha256.lower():
        raise DataError(f"{path} has SHA-256 {found}, not {sha256} as was asked for")


def _of_run(workdir: Path, *, branch: str, step: int | None) -> LoadedWeights:
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
        facts["crop_pct"] = CROP_PCT[run.config.data.view]
    else:
        params = run.state.params if branch == "student" else run.state.teacher_params
        facts |= {"recipe": run.config.recipe, "source": f"{workdir.name}, {branch}"}
    params, tuned = jax.device_get(params), None
    if run.config.task == "finetune" and run.config.mode != "full":
        tuned = Tuned(params, make_tuning(run.config))
        params = jax.device_get(merge(params, tuned.tuning))
    model = measures(params, **unseen(run.config.model))
    return LoadedWeights(params, model, facts, tuned=tuned)


def _of_exported(folder: Path, *, encoder: Path | None) -> LoadedWeights:
    exported = read_folder(folder, encoder=encoder)
    facts = vars(exported.description) | _facts(folder, file_sha256(folder / "config.json"))
    return LoadedWeights(exported.params, dict(facts.pop("model")), facts)


def _of_others(weights: foreign.Weights, *, given: dict[str, Any]) -> LoadedWeights:
    about = {"format": weights.format} | weights.network.about()
    with _naming(weights.file, about):
        found = _of_library(weights.network, config=weights.config, given=given)
    facts = _facts(weights.file, weights.sha256)
    return found._replace(facts=facts | found.facts, file=about | found.file)


def _of_library(
    network: Network, *, config: Mapping[str, Any] | None, given: dict[str, Any]
) -> LoadedWeights:
    """Returns an encoder of another library with what its family and its config say."""
    found = foreign.to_encoder(network.state_dict, config=config, prefix=network.prefix, **given)
    file = {"family": found.family} if found.family else {}
    if found.left_out:
        file["left_out"] = (*network.left_out, *found.left_out)
    return LoadedWeights(found.params, found.model, dict(found.facts), file)


def of_pth(path: Path, content: pth.Pth, *, given: dict[str, Any]) -> LoadedWeights:
    """The network of a `.pth` file, every array's shape checked.

    Args:
        path: Path of the file; the reference's file of mean and deviation may be beside it.
        content: The result of `pth.read`.
        given: As for `read_source`.

    Raises:
        DataError: The file contains no known network.
        ConfigError: As for `read_source`.
    """
    facts = _facts(path, content.sha256)
    is_foreign = content.network is not None and _is_foreign(content.network)
    ours = content.extra.get(OUR_KEY)
    license = None if is_foreign else AUTHORS_LICENSE
    if isinstance(ours, dict):  # This project wrote the file.
        license = ours.get("license")
    if license is not None:
        if not isinstance(license, str) or not 0 < len(license) <= MAX_TEXT:
            raise DataError(f"{path} has a licence that is no text of 1 to {MAX_TEXT} characters")
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
        if is_foreign:
            found = _of_library(content.network, config=None, given=given)
            return found._replace(facts=facts | found.facts, file=about | found.file)
        check_supported(content.state_dict)
        params = reference.to_params(content.state_dict)
        network(params, **given)
        return LoadedWeights(params, measures(params, **given), facts, about)


@contextmanager
def _naming(path: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Adds the file to the errors that the enclosed code raises."""
    try:
        yield
    except UnknownHeads as error:
        error.file = about
        raise
    except DataError as error:
        raise UnknownNetwork(f"{path}: {error}", file=about) from error


def _is_foreign(network: Network) -> bool:
    """Returns whether a network is of MAE or of another library, and not of the reference.

    MAE's names are timm's; MAE has a pixel decoder but no representation decoder.
    """
    keys = network.state_dict
    is_mae = "decoder_embed.weight" in keys and "rep_decoder_embed.weight" not in keys
    others = ("norm_pre.weight", "reg_token", "blocks.0.ls1.gamma")
    has_options = "cls_token" not in keys or has_pool(keys) or any(key in keys for key in others)
    is_timm = names_of(keys) is TIMM and (has_options or "base_encoder" in network.prefix)
    return is_mae or is_timm or is_huggingface(keys) or names_of(keys) not in (None, TIMM)


def _facts(file: Path, sha256: str) -> dict[str, Any]:
    return {"source": file.name, "source_sha256": sha256}
