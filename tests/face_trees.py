"""Makes trees of small synthetic faces, and packed sets of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fsvfm_jax.data.rendered.synthetic import render_face

SIZE = 32


def write_tree(
    root: Path, count: int, *, first: int = 0, suffix: str = ".png", size: int = SIZE
) -> Path:
    """Writes synthetic faces `first`, ... as images/<a|b>/<index> and parsing_maps/ beside."""
    for index in range(first, first + count):
        image, parsing_map = render_face(index, image_size=size)
        name = f"{'ab'[index % 2]}/{index:03d}"
        for folder in ("images", "parsing_maps"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "images" / f"{name}{suffix}", quality=90)
        np.save(root / "parsing_maps" / f"{name}.npy", parsing_map[None].astype(np.int8))
    return root


def flip_bit(file: Path, bit: int) -> None:
    """Flips one bit of a file."""
    with file.open("r+b") as opened:
        opened.seek(bit // 8)
        (byte,) = opened.read(1)
        opened.seek(bit // 8)
        opened.write(bytes([byte ^ (1 << bit % 8)]))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files below a folder, by path."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def start_python(code: str, *args: str, **options) -> subprocess.Popen:
    """Runs code in a new process, with the project of this checkout."""
    root = Path(__file__).parent.parent
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=root, env=environment, text=True, **options
    )
