"""The papers' results for their networks, and the numbers of images and videos of their sets.

A report prints these numbers beside its own. The papers are FSFM (CVPR 2025) and FS-VFM (its
extension).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Published(NamedTuple):
    """One result of a paper.

    Attributes:
        model: Name of the model, such as "FS-VFM ViT-L".
        dataset: The test set, by the first of its names below; "DfD average" is over a paper's
            sets.
        metric: Key of a report's row: "video_auc", "frame_auc" or "hter@test".
        percent: The value as printed.
        source: The paper, with "read off a figure" if no table contains the value.
    """

    model: str
    dataset: str
    metric: str
    percent: float
    source: str


class Expected(NamedTuple):
    """The size of a set in the papers; None if no paper reports it."""

    images: int | None = None
    videos: int | None = None


# The sizes by the papers' names of the sets. For anti-spoofing sets they count the test videos.
EXPECTED = {
    "FF++ train": Expected(184_185),
    "FF++ val": Expected(35_796),
    "CDFv2": Expected(14_268),  # Only Celeb-real is real; with YouTube-real there are more images.
    "DFDC": Expected(143_941, 5_000),
    "DFDCP": Expected(17_822),
    "WDF": Expected(165_662),  # the crops that come with the set
    "DiFF T2I": Expected(43_582),
    "DiFF I2I": Expected(35_227),
    "DiFF FS": Expected(28_133),
    "DiFF FE": Expected(37_484),
    "CASIA": Expected(videos=140 + 440),
    "MSU": Expected(videos=60 + 200),
    "OULU": Expected(videos=710 + 2870),
    "Replay": Expected(videos=130 + 690),
}

# Other names of these sets, by the papers' names. The letters of the protocols are not among them,
# because they are ambiguous: C is CASIA in MCIO and CeFA in WCS.
_ALSO = {
    "CDFv2": ("Celeb-DF-v2", "Celeb-DF"),
    "DFD": ("DeepFakeDetection",),
    "DFDCP": ("DFDC-Preview",),
    "WDF": ("WildDeepfake", "Wild-Deepfake"),
    "Celeb-DF++": ("CDFpp", "CDF++"),
    "DiFF T2I": ("T2I",),
    "DiFF I2I": ("I2I",),
    "DiFF FS": ("FS",),
    "DiFF FE": ("FE",),
    "CASIA": ("CASIA-FASD", "CASIA-MFSD"),
    "MSU": ("MSU-MFSD",),
    "OULU": ("OULU-NPU",),
    "Replay": ("Idiap", "Replay-Attack", "Idiap-Replay-Attack"),
}

# The sets of each average. For DfD they are the sets that the papers' protocol names. FAS is not
# here, because each of its sets is tested by a separate run.
AVERAGED = {
    "DfD average": {"CDFv2", "DFD", "DFDC", "DFDCP", "WDF", "Celeb-DF++", "FFIW"},
    "DiFF average": {"DiFF T2I", "DiFF I2I", "DiFF FS", "DiFF FE"},
}
# The paper does not name the sets of the first two averages.
_FIGURE = dict.fromkeys(
    ("DfD average", "FAS average"), "FS-VFM, read off a figure, perhaps of other sets"
) | {"DiFF average": "FS-VFM, read off a figure"}
_SIZES = ("ViT-S", "ViT-B", "ViT-L")
# The values of the three sizes for each method, by average and metric.
_AVERAGES = {
    ("DfD average", "video_auc"): {"FS-VFM": (86.6, 89.6, 91.8), "FS-Adapter": (76.6, 84.1, 86.3)},
    ("FAS average", "hter@test"): {"FS-VFM": (5.6, 3.5, 2.3), "FS-Adapter": (11.0, 8.4, 6.1)},
    ("DiFF average", "frame_auc"): {"FS-VFM": (76.0, 89.1, 93.7), "FS-Adapter": (62.0, 75.3, 85.3)},
}

PUBLISHED = (
    Published("FSFM ViT-B", "CDFv2", "video_auc", 91.44, "FSFM"),
    Published("FSFM ViT-B", "DFDC", "video_auc", 83.47, "FSFM"),
    Published("FSFM ViT-B", "DFDCP", "video_auc", 89.71, "FSFM"),
    Published("FSFM ViT-B", "WDF", "video_auc", 86.96, "FSFM"),
    Published("FSFM ViT-B", "MSU", "hter@test", 3.78, "FSFM"),
    Published("FSFM ViT-B", "CASIA", "hter@test", 3.16, "FSFM"),
    Published("FSFM ViT-B", "Replay", "hter@test", 4.63, "FSFM"),
    Published("FSFM ViT-B", "OULU", "hter@test", 7.68, "FSFM"),
    Published("FS-VFM ViT-L", "CDFv2", "video_auc", 95.17, "FS-VFM"),
    Published("FS-VFM ViT-L", "DFD", "video_auc", 97.17, "FS-VFM"),
    Published("FS-VFM ViT-L", "DFDC", "video_auc", 87.75, "FS-VFM"),
    Published("FS-VFM ViT-L", "DFDCP", "video_auc", 93.35, "FS-VFM"),
    *(
        Published(f"{method} {size}", dataset, metric, percent, _FIGURE[dataset])
        for (dataset, metric), methods in _AVERAGES.items()
        for method, of_sizes in methods.items()
        for size, percent in zip(_SIZES, of_sizes, strict=True)
    ),
)
MODELS = tuple(dict.fromkeys(figure.model for figure in PUBLISHED))


def expected(dataset: str) -> Expected:
    """Returns the size of a set in the papers, by any of the set's names."""
    return EXPECTED.get(papers_name(dataset), Expected())


def find(model: str | None, dataset: str, metric: str) -> Published | None:
    """Returns the papers' result, or None if it is not in PUBLISHED.

    Args:
        model: Name of the model, such as "FS-VFM ViT-L"; for None the result is None.
        dataset: Any name of the set.
        metric: "video_auc", "frame_auc" or "hter@test".
    """
    key = (model, papers_name(dataset), metric)
    return next((figure for figure in PUBLISHED if figure[:3] == key), None)


def find_average(model: str | None, datasets: Iterable[str]) -> Published | None:
    """Returns the papers' average over exactly these sets, or None. It has a metric of its own.

    Args:
        model: Name of the model, such as "FS-VFM ViT-L"; for None the result is None.
        datasets: Any names of the sets.
    """
    sets = {papers_name(dataset) for dataset in datasets}
    return next(
        (x for x in PUBLISHED if x.model == model and AVERAGED.get(x.dataset) == sets), None
    )


def papers_name(dataset: str) -> str:
    """Returns the papers' name of a set, ignoring capitals, spaces, hyphens and underscores.

    Returns the name unchanged if the papers do not use the set.
    """
    return _NAMES.get(_plain(dataset), dataset)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


_NAMES = {
    _plain(name): papers
    for papers in [*EXPECTED, *_ALSO, *(figure.dataset for figure in PUBLISHED)]
    for name in (papers, *_ALSO.get(papers, ()))
}
