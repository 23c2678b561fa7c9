"""Makes files of the reference from stored arrays: a pretraining run and one detector per kind."""

import argparse
import importlib
import json
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_numbers import FOLDER

DETECTORS = ("dfd", "adapter", "fas", "fas_adapter", "vit_cls", "adapter_cls")
HEADS = {"num_heads": 4}
RUN_HEADS = {"num_heads": 4, "decoder_num_heads": 4, "rep_decoder_num_heads": 4}


def need(name: str, extra: str = "convert") -> ModuleType:
    """Imports a module of an extra; if it is missing, the test is skipped, but never in CI."""
    if os.environ.get("CI"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[{extra}]'")


@cache
def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def detector(name: str) -> dict[str, np.ndarray]:
    """Returns the state dict of a detector with 4 heads."""
    return under(f"{name}/params/", load("detectors"))


def detector_images(name: str) -> np.ndarray:
    """Returns normalised images, [B, H, W, 3]."""
    images = load("detectors")["cls_images" if name.endswith("cls") else "images"]
    return images.transpose(0, 2, 3, 1)


def run() -> dict[str, np.ndarray]:
    """Returns the two state dicts of the run, its optimizer, and the two steps that followed."""
    return load("reference_run")


def run_optimizer() -> dict[str, Any]:
    """Returns the optimizer as the reference saves it, with arrays in place of tensors."""
    entries: dict[int, dict[str, np.ndarray]] = {}
    for key, array in under("optimizer/", run()).items():
        number, name = key.split("/")
        entries.setdefault(int(number), {})[name] = array
    return {"state": entries, "param_groups": run_extra()["param_groups"]}


def run_extra() -> dict[str, Any]:
    return json.loads(str(run()["extra"]))


def write_run(folder: Path, torch: Any) -> tuple[Path, Path]:
    """Writes the two files of the run in the reference's layout, with pickled options."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(item) for name, item in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    extra = run_extra()
    paths = folder / "checkpoint-399.pth", folder / "checkpoint-te-399.pth"
    for branch, path in zip(("student", "teacher"), paths, strict=True):
        content = {
            "model": tensors(under(f"{branch}/", run())),
            "optimizer": tensors(run_optimizer()),
            "epoch": extra["epoch"],
            "scaler": extra["scaler"],
            "args": argparse.Namespace(**extra["args"]),
        }
        torch.save(content, path)
    return paths
