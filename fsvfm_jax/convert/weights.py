"""Weights wherever they come from: our runs, our folders, the reference, other libraries."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax import compilation, pretrain, sharding
from fsvfm_jax.checkpoint import Checkpoints
from fsvfm_jax.convert import foreign, pth, reference
from fsvfm_jax.convert.card import AUTHORS_LICENSE
from fsvfm_jax.convert.folder import file_sha256, read_folder, read_json
from fsvfm_jax.convert.measures import HEADS, measures
from fsvfm_jax.convert.training import number_of_updates
from fsvfm_jax.data.stats import STATS_FILE, Stats, known_stats, load_stats
from fsvfm_jax.errors import DataError
from fsvfm_jax.fingerprint import FINGERPRINT_FILE
from fsvfm_jax.train_state import TrainState


class Source(NamedTuple):
    """Weights and what is known of them.

    Attributes:
        params: A tree of ours: student, teacher, encoder or detector.
        model: Measures of its network, as `convert.measures` gives them.
        facts: Fields of `card.Description` that are known.
    """

    params: dict[str, Any]
    model: dict[str, Any]
    facts: dict[str, Any]


class Run(NamedTuple):
    """A pretraining run of ours at a checkpoint; its set's fingerprint is None where not stored."""

    state: TrainState
    config: ConfigDict
    stats: Stats
    dataset_fingerprint: str | None


def read_source(
    path: Path,
    *,
    branch: str,
    told: dict[str, Any],
    sha256: str | None = None,
    encoder: Path | None = None,
) -> Source:
    """Reads weights of any kind; what kind, the path says.

    Args:
        path: A workdir of ours, an exported folder, another library's folder or safetensors file,
            or a `.pth` file of the reference's or of MAE.
        branch: "student" or "teacher", of a workdir.
        told: Measures that no shape says, such as `num_heads`.
        sha256: What the file's hash must be.
        encoder: Folder of the encoder, where `path` is that of an adapter alone.

    Raises:
        DataError: There are no such weights, or they are damaged.
        ConfigError: A number of heads is neither told nor known.
    """
    if is_run(path):
        return _of_run(path, branch=branch)
    if (path / "config.json").is_file() and "fsvfm_jax" in read_json(path / "config.json"):
        exported = read_folder(path, encoder=encoder)
        description = exported.description
        facts = {
            name: value
            for name, value in vars(description).items()
            if name not in ("model", "source", "source_sha256")
        }
        digest = file_sha256(path / "config.json")
        return Source(
            exported.params,
            dict(description.model),
            facts | {"source": path.name, "source_sha256": digest},
        )
    if path.is_dir() or path.suffix == ".safetensors":
        encoder = foreign.read_encoder(path, num_heads=told.get("num_heads"))
        file = path / "model.safetensors" if path.is_dir() else path
        return Source(encoder.params, encoder.model, _facts(file, file_sha256(file)))
    return _of_pth(path, told=told, sha256=sha256)


def is_run(path: Path) -> bool:
    """Whether it is a workdir of ours that has checkpoints."""
    return (path / "checkpoints").is_dir()


def read_run(workdir: Path) -> Run:
    """The newest checkpoint of a workdir, by the config and statistics stored in it.

    Raises:
        DataError: The workdir holds no run.
    """
    config = ConfigDict(read_json(workdir / "config.json"))
    if config.get("task") != "pretrain":
        raise DataError(f"{workdir / 'config.json'} is not that of a pretraining run")
    stats = known_stats(config.data, epath.Path(workdir))
    if stats is None:
        raise DataError(f"{workdir} has no mean and std: {STATS_FILE} is missing")
    task = pretrain.make_task(config, stats=stats)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.local_devices()[:1])
    directory = epath.Path(workdir) / "checkpoints"
    with Checkpoints(directory, keep=1, keep_every=0, read_only=True) as checkpoints:
        restored = checkpoints.restore_newest(compilation.state_template(task, mesh))
    if restored is None:
        raise DataError(f"{workdir} has no checkpoint")
    stored = workdir / FINGERPRINT_FILE
    dataset = read_json(stored)["fingerprint"]["dataset"] if stored.exists() else None
    return Run(restored.state, config, stats, dataset)


def _of_run(workdir: Path, *, branch: str) -> Source:
    run = read_run(workdir)
    params = run.state.params if branch == "student" else run.state.teacher_params
    params = jax.device_get(params)
    names = [name for name in HEADS if branch == "student" or name != "decoder_num_heads"]
    heads = {name: run.config.model[name] for name in names}
    facts = {
        "stats": run.stats,
        "recipe": run.config.recipe,
        "step": int(run.state.step),
        "dataset_fingerprint": run.dataset_fingerprint,
        "source": f"{workdir.name}, {branch}",
        "source_sha256": file_sha256(workdir / "config.json"),
    }
    return Source(params, measures(params, **heads), facts)


def _of_pth(path: Path, *, told: dict[str, Any], sha256: str | None) -> Source:
    content = pth.read(path, sha256=sha256)
    facts = _facts(path, content.sha256) | {"license": AUTHORS_LICENSE}
    if (step := number_of_updates(content)) is not None:
        facts["step"] = step
    beside = path.with_name("pretrain_ds_mean_std.txt")
    if beside.exists():
        facts["stats"] = load_stats(beside)
    keys = content.state_dict.keys()
    # MAE's names are timm's; it has a pixel decoder but no representation decoder.
    if "decoder_embed.weight" in keys and "rep_decoder_embed.weight" not in keys:
        encoder = foreign.to_encoder(content.state_dict, num_heads=told.get("num_heads"))
        return Source(encoder.params, encoder.model, facts)
    try:
        params = reference.to_params(content.state_dict)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Source(params, measures(params, **told), facts)


def _facts(file: Path, sha256: str) -> dict[str, Any]:
    return {"source": file.name, "source_sha256": sha256}
