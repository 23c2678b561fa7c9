"""The papers' sets: what of them is used, and where they are looked for under `data.paths`.

    FF++/{train,val}.json                         and FF++/{original,manipulated}_sequences/
    DeepfakeBench/<set>.json                      and the frames that it names, from its folder on
    <set>/test/{real,fake}/**                     such as WildDeepfake
    DiFF/test_subsets/<subset>/test/{real,fake}/**
    {MCIO,WCS}/frame/<domain>/{train,test}/{real,fake}/**, and txt/ beside frame/

Symbolic links do; what lies elsewhere or is called otherwise can be told by flags, such as
--config.data.test.WDF.path=DIR. docs/transfer.md says what counts as a video.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs.transfer import face_set, rendered_set
from fsvfm_jax.data.labelled.layouts import FF_METHODS

# By the papers' names, as far as a flag can hold them, what DeepfakeBench calls them.
DEEPFAKES = {
    "CDFv2": "Celeb-DF-v2",
    "DFD": "DeepFakeDetection",
    "DFDC": "DFDC",
    "DFDCP": "DFDCP",
    "WDF": "WildDeepfake",
    "CDFpp": "Celeb-DF++",
    "FFIW": "FFIW",
}
DIFF = ("T2I", "I2I", "FS", "FE")
# Of each protocol the domains, by what follows a config's colon: the paper's name, the folder.
DOMAINS = {
    "MCIO": {
        "M": ("MSU", "msu"),
        "C": ("CASIA", "casia"),
        "I": ("Replay", "replay"),
        "O": ("OULU", "oulu"),
    },
    "WCS": {"wmca": ("WMCA", "wmca"), "cefa": ("CeFA", "cefa"), "surf": ("SURF", "surf")},
}

Sets = dict[str, ConfigDict]


def ffpp(*, methods: Sequence[str] = FF_METHODS, real_frames: int = 128) -> dict[str, Any]:
    """FaceForensics++ c23 to train on and to validate: 32 frames of a fake video.

    Returns:
        What differs in `config.data`: both sets, and the view by which the authors' code validates,
        which is not the one by which the papers' tables were scored ("resize").
    """
    frames = {"frames": 32, "real_frames": real_frames}
    split_sets = {
        split: {"FFpp": face_set("ffpp", "FF++", split=split, methods=methods, **frames)}
        for split in ("train", "val")
    }
    return {**split_sets, "view": "resize256_crop224"}


def deepfakes(names: Iterable[str], *, layout: str = "") -> Sets:
    """Test sets of DfD, 32 frames of a video; of Celeb-DF only Celeb-real counts as real.

    Args:
        names: Of DEEPFAKES.
        layout: By default "deepfakebench" for the sets that DeepfakeBench has, "folder" for others.
    """
    found = {}
    for name in names:
        folder = DEEPFAKES[name]
        options: dict[str, Any] = {"split": "test", "frames": 32}
        if name.startswith("CDF"):
            options["exclude"] = ("YouTube-real",)
        of_set = layout or ("folder" if name in ("WDF", "CDFpp", "FFIW") else "deepfakebench")
        if of_set == "deepfakebench":
            folder, options["list_file"] = "DeepfakeBench", f"{folder}.json"
        found[name] = face_set(of_set, folder, **options)
    return found


def leave_one_out(target: str, *, celeb: bool = False) -> dict[str, Sets]:
    """One domain to test on ("test"); the others of its protocol to train on and for thresholds.

    Args:
        target: Of DOMAINS.
        celeb: CelebA-Spoof is trained on too.

    Returns:
        "test": both frames of the target's test split. "train": frame 0 of both splits of each of
        the others. "val": both frames of their test splits.
    """
    protocol = next(name for name, domains in DOMAINS.items() if target in domains)
    domains = DOMAINS[protocol]

    def of(key: str, split: str, frames: int = 0) -> Sets:
        name, folder = domains[key]
        return {name: face_set("fas", protocol, split=split, subset=folder, frames=frames)}

    found = {"train": {}, "val": {}, "test": of(target, "test")}
    for source in domains:
        if source != target:
            found["train"] |= of(source, "", frames=1)
            found["val"] |= of(source, "test")
    if celeb:
        extra = face_set("fas", protocol, split="train", subset="celeb", frames=1)
        found["train"]["CelebASpoof"] = extra
    return found


def rendered(names: Iterable[str], split: str, *, videos: int = 16) -> Sets:
    """Rendered sets by name; few videos, as `:smoke` takes them, unless told otherwise."""
    return {name: rendered_set(name, split, videos=videos) for name in names}
