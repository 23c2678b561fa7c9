"""What all anti-spoofing runs (FAS) share: one domain is left out, the others are trained on.

"Validation-selected" means: by the loss on the test splits of the domains trained on, never on the
target. Frame 0 of these very videos is trained on, since the protocol trains on both splits, so
that this selection knows little more than that training went on. "test-oracle" is the published
one; all 20 checkpoints stay for it.

No block is dropped (drop path 0). The papers' pooling is not known here: it is that of the other
fine-tuning.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(
    size: str,
    arg: str,
    *,
    protocol: str,
    lr: float,
    weight_decay: float,
    mode: str = "full",
    weight_anchor: float = 0.0,
) -> ConfigDict:
    """4,000 steps of 12 faces of each domain and class, of 24 with an adapter.

    Args:
        size: Such as "vit_base_patch16".
        arg: The target domain, "celeb" (CelebA-Spoof is trained on too), "smoke"; with commas.
        protocol: "MCIO" or "WCS".
        lr: Constant.
        weight_decay: L2 in the gradient.
        mode: "full" or "adapter".
        weight_anchor: lambda, with an adapter.
    """
    targets = list(sets.DOMAINS[protocol])
    given = sets.words(arg, (*targets, "celeb", "smoke"))
    split = sets.leave_one_out(sets.pick_target(given, targets), celeb="celeb" in given)
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
    return transfer.get_config(size, "smoke" if "smoke" in given else "", mode=mode, **changes)
