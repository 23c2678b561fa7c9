"""What all anti-spoofing runs (FAS) share: one domain is left out, the others are trained on.

"Validation-selected" means: by the loss on the test splits of the domains trained on, never on the
target. Frame 0 of these very videos is trained on, since the protocol trains on both splits, so
that this selection knows little more than that training went on. "test-oracle" is the published
one; all 20 checkpoints stay for it.

No block is dropped (drop path 0). The papers' pooling is not known here: it is that of the other
fine-tuning.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import arguments, sets, transfer

Sizes = Mapping[str, tuple[str, float, float, float]]
# The network, learning rate, weight decay and weight of the contrastive loss of each size.
FULL: Sizes = {
    "s": ("vit_small_patch16", 2.5e-5, 1e-6, 0.0),
    "b": ("vit_base_patch16", 2.5e-5, 1e-6, 0.0),
    "l": ("vit_large_patch16", 1e-5, 1e-5, 0.0),
}
ADAPTER: Sizes = {
    "s": ("vit_small_patch16", 5e-2, 1e-6, 0.1),
    "b": ("vit_base_patch16", 5e-2, 5e-5, 0.1),
    "l": ("vit_large_patch16", 1e-3, 1e-7, 0.2),
}


def get_config(sizes: Sizes, arg: str, *, protocol: str, mode: str = "full") -> ConfigDict:
    """4,000 steps of 12 faces of each domain and class, of 24 with an adapter.

    Args:
        sizes: Those that `arg` can name. The learning rate is constant, the weight decay is an L2
            term of the gradient.
        arg: The size, the target domain, "celeb" (CelebA-Spoof is trained on too) and "smoke",
            with commas between them. The default is size "b" and the first domain.
        protocol: "MCIO" or "WCS".
        mode: "full" or "adapter".

    Raises:
        ConfigError: `arg` has a word that is not known, or two sizes or domains.
    """
    targets = list(sets.DOMAINS[protocol])
    words = arguments.split(arg, (*sizes, *targets, "celeb", "smoke"))
    size = arguments.pick(words, sizes, default="b", what="size")
    target = arguments.pick(words, targets, default=targets[0], what="target domain")
    network, lr, weight_decay, weight_anchor = sizes[size]
    split = sets.leave_one_out(target, celeb="celeb" in words)
    faces = 24 if mode == "adapter" else 12
    changes: dict[str, Any] = {
        "batch_size": faces * 2 * len(split["train"]),
        "total_steps": 4000,
        "model": {"fas": True, "drop_path": 0.0},
        "loss": {"smoothing": 0.0, "weight_anchor": weight_anchor},
        "optimizer": {
            "name": "adam",
            "schedule": "constant",
            "lr": lr,
            "weight_decay": weight_decay,
            "layer_decay": 1.0,
        },
        "augment": {
            "crop": 1.0,
            "rand_magnitude": 0,
            "saturation": 0.2,
            "erase": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
        },
        "data": {"train": split["train"], "val": split["val"], "balanced": True},
        "checkpoint": {"every": 200, "keep_every": 200},
    }
    return transfer.get_config(network, smoke="smoke" in words, mode=mode, **changes)
