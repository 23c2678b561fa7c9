"""The papers' sets: what of them is used, and where they are looked for under `data.paths`.

    FF++/{train,val}.json                         and FF++/{original,manipulated}_sequences/
    DeepfakeBench/<set>.json                      and the frames that it names, from its folder on
    <set>/test/{real,fake}/**                     such as WildDeepfake
    DiFF/test_subsets/<subset>/test/{real,fake}/**
    {MCIO,WCS}/frame/<domain>/{train,test}/{real,fake}/**, and txt/ beside frame/

    DF40/<method>_{ff,cdf}.json                   and the frames that it names, from its folder on

Symbolic links work too. Flags name a set that lies elsewhere or has another name, such as
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
# The same sets as their authors publish them, with frames in a folder for each video.
PUBLIC: dict[str, dict[str, Any]] = {
    "CDFv2": {"layout": "celebdf", "path": "Celeb-DF-v2", "split": "test"},
    "DFD": {
        "layout": "folders",
        "path": "FaceForensics++",
        "real": ("original_sequences/actors/c23/frames",),
        "fake": ("manipulated_sequences/DeepFakeDetection/c23/frames",),
    },
    "DFDC": {"layout": "list", "path": "DFDC/test", "list_file": "labels.csv"},
    "DFDCP": {"layout": "dfdc", "path": "DFDCP", "split": "test", "list_file": "dataset.json"},
    "WDF": {
        "layout": "folders",
        "path": "deepfake_in_the_wild",
        "split": "test",
        "real": ("real_{split}",),
        "fake": ("fake_{split}",),
    },
    "CDFpp": {"layout": "celebdf", "path": "Celeb-DF++", "split": "test"},
    "FFIW": {
        "layout": "folders",
        "path": "FFIW10K-v1-release-test",
        "real": ("source",),
        "fake": ("target",),
    },
}
# Rendered sets, each with a camera of its own. The forgeries of the first three are among those of
# "swap-a"; those of the others are not.
RENDERED_SEEN = ("swap-a", "swap-b", "warp-c")
RENDERED_UNSEEN = ("texture-d", "upsample-e")
RENDERED_DEEPFAKES = (*RENDERED_SEEN, *RENDERED_UNSEEN)
# The methods of DF40 by kind, as its lists call them: face swaps, reenactment, synthesis of whole
# faces. Those of "unknown" are tested on only, and have real faces of their own.
DF40 = {
    "fs": (
        *("fsgan", "faceswap", "simswap", "inswap", "blendface", "uniface", "mobileswap", "e4s"),
        "facedancer",
    ),
    "fr": (
        *("fomm", "facevid2vid", "wav2lip", "MRAA", "one_shot_free", "pirender", "tpsm", "lia"),
        *("danet", "sadtalker", "mcnet", "hyperreenact"),
    ),
    "efs": (
        *("VQGAN", "StyleGAN2", "StyleGAN3", "StyleGANXL", "sd2.1", "ddim", "rddm", "pixart"),
        *("DiT", "SiT"),
    ),
    "unknown": (
        *("deepfacelab", "heygen", "whichisreal", "MidJourney", "stargan", "starganv2"),
        *("styleclip", "e4e", "CollabDiff"),
    ),
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
        layout: By default "deepfakebench" for the sets that DeepfakeBench has, "folder" for others;
            "public" for the structure that the authors of each set publish.
    """
    found = {}
    for name in names:
        if layout == "public":
            found[name] = _public(name)
            continue
        folder = DEEPFAKES[name]
        options: dict[str, Any] = {"split": "test", "frames": 32}
        if name.startswith("CDF"):
            options["exclude"] = ("YouTube-real",)
        of_set = layout or ("folder" if name in ("WDF", "CDFpp", "FFIW") else "deepfakebench")
        if of_set == "deepfakebench":
            folder, options["list_file"] = "DeepfakeBench", f"{folder}.json"
        found[name] = face_set(of_set, folder, **options)
    return found


def _public(name: str) -> ConfigDict:
    options = {"frames": 32} | PUBLIC[name]
    if name.startswith("CDF"):
        options["exclude"] = ("YouTube-real",)
    if name == "DFDC":
        options["labels"] = (("0", "real"), ("1", "fake"))
    return face_set(options.pop("layout"), options.pop("path"), **options)


def df40(methods: Iterable[str], split: str, *, domain: str = "ff") -> Sets:
    """A set for each method of DF40, 32 frames of a video.

    Args:
        methods: Of DF40.
        split: "train", "val" or "test".
        domain: "ff" or "cdf", the faces that were forged; the methods of "unknown" have one alone.
    """
    found = {}
    for method in methods:
        ending = "" if method in DF40["unknown"] else f"_{domain}"
        options = {"list_file": f"{method}{ending}.json", "frames": 32}
        found[field_name(method)] = face_set("deepfakebench", "DF40", split=split, **options)
    return found


def field_name(method: str) -> str:
    """The name of a method as a flag can hold it."""
    return method.replace(".", "")


def forgeries() -> dict[str, tuple[str, ...]]:
    """For each manipulation or generator that can be left out, all those of its kind."""
    kinds = (FF_METHODS, *(DF40[kind] for kind in ("fs", "fr", "efs")))
    return {method: methods for methods in kinds for method in methods}


def without(method: str) -> dict[str, Any]:
    """All forgeries of a kind but one, to train on and to validate; see `forgeries`.

    Returns:
        What differs in `config.data`. No face of the method is in the sets, and neither does it
        choose the checkpoint.
    """
    others = [other for other in forgeries()[method] if other != method]
    if method in FF_METHODS:
        return ffpp(methods=tuple(others), real_frames=32 * len(others))
    return {split: df40(others, split) for split in ("train", "val")}


def only(method: str) -> Sets:
    """The test set of one manipulation or generator, with the real faces of its test split."""
    if method in FF_METHODS:
        of_one = {"methods": (method,), "frames": 32}
        return {method: face_set("ffpp", "FF++", split="test", **of_one)}
    return df40((method,), "test")


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
    """Rendered sets by name; by default few videos, as in `:smoke`."""
    return {name: rendered_set(name, split, videos=videos) for name in names}
