"""Writes rendered sets as folders of pictures, and opens them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from PIL import Image

from configs import offline
from configs.transfer import face_set
from fsvfm_jax.data.labelled.detection_sets import DetectionSet, open_sets
from fsvfm_jax.data.rendered.rendered_sets import VERSION, RenderedFaces
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.progress import progress

SIZE = 64  # pixels


def faces_folder(folder: Path) -> Path:
    """Returns the folder of the rendered sets; it differs from version to version of the renderer.

    Args:
        folder: The folder of the benchmark.
    """
    return folder / f"faces-{VERSION}"


def render_sets(folder: Path, sets: Iterable[tuple[str, str]]) -> None:
    """Writes rendered sets as folders of PNG files, unless they exist.

    Args:
        folder: The folder of the benchmark.
        sets: Name and split of each set, keys of `offline.RENDERED`.

    Raises:
        ConfigError: A set exists and has another number of faces.
    """
    for name, split in sets:
        target = faces_folder(folder) / name / split
        if not target.exists():
            _render(name, split, target)
        videos, frames = offline.RENDERED[name, split]
        if (count := sum(1 for _ in target.rglob("*.png"))) != videos * frames:
            raise ConfigError(
                f"{target} has {count} faces, and configs/offline.py says {videos * frames}: give"
                " another --output"
            )


def open_split(folder: Path, names: Sequence[str], split: str) -> dict[str, DetectionSet]:
    """Opens one split of rendered sets that `render_sets` wrote.

    Args:
        folder: The folder of the benchmark.
        names: Names of the sets.
        split: "train", "val" or "test".
    """
    sets = ConfigDict({name: face_set("folder", name, split=split) for name in names})
    return open_sets(sets, (str(faces_folder(folder)),), image_size=SIZE)


def _render(name: str, split: str, target: Path) -> None:
    """Writes a rendered set as a folder, which appears only when it is complete."""
    videos, frames = offline.RENDERED[name, split]
    source = RenderedFaces(name, split, image_size=SIZE, seed=0, videos=videos, frames=frames)
    partly = target.with_name(f"{split}.part")
    for index in progress(range(len(source)), total=len(source), description=f"{name} {split}"):
        # The name is <set>/<split>/<class>/<video>_frame_<i>. The split in the name of a video
        # keeps the video apart from those of other splits.
        kind, frame = source.name(index).split("/")[2:]
        file = partly / kind / f"{split}-{frame}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[index]["image"]).save(file)
    partly.rename(target)
