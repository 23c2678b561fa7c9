"""Reads the pictures that a run has written, and makes them small enough for a page.

Each picture is decoded with limits and encoded again, so nothing of a file but its pixels reaches
the page.
"""

import base64
import io
import re
from typing import NamedTuple

from PIL import Image

from fsvfm_jax.data.images import decode_image
from fsvfm_jax.errors import reason_of, shortened
from fsvfm_jax.visualize.run_folder import Folder, names_in, read_own

MAX_PICTURES = 24  # of a run
MAX_PICTURES_OF_PAGE = 72
MAX_WIDTH, MAX_HEIGHT = 1000, 4000  # pixels
MAX_FILE_BYTES = 2**25
_QUALITY = 88
_NAME = re.compile(r"([a-z_]{1,40})_([0-9]{1,15})\.png")


class Picture(NamedTuple):
    """A picture of a run.

    Attributes:
        step: Number of updates done.
        url: The picture as a `data:` address.
        width: In pixels.
        height: In pixels.
    """

    step: int
    url: str
    width: int
    height: int


def read_pictures(folder: Folder, *, runs: int, notes: list[str]) -> list[Picture]:
    """Returns pictures of a run, evenly spaced over its steps, with the first and the last.

    Args:
        folder: The content of the workdir.
        runs: Number of runs on the page.
        notes: Gets a note of pictures that are left out.
    """
    images = folder.path / "images"
    names = names_in(images, notes)
    found = {int(match[2]): name for name in sorted(names) if (match := _NAME.fullmatch(name))}
    if len(found) < len(names):
        others = len(names) - len(found)
        notes.append(f"images/: {others:,} entries are no picture of a step, or a second one")
    steps = evenly(sorted(found), most_of_run(runs))
    if len(steps) < len(found):
        notes.append(
            f"images/: {len(steps)} of {len(found):,} pictures are shown, evenly spaced, with the"
            " first and the last"
        )
    pictures = []
    for step in steps:
        try:
            content = read_own(images / found[step], max_bytes=MAX_FILE_BYTES)
            pictures.append(_picture(step, content))
        except (OSError, ValueError) as error:
            reason = shortened(reason_of(error))
            notes.append(f"images/{found[step]} is left out: {reason}")
    return pictures


def most_of_run(runs: int) -> int:
    """Returns the largest number of pictures of each run, if there are so many runs."""
    return max(2, min(MAX_PICTURES, MAX_PICTURES_OF_PAGE // runs))


def evenly(steps: list[int], most: int) -> list[int]:
    """Returns at most so many (2 or more) of the steps, evenly spaced, with the first and last."""
    if len(steps) <= most:
        return steps
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def _picture(step: int, content: bytes) -> Picture:
    """Raises ValueError if the content is no picture that a run can have written."""
    if not content.startswith(b"\x89PNG"):
        raise ValueError("it is no PNG file")
    image = Image.fromarray(decode_image(content))
    image.thumbnail((MAX_WIDTH, MAX_HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY)
    url = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(step, url, *image.size)
