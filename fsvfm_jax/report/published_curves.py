"""The authors' training curves: means of each epoch, and the settings of the runs behind them.

Both runs pretrained a ViT-B. The authors' `loss_sim` is not here, because every process of a run
had a frozen teacher of its own, which lowers the size of that loss.
"""

from typing import Any, NamedTuple

# The fields of a config that must have these values in a run that is compared.
SCHEDULE: dict[str, Any] = {
    "batch_size": 4096,
    "schedule_epochs": 800,  # The authors stopped the run of 400 epochs early.
    "optimizer.warmup_epochs": 40,
    "optimizer.min_lr": 0.0,
}
METHOD: dict[str, Any] = {
    "init.params": "",
    "loss.norm_pix": True,
    "mask.strategy": "crfr_p",
    "mask.mask_ratio": 0.75,
    "model.width": 768,
    "model.depth": 12,
    "model.image_size": 224,
    "model.patch_size": 16,
}
PEAK_LEARNING_RATE = 1.5e-4 * 4096 / 256


class Means(NamedTuple):
    """The means of one epoch."""

    loss_rec: float
    loss_region: float


class Curve(NamedTuple):
    """One of the authors' runs.

    Attributes:
        title: The data set and the network, for a legend.
        faces: Number of faces in the set; None if it is not known.
        mean: Mean of the set's pixels, as red, green and blue in 0 to 1; None if it is not known.
        std: Standard deviation of the set's pixels; None if it is not known.
        epochs: The means by epoch; the first epoch is 0.
    """

    title: str
    faces: int | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    epochs: dict[int, Means]


CURVES = {
    "vggface2_b": Curve(
        "the authors' ViT-B on VGGFace2",
        faces=2_973_696,
        mean=(0.54822, 0.42341, 0.36547),
        std=(0.27892, 0.24385, 0.23494),
        epochs={
            0: Means(0.8321, 0.9340),
            4: Means(0.3946, 0.5623),
            9: Means(0.3035, 0.4349),
            19: Means(0.2631, 0.3745),
            39: Means(0.2470, 0.3480),
            99: Means(0.2274, 0.3011),
            199: Means(0.2224, 0.2903),
            299: Means(0.2170, 0.2796),
            399: Means(0.2127, 0.2730),
        },
    ),
    "youtubefaces_b": Curve(
        "the authors' ViT-B on YouTubeFaces",
        faces=None,
        mean=None,
        std=None,
        epochs={
            0: Means(0.9441, 0.9963),
            39: Means(0.1108, 0.1550),
            99: Means(0.0722, 0.0983),
            199: Means(0.0588, 0.0785),
            399: Means(0.0423, 0.0533),
        },
    ),
}
