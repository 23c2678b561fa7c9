"""The offline benchmark: what is rendered, how much is trained, and with which learning rates.

    python -m fsvfm_jax.benchmark transfer --output DIR

The budgets are frozen before the first comparison, together with the generator
(fsvfm_jax/data/rendered/rendered_sets.py) and the splits.
`benchmark transfer --tune` trains every method at each of RATES with the seed TUNING_SEED, which is
not among the seeds that are compared, and continues with RATES_BEYOND while the best rate of a
method is the smallest or the largest one. LEARNING_RATES are the best ones on the validation faces
(29 November 2026; docs/transfer.md has the curves).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import evaluation, sets, transfer, vit_s
from configs.transfer import face_set

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
RATES_BEYOND = (1e-6, 3e-6, 1e-5, 3e-5, 1.0, 3.0, 10.0, 30.0)
TUNING_SEED = 100
LEARNING_RATES = {
    "random frozen": 3e-2,
    "scratch": 3e-4,
    "linear": 1e-1,
    "adapter": 1e-1,
    "full": 1e-3,
}
# Random weights need more steps than pretrained ones.
EPOCHS = dict.fromkeys(LEARNING_RATES, 10) | {"scratch": 40}
# How each method trains, and whether it starts from the pretrained encoder.
METHODS = {
    "random frozen": ("linear", False),
    "scratch": ("full", False),
    "linear": ("linear", True),
    "adapter": ("adapter", True),
    "full": ("full", True),
}
TRAINED = "swap-a"
# TRAINED itself has new faces, the others unseen cameras too.
TESTED = sets.RENDERED_DEEPFAKES
SEEN_FORGERIES, UNSEEN_FORGERIES = sets.RENDERED_SEEN, sets.RENDERED_UNSEEN
SPOOFS = ("cam-m", "cam-c", "cam-i", "cam-o")
# Videos and frames of each, by set and split; half of the videos are fake.
RENDERED = {
    (TRAINED, "train"): (1600, 1),
    (TRAINED, "val"): (400, 1),
    **{(name, "test"): (200, 2) for name in (*TESTED, *SPOOFS)},
    **{(name, "train"): (120, 4) for name in SPOOFS},
    **{(name, "val"): (40, 4) for name in SPOOFS},
}


# What each row of the ablation changes of the papers' pretraining.
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {"mask.strategy": "random"},
    "fasking_i": {"mask.strategy": "fasking_i"},
    "frp": {"mask.strategy": "frp"},
    "crfr_r": {"mask.strategy": "crfr_r"},
    "crfr_p": {},
    "crfr_p, frozen teacher": {"teacher.mode": "frozen"},
    "crfr_p, no L_sim": {"loss.weight_sim": 0.0},
    "crfr_p, no L_region": {"loss.weight_region": 0.0},
}


def pretraining(variant: str = "crfr_p", *, seed: int = 0) -> ConfigDict:
    """The smoke run's tiny network on more faces.

    Args:
        variant: A row of VARIANTS.
        seed: Of the run.
    """
    c = vit_s.get_config("smoke")
    c.seed = seed
    c.update_from_flattened_dict(VARIANTS[variant])
    c.data.num_samples = 4096
    c.checkpoint.every = 10_000
    c.probe.every = 0
    c.tracking.update(log_every=100, picture_every=10_000)
    return c


def finetuning(method: str, *, seed: int, params: str, faces: str) -> ConfigDict:
    """A method of METHODS on the rendered deepfakes.

    Args:
        method: Which.
        seed: Of the run.
        params: The pretraining run.
        faces: Folder of the rendered sets.
    """
    mode, pretrained = METHODS[method]
    c = _small(mode, seed=seed, faces=faces)
    c.epochs = EPOCHS[method]
    c.init.params = params if pretrained else ""
    c.optimizer.update(lr=LEARNING_RATES[method], layer_decay=0.75 if method == "full" else 1.0)
    with c.data.unlocked():
        c.data.train = {TRAINED: face_set("folder", TRAINED, split="train")}
        c.data.val = {TRAINED: face_set("folder", TRAINED, split="val")}
    return c


def spoofing(target: str, *, seed: int, params: str, faces: str) -> ConfigDict:
    """FS-Adapter and anti-spoofing head on all domains but one; those choose the checkpoint too."""
    c = _small("adapter", seed=seed, faces=faces)
    c.init.params = params
    c.model.fas = True
    c.loss.weight_anchor = 0.1
    c.optimizer.update(name="adam", schedule="constant", lr=1e-3, weight_decay=1e-6)
    c.optimizer.layer_decay = 1.0
    sources = [name for name in SPOOFS if name != target]
    with c.data.unlocked():
        c.data.train = {name: face_set("folder", name, split="train") for name in sources}
        c.data.val = {name: face_set("folder", name, split="val") for name in sources}
    c.data.balanced = True
    c.batch_size = 72
    # All are kept, so that the oracle has something to choose from.
    c.checkpoint.keep_every = 1
    return c


def detection(*, faces: str) -> ConfigDict:
    """The test sets of the rendered deepfakes."""
    c = _for_tests(faces)
    for name in TESTED:
        c.data.test[name] = face_set("folder", name, split="test")
    c.select = ("validation",)
    return c


def spoof_detection(target: str, *, faces: str) -> ConfigDict:
    """The left-out domain; the threshold is from the others' validation videos."""
    c = _for_tests(faces)
    c.report = "spoof"
    c.select = ("validation", "last", "test-oracle")
    c.data.test[target] = face_set("folder", target, split="test")
    for name in SPOOFS:
        if name != target:
            c.data.val[name] = face_set("folder", name, split="val")
    return c


def _small(mode: str, *, seed: int, faces: str) -> ConfigDict:
    """The same network, budget and augmentation for every method."""
    c = transfer.get_config("vit_small_patch16", smoke=True, mode=mode)
    c.data.paths = (faces,)
    c.seed = seed
    c.epochs = 10
    c.batch_size = 64
    c.optimizer.update(warmup_epochs=1.0, weight_decay=0.05)
    c.loss.smoothing = 0.0
    c.augment.update(crop=0.7, rand_magnitude=0, erase=0.0, mixup=0.0, cutmix=0.0)
    c.tracking.update(log_every=50, picture_every=10_000)
    return c


def _for_tests(faces: str) -> ConfigDict:
    c = evaluation.get_config()
    c.data.paths = (faces,)
    c.batch_size = 200
    c.data.num_workers = 0
    return c
