"""Every field of a fine-tuning run, with its meaning and the papers' value for DfD; sets of faces.

A field that is None is set as its comment says; a value given explicitly wins.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs import common


def get_config(size: str, arg: str = "", *, mode: str = "full", **changes: Any) -> ConfigDict:
    """Deepfake detection (DfD) as the papers fine-tune for it.

    Args:
        size: Such as "vit_base_patch16".
        arg: What follows the colon after the config file: nothing, or "smoke".
        mode: "full", "adapter" or "linear".
        changes: What differs, such as `optimizer={"blr": 5e-5}`; `:smoke` comes after it.
    """
    if arg not in ("", "smoke"):
        raise ValueError(f"a config takes no argument {arg!r}; the only one is :smoke")
    c = ConfigDict()
    c.task = "finetune"
    c.seed = 0
    # "full": everything is trained. "adapter": an FS-Adapter and its head beside a frozen backbone.
    # "linear": the head alone.
    c.mode = mode
    c.epochs = 10
    # Optimizer updates, in place of `epochs`.
    c.total_steps = placeholder(int)
    c.batch_size = 64
    # Micro-batches per update, one after another, or "auto".
    c.accum_steps = FieldReference(1, field_type=object)

    c.model = common.encoder(size)
    # "mean" of the patch tokens and a norm of its own, or the class "token".
    c.model.pool = "mean"
    # Width over the adapter's width; 0 is no adapter. By mode: 4, or 0.
    c.model.adapter_reduction = placeholder(int)
    # The anti-spoofing head.
    c.model.fas = False
    # In the last block; grows linearly from 0. Active in a frozen backbone too; 0 switches it off.
    c.model.drop_path = 0.1

    # The pretrained encoder; heads are always new.
    c.init = ConfigDict()
    # A workdir, an exported folder, a .pth file of the reference or of MAE, a folder or safetensors
    # file of timm or Hugging Face. "": the encoder is drawn too ("scratch").
    c.init.params = ""
    # Of a workdir: "student" or "teacher".
    c.init.branch = "student"

    c.loss = ConfigDict()
    # Share of every target that is spread over all classes.
    c.loss.smoothing = 0.1
    # lambda of the real-anchor contrastive loss; only with an adapter.
    c.loss.weight_anchor = 0.0
    c.loss.temperature = 0.07
    # "real" images alone, or "all" (plain supervised contrastive, the ablation).
    c.loss.anchors = "real"

    c.optimizer = ConfigDict()
    # "adamw", or "adam" with L2 in the gradient.
    c.optimizer.name = "adamw"
    # The learning rate is blr * batch_size / 256, or `lr` if that is given.
    c.optimizer.blr = 2e-4
    c.optimizer.lr = placeholder(float)
    # "cosine" to `min_lr` after `warmup_epochs`, or "constant".
    c.optimizer.schedule = "cosine"
    c.optimizer.min_lr = 1e-6
    c.optimizer.warmup_epochs = 5.0
    c.optimizer.betas = (0.9, 0.999)
    c.optimizer.weight_decay = 0.03
    # A layer's updates times layer_decay^(layers above it); 1 treats all alike.
    c.optimizer.layer_decay = 0.6
    # Greatest global norm of the gradient; 0 clips nothing.
    c.optimizer.grad_clip = 0.0

    c.augment = ConfigDict()
    # Least share of the area that a random crop keeps; 1 crops nothing.
    c.augment.crop = 0.08
    c.augment.flip = True
    # RandAugment's magnitude, of 10, with deviation 0.5: two operations on every image. 0 is off.
    c.augment.rand_magnitude = 9
    # Every other image's saturation times 1 - x to 1 + x.
    c.augment.saturation = 0.0
    # Share of the images of which a box is filled with noise.
    c.augment.erase = 0.25
    # alpha of mixup and of cutmix: one of them on every batch. 0 is off.
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0

    c.data = ConfigDict()
    # Roots under which the sets below lie; a set is read under each of them that has it.
    c.data.paths = ()
    # By name, what `face_set` makes: sets to train on, and those that choose the checkpoint.
    c.data.train = ConfigDict()
    c.data.val = ConfigDict()
    # Every batch holds as many faces of each set and class.
    c.data.balanced = False
    # What the network sees in validation: "resize", or "resize256_crop224".
    c.data.view = "resize"
    # Of pixels in [0, 1]. Both None: from `stats_file`, or those of the starting weights; without
    # weights computed over the training sets. They are stored in the workdir.
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    c.data.stats_file = placeholder(str)
    # Samples of the stream to leave out: first and one past the last.
    c.data.skip_ranges = ()
    # Damaged faces that may be replaced by others until the run ends with an error.
    c.data.skip_corrupt = 0
    # Processes that read and decode on each host; 0 uses threads.
    c.data.num_workers = 8

    common.add_run_sections(c)
    c.checkpoint.update(every=0, keep=1, keep_best=1)

    c.lock()
    with c.data.train.unlocked(), c.data.val.unlocked():
        c.update(changes)
    if arg == "smoke":
        make_smoke(c)
    return c


def face_set(layout: str, path: str = "", *, split: str = "", **options: Any) -> ConfigDict:
    """Where faces are and which of them are meant.

    Args:
        layout: "folder", "list", "deepfakebench", "ffpp", "fas", "diff", or "rendered" (synthetic
            faces and forgeries; no files): fsvfm_jax/data/protocols.py.
        path: Under the config's `data.paths`.
        split: Such as "train".
        options: Of the layout.
    """
    if layout != "rendered":
        # What every set on disk can be told: fsvfm_jax/data/protocols.py. `labels` are pairs of a
        # class's name and "fake" or "real".
        common_options = {"labels": (), "exclude": (), "frames": 0, "real_frames": placeholder(int)}
        options = common_options | options
    return ConfigDict({"layout": layout, "path": path, "split": split, **options})


def rendered_set(name: str, split: str, *, videos: int, frames: int = 4) -> ConfigDict:
    """Synthetic faces and forgeries, half of the videos fake: fsvfm_jax/data/rendered_sets.py."""
    return face_set("rendered", split=split, name=name, videos=videos, frames=frames, seed=0)


def make_smoke(c: ConfigDict) -> None:
    """A tiny network, drawn, on rendered faces: under 3 minutes on two CPU cores, no download."""
    c.model.update(
        image_size=64, patch_size=8, width=96, depth=4, num_heads=4, dtype="float32", drop_path=0.0
    )
    # Spoofs, whatever is trained: such a network learns of deepfakes nothing in so short a time.
    names = ("cam-m", "cam-c", "cam-i") if c.model.fas else ("cam-o",)
    videos = 384 // len(names)
    with c.data.unlocked():
        c.data.train = {name: rendered_set(name, "train", videos=videos) for name in names}
        c.data.val = {name: rendered_set(name, "val", videos=videos // 4) for name in names}
    c.data.num_workers = 0
    c.epochs = 2
    c.total_steps = None
    # Divides over sets and classes.
    c.batch_size = 24
    # Few steps of what is drawn need a larger rate than many of what is pretrained.
    c.optimizer.update(lr=5e-4, warmup_epochs=0.25)
    c.checkpoint.update(every=0, keep_every=0)
    c.tracking.update(log_every=5, picture_every=20)
