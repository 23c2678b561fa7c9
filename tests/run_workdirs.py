"""Writes workdirs as training runs leave them, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import vit_b, vit_s
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.host.pictures import encode_png
from fsvfm_jax.report.published_curves import CURVES, Means

IMAGES = 1024  # The tiny run has 32 steps in an epoch, and 320 in all.


def write_run(
    workdir: Path,
    *,
    steps: int = 64,
    changes: dict[str, Any] | None = None,
    starts: Sequence[tuple[int, int]] = ((1_700_000_000, 0),),
    pictures: Sequence[int] = (),
) -> Path:
    """Writes the workdir of a tiny pretraining run that logs every fourth step.

    Args:
        workdir: The folder, which is made.
        steps: Number of updates done, a multiple of 4.
        changes: Fields of the config by their full names.
        starts: Time and step of each start.
        pictures: Steps that have a picture.

    Returns:
        The workdir.
    """
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(changes or {})
    write_facts(workdir, resolve(config), {"images": IMAGES, "mean": [0.5] * 3, "std": [0.2] * 3})
    write_lines(workdir / "metrics.jsonl", [numbers(step) for step in range(4, steps + 1, 4)])
    epochs = [
        {"epoch": n, "steps": 32, **numbers(32 * (n + 1), epoch=n)} for n in range(steps // 32)
    ]
    write_lines(workdir / "epochs.jsonl", epochs)
    (workdir / "tensorboard").mkdir()
    for seconds, step in starts:
        (workdir / "tensorboard" / f"events.out.tfevents.{seconds}.host.name.{step}").touch()
    (workdir / "images").mkdir()
    for step in pictures:
        write_picture(workdir, step)
    return workdir


def write_facts(workdir: Path, config: ConfigDict, fingerprint: dict[str, Any]) -> None:
    """Writes config.json and fingerprint.json into a new workdir."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(to_json(config))
    stored = {"fingerprint": fingerprint, "accepted": []}
    (workdir / "fingerprint.json").write_text(json.dumps(stored))


def numbers(step: int, **others: float) -> dict[str, float]:
    """Returns the numbers of a logged step of the tiny run."""
    return {
        "step": step,
        "epoch": step / 32,
        "loss": 1 / step,
        "loss_sim": -0.4,
        "loss_sim_constant": -0.3,
        "variance_z": 0.01,
        "skipped": 0.0,
        "images_per_second": 100.0,
        "probe_knn": 0.5 + step / 1000,
        **others,
    }


def write_lines(file: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes a file of lines."""
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def write_picture(workdir: Path, step: int, *, size: tuple[int, int] = (24, 16)) -> None:
    """Writes a picture of a step; its grey depends on the step."""
    picture = np.full((*size, 3), step % 256, np.uint8)
    (workdir / "images" / f"reconstruction_{step:07d}.png").write_bytes(encode_png(picture))


def write_like_authors(
    workdir: Path,
    curve: str = "vggface2_b",
    *,
    factor: float = 1.0,
    until: int = 400,
    changes: dict[str, Any] | None = None,
    fingerprint: dict[str, Any] | None = None,
) -> Path:
    """Writes the workdir of a run with the authors' settings and `factor` times their losses.

    Args:
        workdir: The folder, which is made.
        curve: Name of the authors' curve.
        factor: Its epoch means are multiplied by this.
        until: Number of finished epochs.
        changes: Fields of the config by their full names.
        fingerprint: Values of the fingerprint.

    Returns:
        The workdir.
    """
    config = vit_b.get_config()
    config.update_from_flattened_dict({"recipe": "released", "epochs": 400, **(changes or {})})
    theirs = CURVES["vggface2_b"]
    stored = {"images": theirs.faces, "mean": list(theirs.mean), "std": list(theirs.std)}
    write_facts(workdir, resolve(config), stored | (fingerprint or {}))
    records = []
    for epoch, means in CURVES[curve].epochs.items():
        if epoch < until:
            losses = {name: factor * getattr(means, name) for name in Means._fields}
            records.append({"epoch": epoch, "step": 726 * (epoch + 1), "steps": 726, **losses})
    write_lines(workdir / "epochs.jsonl", records)
    last = records[-1]["step"] if records else 726
    write_lines(workdir / "metrics.jsonl", [{"step": last, "epoch": last / 726, "loss": 0.2}])
    return workdir
