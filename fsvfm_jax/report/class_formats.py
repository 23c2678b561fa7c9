"""Warns of test sets whose classes differ in how their files are stored.

If all real faces are JPEG and all fake faces are PNG, a detector may have learned the traces of the
compression. The check reads only the headers of some files. A rule that knows only the format, the
JPEG tables or the size of a file guesses the class, and the check counts how often it is right.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from fsvfm_jax.data.labelled.detection_sets import DetectionSet
from fsvfm_jax.data.labelled.faces import FAKE, LabelledFaces, spaced
from fsvfm_jax.data.labelled.file_formats import FileFormat, read_format
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.report.rows import Row

MAX_FILES = 400  # of each class; evenly spaced
# A rule that is right this much more often than guessing is worth a warning.
MIN_GAIN = 0.1
# This many standard errors of guessing, because the best of several rules is taken.
ERRORS = 3

logger = logging.getLogger(__name__)

# What a rule knows of a file. Qualities and numbers of pixels are rounded: files then share them.
_RULES: dict[str, Callable[[FileFormat], Hashable]] = {
    "format": lambda one: one.kind,
    "JPEG tables": lambda one: (one.kind, one.tables),
    "JPEG quality": lambda one: (one.kind, one.quality and round(one.quality, -1)),
    "size": lambda one: one.size,
    "number of pixels": lambda one: _octaves(one.size),
}


class FormatCheck(NamedTuple):
    """How well the files of a set tell its classes apart.

    Attributes:
        rule: The rule that is right most often, such as "format".
        accuracy: Share of the files that it gets right, where both classes count alike: guessing
            gets 0.5, and so does the majority class.
        limit: The accuracy from which on the classes differ in format.
        text: How the files of each class are stored.
    """

    rule: str
    accuracy: float
    limit: float
    text: str

    def differ(self) -> bool:
        """Returns whether the classes differ in format."""
        return self.accuracy >= self.limit

    def sentence(self) -> str:
        """Returns the warning."""
        return (
            f"classes differ in format: the {self.rule} of a file alone tells real from fake in"
            f" {100 * self.accuracy:.0f} % (guessing: 50 %); {self.text}; a detector may use this"
        )


def check_formats(sets: Mapping[str, DetectionSet]) -> dict[str, FormatCheck]:
    """Returns the check of each set of files, and logs a warning where classes differ in format.

    Rendered sets have no files. A set with too few videos of a class is not checked.
    """
    found = {}
    for name, faces in sets.items():
        if not isinstance(faces, LabelledFaces):
            continue
        check = check_set(faces)
        if check is None:
            logger.info("%s has too few videos to check whether its classes differ in format", name)
            continue
        found[name] = check
        if check.differ():
            logger.warning("%s: %s", name, check.sentence())
    return found


def check_set(faces: LabelledFaces) -> FormatCheck | None:
    """Reads the headers of at most MAX_FILES evenly spaced files of each class, and checks them."""
    fake = np.array([faces.label(index) == FAKE for index in range(len(faces))], np.bool_)
    of_class = [np.flatnonzero(fake == label) for label in (False, True)]
    rows = np.concatenate([of_one[spaced(len(of_one), MAX_FILES)] for of_one in of_class])
    formats = [read_format(faces.name(int(row))) for row in rows]
    videos = np.array([faces.video(int(row)) for row in rows], np.str_)
    return compare_formats(formats, fake[rows], videos)


def compare_formats(
    formats: Sequence[FileFormat], fake: Bool[np.ndarray, " N"], videos: Shaped[np.ndarray, " N"]
) -> FormatCheck | None:
    """Returns how well formats tell classes apart, or None with fewer than two videos of a class.

    Each rule learns on one half of the videos which class a value means, and is tested on the other
    half; then the halves change places. Values of a single video count together as one value,
    because a size of one video says nothing about another.

    Args:
        formats: How each file is stored.
        fake: Whether each file is fake.
        videos: Name of the video of each file.
    """
    counts = [len(np.unique(videos[fake == label])) for label in (False, True)]
    if min(counts) < 2:
        return None
    error = np.sqrt(sum(0.25 / count for count in counts)) / 2
    limit = 0.5 + max(MIN_GAIN, ERRORS * float(error))
    if limit >= 1:  # Even a rule that is always right could be chance.
        return None
    half = _halves(fake, videos)
    scores = {
        name: np.mean([_accuracy(rule, formats, fake, videos, half == one) for one in (0, 1)])
        for name, rule in _RULES.items()
    }
    rule = max(scores, key=scores.__getitem__)  # the first and simplest of several best
    parts = [
        _storage(label, _at(formats, of_class))
        for label, of_class in (("real", ~fake), ("fake", fake))
    ]
    return FormatCheck(rule, float(scores[rule]), limit, "; ".join(parts))


def add_to_rows(rows: Sequence[Row], checks: Mapping[str, FormatCheck]) -> list[Row]:
    """Returns the rows of a table, those of checked sets with the result for table.json."""
    facts = {
        name: {
            "format_rule": check.rule,
            "format_accuracy": check.accuracy,
            "format_limit": check.limit,
            "classes_differ_in_format": "yes" if check.differ() else "no",
        }
        for name, check in checks.items()
    }
    return [{**row, **facts.get(row["dataset"], {})} for row in rows]


def lines(checks: Mapping[str, FormatCheck]) -> list[str]:
    """Returns a line of a caption for each set whose classes differ in format, in Markdown."""
    return [
        markdown_text(f"{name}: {check.sentence()}.")
        for name, check in checks.items()
        if check.differ()
    ]


def _halves(
    fake: Bool[np.ndarray, " N"], videos: Shaped[np.ndarray, " N"]
) -> Shaped[np.ndarray, " N"]:
    """Returns 0 or 1 for each file: the videos of each class are put into the halves in turn."""
    half = np.zeros(len(fake), np.int64)
    for label in (False, True):
        half[fake == label] = np.unique(videos[fake == label], return_inverse=True)[1] % 2
    return half


def _accuracy(
    rule: Callable[[FileFormat], Hashable],
    formats: Sequence[FileFormat],
    fake: Bool[np.ndarray, " N"],
    videos: Shaped[np.ndarray, " N"],
    tested: Bool[np.ndarray, " N"],
) -> float:
    """Returns the mean accuracy of both classes of the tested files; the others teach the rule."""
    values = [rule(one) for one in formats]
    taught: dict[Hashable, set[str]] = {}
    for value, video in zip(_at(values, ~tested), videos[~tested].tolist(), strict=True):
        taught.setdefault(value, set()).add(video)
    kept = [value if len(taught.get(value, ())) > 1 else "rare" for value in values]
    weights = _weights(fake, ~tested)
    by_value: dict[Hashable, float] = {}  # above 0: more of the fake class has this value
    for value, weight in zip(kept, weights.tolist(), strict=True):
        by_value[value] = by_value.get(value, 0.0) + weight
    sides = np.array([np.sign(round(by_value[value], 9)) for value in kept])
    right = np.where(sides == 0, 0.5, (sides > 0) == fake)
    return float(np.mean([right[tested & (fake == label)].mean() for label in (False, True)]))


def _weights(
    fake: Bool[np.ndarray, " N"], used: Bool[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Returns a weight of each used file; those of fake ones sum to 1, those of real ones to -1."""
    weights = np.zeros(len(fake))
    for label, sign in ((False, -1.0), (True, 1.0)):
        chosen = used & (fake == label)
        weights[chosen] = sign / chosen.sum()
    return weights


def _octaves(size: tuple[int, int] | None) -> int | None:
    """Returns the number of pixels in steps of the square root of 2."""
    return None if size is None else round(2 * np.log2(max(size[0] * size[1], 1)))


def _at(values: Sequence[Any], chosen: Bool[np.ndarray, " N"]) -> list[Any]:
    return [value for value, is_chosen in zip(values, chosen, strict=True) if is_chosen]


def _storage(label: str, formats: Sequence[FileFormat]) -> str:
    """Returns how the files of a class are stored: shares of formats, and the commonest size."""
    kinds = Counter(one.kind for one in formats)
    parts = []
    for kind, count in kinds.most_common(3):
        qualities = [one.quality for one in formats if one.kind == kind and one.quality]
        quality = f" of quality about {np.median(qualities):.0f}" if qualities else ""
        parts.append(f"{_share(count, len(formats))} {kind}{quality}")
    sizes = Counter(one.size for one in formats if one.size)
    for (width, height), count in sizes.most_common(1):
        parts.append(f"{_share(count, len(formats))} {width} x {height} pixels")
    return f"of {len(formats)} {label} files {', '.join(parts)}"


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %"
