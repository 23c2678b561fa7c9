"""The papers' values for DfD of every field of a fine-tuning run; sets of faces.

fsvfm_jax/config/downstream_fields.py has the meaning and the range of each field. A field that is
None is set as its meaning says; a value given explicitly wins.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs import common
from configs.face_sets import face_set as face_set
from configs.face_sets import rendered_set


def get_config(size: str, *, smoke: bool = False, mode: str = "full", **changes: Any) -> ConfigDict:
    """Deepfake detection (DfD) as the papers fine-tune for it.

    Args:
        size: Such as "vit_base_patch16".
        smoke: A tiny network on rendered faces instead, with a tiny run's rates.
        mode: Which parameters are trained, one of `fsvfm_jax.tuning.MODES`.
        changes: What differs, such as `full={"blr": 5e-5}`; `smoke` changes the result.
    """
    c = ConfigDict()
    c.task = "finetune"
    c.seed = 0
    c.mode = mode
    c.epochs = 10
    c.total_steps = placeholder(int)
    c.batch_size = 64
    c.accum_steps = FieldReference(1, field_type=object)

    c.model = common.encoder(size)
    c.model.pool = "mean"
    c.model.adapter_reduction = placeholder(int)
    c.model.fas = False
    c.model.drop_path = 0.1

    c.init = ConfigDict()
    c.init.params = ""
    c.init.branch = "student"
    c.init.entry = ""

    c.loss = ConfigDict()
    c.loss.smoothing = 0.1
    c.loss.weight_anchor = 0.0
    c.loss.temperature = 0.07
    c.loss.anchors = "real"

    c.lora = ConfigDict()
    c.lora.rank = 8
    c.lora.alpha = 8.0
    c.lora.targets = ("q", "v")

    c.partial = ConfigDict()
    c.partial.blocks = 2

    # The values of the optimizer's fields that are None, except in the modes norms and lora.
    c.full = ConfigDict()
    c.full.blr = 2e-4
    c.full.weight_decay = 0.03
    c.full.layer_decay = 0.6

    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"
    c.optimizer.blr = placeholder(float)
    c.optimizer.lr = placeholder(float)
    c.optimizer.schedule = "cosine"
    c.optimizer.min_lr = 1e-6
    c.optimizer.warmup_epochs = 5.0
    c.optimizer.betas = (0.9, 0.999)
    c.optimizer.weight_decay = placeholder(float)
    c.optimizer.layer_decay = placeholder(float)
    c.optimizer.grad_clip = 0.0

    c.augment = ConfigDict()
    c.augment.crop = 0.08
    c.augment.flip = True
    c.augment.rand_magnitude = 9
    c.augment.saturation = 0.0
    c.augment.erase = 0.25
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0

    c.data = ConfigDict()
    c.data.paths = ()
    c.data.train = ConfigDict()
    c.data.val = ConfigDict()
    c.data.balanced = False
    c.data.weights = placeholder(tuple)
    c.data.view = "resize"
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    c.data.stats_file = placeholder(str)
    c.data.skip_ranges = ()
    c.data.skip_corrupt = 0
    c.data.num_workers = 8

    common.add_run_sections(c)
    c.checkpoint.update(every=0, keep=1, keep_best=1)

    c.lock()
    with c.data.train.unlocked(), c.data.val.unlocked():
        c.update(changes)
    if smoke:
        make_smoke(c)
    return c


def make_smoke(c: ConfigDict) -> None:
    """A tiny network, drawn, on rendered faces: under 3 minutes on two CPU cores, no download."""
    make_tiny(c)
    # Spoofs, whatever is trained: such a network learns of deepfakes nothing in so short a time.
    names = ("cam-m", "cam-c", "cam-i") if c.model.fas else ("cam-o",)
    videos = 384 // len(names)
    with c.data.unlocked():
        c.data.train = {name: rendered_set(name, "train", videos=videos) for name in names}
        c.data.val = {name: rendered_set(name, "val", videos=videos // 4) for name in names}


def make_tiny(c: ConfigDict) -> None:
    """A tiny network, drawn, for a thousand faces and two CPU cores."""
    c.model.update(
        image_size=64, patch_size=8, width=96, depth=4, num_heads=4, dtype="float32", drop_path=0.0
    )
    c.data.num_workers = 0
    c.epochs = 2
    c.total_steps = None
    # Divides over sets and classes.
    c.batch_size = 24
    # Few steps of what is drawn need a larger rate than many of what is pretrained.
    c.optimizer.update(lr=5e-4, warmup_epochs=0.25)
    c.checkpoint.update(every=0, keep_every=0)
    c.tracking.update(log_every=5, picture_every=20)
