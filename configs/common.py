"""The papers' values of all fields of pretraining, and the fields that all runs share.

fsvfm_jax/config/fields.py describes the meaning and the range of each field, and what None stands
for. For some fields None means that `recipe` sets them. A value that the user sets takes
precedence.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs import arguments
from configs.face_sets import rendered_set
from fsvfm_jax.models.vit import SIZES


def get_config(size: str, arg: str = "") -> ConfigDict:
    """Returns the papers' recipe for a size of `models.vit.SIZES`.

    Args:
        size: Name of the size, such as "vit_base_patch16".
        arg: The text after the colon in --config=FILE:ARG: empty, or "smoke".

    Raises:
        ConfigError: `arg` is neither empty nor "smoke".
    """
    words = arguments.split(arg, ("smoke",))
    c = ConfigDict()
    c.task = "pretrain"
    c.seed = 0
    c.recipe = "paper"
    c.epochs = 600
    c.schedule_epochs = placeholder(int)
    c.batch_size = 4096
    # Example: 8 devices with memory for 128 images each need 4, because 4096 = 8 x 128 x 4.
    c.accum_steps = FieldReference(1, field_type=object)

    c.model = encoder(size)
    c.model.decoder_width = 512
    c.model.decoder_depth = 8
    c.model.decoder_num_heads = 16
    c.model.rep_decoder_depth = 2
    c.model.rep_decoder_num_heads = 16
    c.model.projection_dim = 256
    c.model.projection_hidden = 4096
    c.model.rep_pos = placeholder(str)

    c.init = ConfigDict()
    c.init.params = ""
    c.init.branch = "student"
    c.init.entry = ""
    c.init.teacher = "student"

    c.mask = ConfigDict()
    c.mask.strategy = "crfr_p"
    c.mask.mask_ratio = 0.75
    c.mask.region_choice = placeholder(str)
    c.mask.region_group_size = 256

    c.loss = ConfigDict()
    c.loss.norm_pix = True
    c.loss.weight_region = 0.007
    c.loss.weight_sim = 0.1
    c.loss.similarity = "simsiam"

    c.teacher = ConfigDict()
    c.teacher.mode = placeholder(str)
    c.teacher.momentum = 0.996

    c.optimizer = ConfigDict()
    c.optimizer.blr = 1.5e-4
    c.optimizer.lr = placeholder(float)
    c.optimizer.min_lr = 0.0
    c.optimizer.warmup_epochs = 40
    c.optimizer.betas = (0.9, 0.95)
    c.optimizer.weight_decay = 0.05
    c.optimizer.grad_clip = placeholder(float)

    c.data = ConfigDict()
    c.data.source = "folder"
    c.data.paths = ()
    c.data.split = "train"
    c.data.weights = ()
    c.data.augment = False
    c.data.num_samples = 2048
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    c.data.stats_file = placeholder(str)
    c.data.skip_ranges = ()
    c.data.skip_corrupt = 0
    c.data.num_workers = 8

    # What has been learnt, measured on the frozen features without any training. Your own labelled
    # sets take the place of the rendered ones, as in configs/finetune/folder.py.
    c.probe = ConfigDict()
    c.probe.every = 1000
    c.probe.faces = 512
    c.probe.branch = "student"
    c.probe.k = 20
    c.probe.paths = ()
    for split in ("train", "test"):
        c.probe[split] = ConfigDict({"swap-a": rendered_set("swap-a", split, videos=512, frames=1)})

    c.monitor = ConfigDict()
    c.monitor.collapse = "warn"

    add_run_sections(c)
    if "smoke" in words:
        _make_smoke(c)
    c.lock()
    return c


def encoder(size: str) -> ConfigDict:
    """Returns the fields of the encoder, which every task has."""
    model = ConfigDict()
    model.image_size = 224
    model.update(SIZES[size])  # width, depth, num_heads, patch_size
    model.dtype = "bfloat16"
    model.attention = placeholder(str)
    model.remat = "none"
    model.unroll = placeholder(int)
    # None: those of the starting weights, or else of the papers' network.
    model.class_token = placeholder(bool)
    model.registers = placeholder(int)
    model.positions = placeholder(str)
    model.prefix_positions = placeholder(int)
    model.pre_norm = placeholder(bool)
    model.layer_scale = placeholder(bool)
    model.activation = placeholder(str)
    model.layer_norm_epsilon = placeholder(float)
    model.patch_bias = placeholder(bool)
    model.key_bias = placeholder(bool)
    model.pool_heads = placeholder(int)
    return model


def add_run_sections(c: ConfigDict) -> None:
    """Adds the fields that every training run has to `c`."""
    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1

    c.compiler_options = placeholder(ConfigDict)

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 1000
    c.checkpoint.keep = 3
    c.checkpoint.keep_every = 0
    c.checkpoint.keep_best = 0

    c.resume = ConfigDict()
    c.resume.accept_changes = False
    c.resume.step = placeholder(int)

    c.max_skipped_steps = 3

    c.watchdog = ConfigDict()
    c.watchdog.start_seconds = 7200
    c.watchdog.step_seconds = 1800
    c.watchdog.save_seconds = 3600

    c.tracking = ConfigDict()
    c.tracking.log_every = 50
    c.tracking.picture_every = 1000
    c.tracking.also = ()


def _make_smoke(c: ConfigDict) -> None:
    """Changes `c` to a tiny network on synthetic faces: under 3 minutes on two CPU cores."""
    c.model.update(
        image_size=64,
        patch_size=8,
        width=96,
        depth=4,
        num_heads=4,
        decoder_width=64,
        decoder_depth=2,
        decoder_num_heads=4,
        rep_decoder_depth=1,
        rep_decoder_num_heads=4,
        projection_dim=32,
        projection_hidden=128,
        dtype="float32",
    )
    c.data.update(source="synthetic", num_samples=1024, num_workers=0)
    c.epochs = 10
    c.batch_size = 32
    # A run of a few hundred steps needs a larger learning rate than a run of several 100,000.
    c.optimizer.update(blr=8e-3, warmup_epochs=1)
    c.teacher.momentum = 0.99
    c.checkpoint.every = 100
    c.tracking.update(log_every=10, picture_every=100)
    c.probe.update(every=160, faces=128)
