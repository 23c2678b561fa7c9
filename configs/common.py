"""Every field of a pretraining run, with its meaning and the papers' value; those of all runs last.

A field that is None is set by `recipe`, or as its comment says; a value given explicitly wins.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from fsvfm_jax.models.vit import SIZES


def get_config(size: str, arg: str = "") -> ConfigDict:
    """The papers' recipe for a size of `models.vit.SIZES`.

    Args:
        size: Such as "vit_base_patch16".
        arg: What follows the colon after the config file: nothing, or "smoke".
    """
    if arg not in ("", "smoke"):
        raise ValueError(f"a config takes no argument {arg!r}; the only one is :smoke")
    c = ConfigDict()
    c.task = "pretrain"
    c.seed = 0
    # "paper": as the papers describe the method. "released": as the released weights were made
    # (frozen teacher, zero positions in the representation decoder, a region per group of images,
    # no clipping, a schedule of 800 epochs stopped early).
    c.recipe = "paper"
    c.epochs = 600
    # Epochs over which learning rate and teacher momentum run. By recipe: `epochs`, or 800.
    c.schedule_epochs = placeholder(int)
    # Images per optimizer update, over all devices and micro-batches.
    c.batch_size = 4096
    # Micro-batches per update, one after another: 4096 = 8 devices x 128 x 4. "auto": the fewest
    # that fit into the devices' memory.
    c.accum_steps = FieldReference(1, field_type=object)

    c.model = encoder(size)
    c.model.decoder_width = 512
    c.model.decoder_depth = 8
    c.model.decoder_num_heads = 16
    c.model.rep_decoder_depth = 2
    c.model.rep_decoder_num_heads = 16
    c.model.projection_dim = 256
    c.model.projection_hidden = 4096
    # Positions of the representation decoder: "sincos" or "zeros". By recipe.
    c.model.rep_pos = placeholder(str)

    # Weights to start from, and only they: the run begins at step 0.
    c.init = ConfigDict()
    # A workdir, an exported folder, a .pth file of the reference or of MAE, a folder or file of
    # timm, Hugging Face or Google (docs/weights.md). What they lack is drawn. "": everything is.
    c.init.params = ""
    # Of a workdir, or of a file that has both: "student" or "teacher".
    c.init.branch = "student"
    # Of a file with several networks, which: such as "model_ema". "": the raw weights.
    c.init.entry = ""
    # The teacher starts as a copy of the "student", or from the "checkpoint".
    c.init.teacher = "student"

    c.mask = ConfigDict()
    # "crfr_p", "crfr_r", "frp", "fasking_i" or "random".
    c.mask.strategy = "crfr_p"
    c.mask.mask_ratio = 0.75
    # The covered region is drawn "per_image" or "per_group" of consecutive images. By recipe.
    c.mask.region_choice = placeholder(str)
    c.mask.region_group_size = 256

    c.loss = ConfigDict()
    # Targets are pixels normalised per patch.
    c.loss.norm_pix = True
    c.loss.weight_region = 0.007
    c.loss.weight_sim = 0.1
    # "simsiam", "byol", "infonce" or "mocov3".
    c.loss.similarity = "simsiam"

    c.teacher = ConfigDict()
    # "ema" or "frozen". By recipe.
    c.teacher.mode = placeholder(str)
    # At step 0; rises along a cosine to 1.
    c.teacher.momentum = 0.996

    c.optimizer = ConfigDict()
    # The learning rate is blr * batch_size / 256, or `lr` if that is given.
    c.optimizer.blr = 1.5e-4
    c.optimizer.lr = placeholder(float)
    c.optimizer.min_lr = 0.0
    c.optimizer.warmup_epochs = 40
    c.optimizer.betas = (0.9, 0.95)
    c.optimizer.weight_decay = 0.05
    # Greatest global norm of the gradient; 0 clips nothing. By recipe: 1, or 0.
    c.optimizer.grad_clip = placeholder(float)

    c.data = ConfigDict()
    # "folder" (<path>/images/** and <path>/parsing_maps/**.npy), "tfds" (sets packed by
    # `python -m fsvfm_jax.prepare`, and folders among them) or "synthetic".
    c.data.source = "folder"
    # One or several, read as one set.
    c.data.paths = ()
    # Of packed sets.
    c.data.split = "train"
    # How often faces of each path come, in proportion, such as "(2, 1)"; an epoch is as many faces
    # as there are in all. (): every face of all of them once per epoch.
    c.data.weights = ()
    # Random crop (0.2 to 1 of the area) and mirroring, of image and map alike.
    c.data.augment = False
    # Size of the synthetic set.
    c.data.num_samples = 2048
    # Of the set's pixels in [0, 1]. Both None: from `stats_file`, or else computed over the set
    # and stored in the workdir.
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    # JSON {"mean": [r, g, b], "std": [r, g, b]}.
    c.data.stats_file = placeholder(str)
    # Samples of the stream to leave out, such as "((4096, 8192),)": first and one past the last.
    c.data.skip_ranges = ()
    # Damaged faces that may be replaced by others until the run ends with an error; they are named
    # in the log and counted in the metrics.
    c.data.skip_corrupt = 0
    # Processes that read and decode on each host; 0 uses threads.
    c.data.num_workers = 8

    add_run_sections(c)
    if arg == "smoke":
        _make_smoke(c)
    c.lock()
    return c


def encoder(size: str) -> ConfigDict:
    """What every network has, whatever it is for."""
    model = ConfigDict()
    model.image_size = 224
    model.update(SIZES[size])  # width, depth, num_heads, patch_size
    # Compute dtype: "bfloat16" or "float32". Parameters, losses and optimizer are float32 always.
    model.dtype = "bfloat16"
    # "xla", or "cudnn" on NVIDIA GPUs with bfloat16. By kind of device: fsvfm_jax/backends.py.
    model.attention = placeholder(str)
    # What each block computes again in the backward pass, to save memory: "none", "dots" (all but
    # its matrix products), "full" (everything: about a third more time).
    model.remat = "none"
    # Blocks per iteration of the compiled loop over the depth.
    model.unroll = 1
    return model


def add_run_sections(c: ConfigDict) -> None:
    """What every training run has, whatever it trains."""
    # The devices: `data` copies of the state, each split over `fsdp` devices. One of the two may be
    # -1, the rest of the devices. fsdp=1 is plain data parallelism, right for S, B and L; raise
    # fsdp when the state does not fit.
    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1

    # XLA's options for the training step, such as "{'xla_gpu_enable_triton_gemm': False}". By kind
    # of device: fsvfm_jax/backends.py.
    c.compiler_options = placeholder(ConfigDict)

    c.checkpoint = ConfigDict()
    # Steps between checkpoints, 0 for one after every epoch; the last step is always saved.
    c.checkpoint.every = 1000
    # Newest checkpoints to keep.
    c.checkpoint.keep = 3
    # Steps of which every multiple is kept for good; 0 keeps none beyond the newest.
    c.checkpoint.keep_every = 0
    # Of those with the lowest validation loss (in pretraining: mean `loss` since the checkpoint
    # before), so many are kept too.
    c.checkpoint.keep_best = 0

    c.resume = ConfigDict()
    # Go on although the data, their order, the batch or the masks are not those that the workdir
    # was trained with; what changed is noted in its fingerprint.json.
    c.resume.accept_changes = False
    # The checkpoint to go back to, once: newer ones are moved to the folder quarantine. Given again
    # with the same `data.skip_ranges`, as a restart does, it changes nothing.
    c.resume.step = placeholder(int)

    # Steps in a row whose loss or gradient is not finite, which change nothing but the position in
    # the data; one more ends the run.
    c.max_skipped_steps = 3

    # Seconds after which the run is taken to hang: it prints all threads' stacks and ends with exit
    # code 71. 0 is no limit.
    c.watchdog = ConfigDict()
    # From the start to the first step, computing mean and std of the set excepted; it compiles.
    c.watchdog.start_seconds = 7200
    c.watchdog.step_seconds = 1800
    # Until a checkpoint is written and its manifest, in the background.
    c.watchdog.save_seconds = 3600

    c.tracking = ConfigDict()
    # Steps between logged lines.
    c.tracking.log_every = 50
    # Steps between pictures: of reconstructions, or of augmented faces.
    c.tracking.picture_every = 1000


def _make_smoke(c: ConfigDict) -> None:
    """A tiny network on synthetic faces: under 3 minutes on two CPU cores, no download."""
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
    # A few hundred steps need a larger rate than a few hundred thousand.
    c.optimizer.update(blr=8e-3, warmup_epochs=1)
    c.teacher.momentum = 0.99
    c.checkpoint.every = 100
    c.tracking.update(log_every=10, picture_every=100)
