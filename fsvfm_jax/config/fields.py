"""Every field of a config, with its type, range and meaning: of all runs, and of pretraining.

`configs/` has the values, and `downstream_fields.py` the fields of fine-tuning and evaluation.
A table has the fields of one task by their paths. An `optional` field may be None: its meaning says
what decides then. Both ends of a range are included.
"""

from fsvfm_jax.config.checks import (
    Fields,
    choice,
    count_or_auto,
    devices,
    flag,
    number,
    optional,
    ranges,
    settings,
    several,
    text,
    under,
    whole,
)
from fsvfm_jax.data.moments import MIN_STD
from fsvfm_jax.losses import SIMILARITIES
from fsvfm_jax.masking import REGION_CHOICES, STRATEGIES
from fsvfm_jax.models import CHOICES

TASKS = ("pretrain", "finetune", "evaluate")
BRANCHES = ("student", "teacher")
MAX_EPOCHS = 10**9
MAX_SECONDS = 10**8  # about three years
MAX_WIDTH = 2**16
MAX_DEPTH = 1024
MAX_SIDE = 2**14
# A larger decay rate is 1 in float32, and Adam divides by 1 minus its powers.
MAX_BETA = 0.999999

# Sections of several tasks.
TASK: Fields = {"task": choice("what the program does", TASKS)}
MESH: Fields = {
    "mesh.data": devices("copies of the training state; -1 is the rest of the devices"),
    # Plain data parallelism is right for S, B and L; more for a state that does not fit.
    "mesh.fsdp": devices("devices over which each copy is split; 1 is plain data parallelism"),
}
# Without them: those of the starting weights (in fine-tuning and evaluation), or computed once over
# the data and kept in the workdir.
STATS: Fields = {
    "data.mean": optional(several("mean of the pixels in 0 to 1", number("", 0, 1), length=3)),
    "data.std": optional(several("deviation of the pixels", number("", MIN_STD, 1), length=3)),
    "data.stats_file": optional(text('JSON file {"mean": [r, g, b], "std": [r, g, b]}')),
}
READING: Fields = {
    "data.paths": several("folders of the data, one or several", text("a folder")),
    "data.num_workers": whole("processes that read, on each host; 0 uses threads", 0, 1024),
}
ENCODER: Fields = under(
    "model",
    {
        "image_size": whole("side of an image in pixels, a multiple of patch_size", 1, MAX_SIDE),
        "patch_size": whole("side of a patch in pixels", 1, MAX_SIDE),
        "width": whole("channels of a token, a multiple of num_heads and of 4", 1, MAX_WIDTH),
        "depth": whole("number of blocks", 1, MAX_DEPTH),
        "num_heads": whole("attention heads", 1, MAX_WIDTH),
        "dtype": choice("type of the computation; parameters are float32", CHOICES["dtype"]),
        "attention": optional(
            choice("kernel; None chooses by kind of device, see backends.py", CHOICES["attention"])
        ),
        # "dots": all but the matrix products; "full": everything, about a third more time.
        "remat": choice("what the backward pass computes again, to save memory", CHOICES["remat"]),
        "unroll": whole("blocks per iteration of the compiled loop over the depth", 1, MAX_DEPTH),
    },
)

# What every training run has.
RUN: Fields = {
    **TASK,
    "seed": whole("seed of weights, order, masks and augmentation", 0, 2**31 - 1),
    "batch_size": whole("images per update, over all devices and micro-batches", 1),
    "accum_steps": count_or_auto("micro-batches per update; 'auto' is the fewest that fit"),
    "max_skipped_steps": whole("updates in a row that may be not finite; one more ends the run"),
    "compiler_options": optional(
        settings("XLA's options; None chooses by kind of device, see backends.py")
    ),
    **MESH,
    **ENCODER,
    **STATS,
    **READING,
    **under(
        "optimizer",
        {
            "blr": number("learning rate for a batch of 256 images", 0, 1000),
            "lr": optional(number("learning rate, in place of blr", 0, 1000, above=True)),
            "min_lr": number("learning rate at the end of the cosine", 0, 1000),
            "warmup_epochs": number("epochs in which the rate rises from 0", 0, MAX_EPOCHS),
            "betas": several("decay rates of the moments", number("", 0, MAX_BETA), length=2),
            "weight_decay": number("strength of the weight decay", 0, 1000),
            "grad_clip": number("greatest norm of the gradient; 0 clips nothing", 0, 1e9),
        },
    ),
    **under(
        "data",
        {
            "skip_ranges": ranges("samples of the stream that are left out"),
            "skip_corrupt": whole("damaged faces that others replace before the run gives up"),
        },
    ),
    **under(
        "checkpoint",
        {
            "every": whole("steps between checkpoints; 0 saves after every epoch"),
            "keep": whole("number of newest checkpoints to keep", 1),
            "keep_every": whole("steps of which every multiple is kept for good; 0 is none"),
            # In pretraining by the mean `loss` since the checkpoint before.
            "keep_best": whole("number of checkpoints with the lowest validation loss to keep"),
        },
    ),
    **under(
        "resume",
        {
            # What changed is noted in the workdir's fingerprint.json.
            "accept_changes": flag("go on although data, order, batch or masks have changed"),
            # Newer ones are moved to the folder quarantine. Given again with the same
            # `data.skip_ranges`, as a restart does, it changes nothing.
            "step": optional(whole("checkpoint to go back to, once")),
        },
    ),
    # The run then prints the stacks of all threads and ends with exit code 71.
    **under(
        "watchdog",
        {
            "start_seconds": number("longest time to the first step; 0: no limit", 0, MAX_SECONDS),
            "step_seconds": number("longest time of a step; 0 is no limit", 0, MAX_SECONDS),
            "save_seconds": number("longest time of a save; 0 is no limit", 0, MAX_SECONDS),
        },
    ),
    **under(
        "tracking",
        {
            "log_every": whole("steps between logged lines", 1),
            "picture_every": whole("steps between pictures", 1),
        },
    ),
}

PRETRAINING: Fields = {
    **RUN,
    # "released": frozen teacher, zero positions in the representation decoder, a region per group
    # of images, no clipping, a schedule of 800 epochs that stops early.
    "recipe": choice("settings of the papers, or of the released weights", ("paper", "released")),
    "epochs": number("passes over the data", 1, MAX_EPOCHS),
    "schedule_epochs": optional(
        number("epochs of rate and momentum; None is by recipe", 1, MAX_EPOCHS)
    ),
    **under(
        "model",
        {
            "decoder_width": whole("channels of the pixel decoder", 1, MAX_WIDTH),
            "decoder_depth": whole("blocks of the pixel decoder", 1, MAX_DEPTH),
            "decoder_num_heads": whole("heads of the pixel decoder", 1, MAX_WIDTH),
            "rep_decoder_depth": whole("blocks of the representation decoder", 1, MAX_DEPTH),
            "rep_decoder_num_heads": whole("heads of the representation decoder", 1, MAX_WIDTH),
            "projection_dim": whole("width of what student and teacher compare", 1, MAX_WIDTH),
            "projection_hidden": whole("width inside projector and predictor", 1, MAX_WIDTH),
            "rep_pos": optional(
                choice("positions of the representation decoder; by recipe", CHOICES["rep_pos"])
            ),
        },
    ),
    **under(
        "init",
        {
            # A workdir, an exported folder, a .pth file of the reference or of MAE, a folder or
            # file of timm, Hugging Face or Google (docs/weights.md). What it lacks is drawn.
            "params": text("weights to start from, at step 0; '' draws all of them"),
            "branch": choice("network to start from, of a workdir or file with two", BRANCHES),
            "entry": text("entry of a file with several networks; '' is the raw weights"),
            "teacher": choice("what the teacher starts as a copy of", ("student", "checkpoint")),
        },
    ),
    **under(
        "mask",
        {
            "strategy": choice("how patches are chosen: docs/masking.md", STRATEGIES),
            "mask_ratio": number("share of the patches that is removed", 0, 1),
            "region_choice": optional(
                choice("how often a region is drawn; by recipe", REGION_CHOICES)
            ),
            "region_group_size": whole("images in a row with one region, if 'per_group'", 1),
        },
    ),
    **under(
        "loss",
        {
            "norm_pix": flag("whether the pixels of each patch are normalised"),
            "weight_region": number("weight of the loss on the covered region", 0, 1e6),
            "weight_sim": number("weight of the loss between student and teacher", 0, 1e6),
            "similarity": choice("loss between student and teacher", tuple(SIMILARITIES)),
        },
    ),
    **under(
        "teacher",
        {
            "mode": optional(choice("how the teacher moves; by recipe", ("ema", "frozen"))),
            "momentum": number("momentum at step 0; it rises along a cosine to 1", 0, 1),
        },
    ),
    "optimizer.grad_clip": optional(
        number("greatest norm of the gradient; 0 clips nothing; by recipe", 0, 1e9)
    ),
    **under(
        "data",
        {
            # "folder": <path>/images/** and <path>/parsing_maps/**.npy. "tfds": sets packed by
            # `python -m fsvfm_jax.prepare`, and folders among them.
            "source": choice("kind of the data", ("folder", "tfds", "synthetic")),
            "split": text("split of packed sets"),
            # An epoch is as many faces as there are in all. (): all of them once per epoch.
            "weights": several(
                "how often faces of each path come, in proportion", number("", 1e-6, 1e6)
            ),
            "augment": flag("crop (0.2 to 1 of the area) and mirror image and map alike"),
            "num_samples": whole("size of the synthetic set", 1),
        },
    ),
}
