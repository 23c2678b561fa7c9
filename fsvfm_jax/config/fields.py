"""The fields that all configs share, and the fields of pretraining: type, range and meaning.

`configs/` contains the values, and `downstream_fields.py` the fields of fine-tuning and evaluation.
Each dict maps the names of fields, such as `mask.strategy`, to their descriptions.
An `optional` field may be None; its meaning
or a comment states what None stands for. A range includes both of its ends.
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
    sections,
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

TASK_NAMES = ("pretrain", "finetune", "evaluate")
BRANCHES = ("student", "teacher")
TRACKERS = ("wandb",)
MAX_EPOCHS = 10**9
MAX_SECONDS = 10**8  # about three years
MAX_WIDTH = 2**16
MAX_DEPTH = 1024
MAX_SIDE = 2**14
# A larger decay rate would round to 1 in float32, and Adam divides by 1 minus powers of the rate.
MAX_BETA = 0.999999

# The following sections belong to several tasks.
TASK: Fields = {"task": choice("task of the run", TASK_NAMES)}
MESH: Fields = {
    "mesh.data": devices("number of copies of the training state; -1: the remaining devices"),
    # 1 is right for S, B and L. If the state does not fit on one device, use more.
    "mesh.fsdp": devices("devices that share each copy; 1 is plain data parallelism"),
}
# If these fields are None, fine-tuning and evaluation use the mean and std of the starting weights.
# Without such weights, and in pretraining, both are computed once over the data and stored in the
# workdir.
STATS: Fields = {
    "data.mean": optional(
        several("mean of red, green, blue in 0 to 1", number("", 0, 1), length=3)
    ),
    "data.std": optional(
        several("standard deviation of red, green, blue", number("", MIN_STD, 1), length=3)
    ),
    "data.stats_file": optional(
        text('JSON file with mean and std: {"mean": [r, g, b], "std": [r, g, b]}')
    ),
}
READING: Fields = {
    "data.paths": several("one or several folders that contain the data", text("a folder")),
    "data.num_workers": whole("reading processes per host; 0 reads in threads", 0, 1024),
}
ENCODER: Fields = under(
    "model",
    {
        "image_size": whole("side of an image in pixels, a multiple of patch_size", 1, MAX_SIDE),
        "patch_size": whole("side of a patch in pixels", 1, MAX_SIDE),
        "width": whole("channels of a token; a multiple of num_heads and of 4", 1, MAX_WIDTH),
        "depth": whole("number of encoder blocks", 1, MAX_DEPTH),
        "num_heads": whole("number of attention heads", 1, MAX_WIDTH),
        "dtype": choice("data type of the computation; parameters are float32", CHOICES["dtype"]),
        # If it is None, devices/backends.py chooses by the kind of device.
        "attention": optional(
            choice("attention kernel; None: depends on the kind of device", CHOICES["attention"])
        ),
        # "dots" computes everything again except the matrix products. "full" computes everything
        # again, which takes about a third more time.
        "remat": choice("what the backward pass computes again, to save memory", CHOICES["remat"]),
        "unroll": optional(
            whole(
                "blocks per iteration of the loop; None: depends on the kind of device",
                1,
                MAX_DEPTH,
            )
        ),
        # The options of other projects' encoders. None takes the value of the starting weights, or
        # else that of the papers' network.
        "class_token": optional(flag("whether there is a class token; None: by the weights")),
        "registers": optional(whole("number of register tokens; None: by the weights", 0, 64)),
        "positions": optional(
            choice("how patches get their positions; None: by the weights", CHOICES["positions"])
        ),
        "prefix_positions": optional(
            whole("rows of the position table before the patches; None: by the weights", 0, 65)
        ),
        "pre_norm": optional(flag("whether a norm precedes the blocks; None: by the weights")),
        "layer_scale": optional(flag("whether branches have LayerScale; None: by the weights")),
        "activation": optional(
            choice("activation of the MLPs; None: by the weights", CHOICES["activation"])
        ),
        "layer_norm_epsilon": optional(
            number("epsilon of the encoder's norms; None: by the weights", 0, 1)
        ),
        "patch_bias": optional(
            flag("whether the patch embedding has a bias; None: by the weights")
        ),
        "key_bias": optional(flag("whether the keys have a bias; None: by the weights")),
        "pool_heads": optional(
            whole("heads of the attention pool, 0 for none; None: by the weights", 0, MAX_WIDTH)
        ),
    },
)

# The fields of every training run.
RUN: Fields = {
    **TASK,
    "seed": whole("seed of weights, data order, masks and augmentation", 0, 2**31 - 1),
    "batch_size": whole("images per update, over all devices and micro-batches", 1),
    "accum_steps": count_or_auto("micro-batches per update; 'auto': the fewest that fit in memory"),
    "max_skipped_steps": whole("consecutive non-finite updates to skip; one more ends the run"),
    # If it is None, devices/backends.py chooses by the kind of device.
    "compiler_options": optional(settings("options of XLA; None: depend on the kind of device")),
    **MESH,
    **ENCODER,
    **STATS,
    **READING,
    **under(
        "optimizer",
        {
            "blr": number("base learning rate: lr = blr * batch_size / 256", 0, 1000),
            "lr": optional(number("learning rate, instead of blr", 0, 1000, above=True)),
            "min_lr": number("learning rate at the end of the cosine", 0, 1000),
            "warmup_epochs": number("epochs in which the rate rises from 0", 0, MAX_EPOCHS),
            "betas": several("decay rates of Adam's moments", number("", 0, MAX_BETA), length=2),
            "weight_decay": number("factor of the weight decay", 0, 1000),
            "grad_clip": number("largest norm of the gradient; 0: no clipping", 0, 1e9),
        },
    ),
    **under(
        "data",
        {
            "skip_ranges": ranges("ranges of samples in the stream that are skipped"),
            "skip_corrupt": whole("damaged faces that may be replaced; one more ends the run"),
        },
    ),
    **under(
        "checkpoint",
        {
            "every": whole("steps between checkpoints; 0 saves after every epoch"),
            "keep": whole("number of newest checkpoints to keep", 1),
            "keep_every": whole("keep every checkpoint at a multiple of these steps; 0: none"),
            # Without validation faces, as in pretraining, the mean training loss since the previous
            # checkpoint is used instead.
            "keep_best": whole("number of checkpoints with the lowest validation loss to keep"),
        },
    ),
    **under(
        "resume",
        {
            # The workdir's fingerprint.json records the changes.
            "accept_changes": flag("whether to resume although data, order, batch or masks differ"),
            # Newer checkpoints are moved to the folder quarantine. If a restart gives the same step
            # and the same `data.skip_ranges` again, the run does not go back a second time.
            "step": optional(whole("step of the checkpoint to go back to, once; None: the newest")),
        },
    ),
    # If a limit is exceeded, the run prints the stacks of all threads and ends with exit code 71.
    **under(
        "watchdog",
        {
            "start_seconds": number("longest time to the first step; 0: no limit", 0, MAX_SECONDS),
            "step_seconds": number("longest time of one step; 0: no limit", 0, MAX_SECONDS),
            "save_seconds": number("longest time of one save; 0: no limit", 0, MAX_SECONDS),
        },
    ),
    **under(
        "tracking",
        {
            "log_every": whole("steps between logged lines", 1),
            "picture_every": whole("steps between pictures", 1),
            # "wandb" needs the extra `wandb`. JSON lines and TensorBoard files are always written.
            "also": several("other trackers that get the same numbers", choice("", TRACKERS)),
        },
    ),
}

PRETRAINING: Fields = {
    **RUN,
    # The recipe sets the fields that are None. "released" has a frozen teacher, zero positions in
    # the representation decoder, one region per group of images, no clipping, and a schedule of 800
    # epochs that stops early.
    "recipe": choice("settings of the papers, or of the released weights", ("paper", "released")),
    "epochs": number("number of passes over the data", 1, MAX_EPOCHS),
    "schedule_epochs": optional(
        number("epochs of the schedules; None: set by recipe", 1, MAX_EPOCHS)
    ),
    **under(
        "model",
        {
            "decoder_width": whole("channels of the pixel decoder", 1, MAX_WIDTH),
            "decoder_depth": whole("blocks of the pixel decoder", 1, MAX_DEPTH),
            "decoder_num_heads": whole("attention heads of the pixel decoder", 1, MAX_WIDTH),
            "rep_decoder_depth": whole("blocks of the representation decoder", 1, MAX_DEPTH),
            "rep_decoder_num_heads": whole("heads of the representation decoder", 1, MAX_WIDTH),
            "projection_dim": whole("output channels of projector and predictor", 1, MAX_WIDTH),
            "projection_hidden": whole("hidden channels of projector and predictor", 1, MAX_WIDTH),
            "rep_pos": optional(
                choice("representation decoder's positions; None: by recipe", CHOICES["rep_pos"])
            ),
        },
    ),
    **under(
        "init",
        {
            # A workdir, an exported folder, a .pth file of the reference or of MAE, or a folder or
            # file of timm, Hugging Face or Google (docs/weights.md). Missing weights are random.
            "params": text("weights to start from, at step 0; '' starts from random weights"),
            "branch": choice("network to start from, if a workdir or file contains both", BRANCHES),
            "entry": text("entry to read from a file with several networks; '': the raw weights"),
            "teacher": choice(
                "network that the teacher copies at step 0", ("student", "checkpoint")
            ),
        },
    ),
    **under(
        "mask",
        {
            "strategy": choice("how patches are masked; docs/masking.md lists them", STRATEGIES),
            "mask_ratio": number("share of the patches that is masked", 0, 1),
            "region_choice": optional(
                choice("images that share one drawn region; None: by recipe", REGION_CHOICES)
            ),
            "region_group_size": whole("consecutive images that share a region, if 'per_group'", 1),
        },
    ),
    **under(
        "loss",
        {
            "norm_pix": flag("whether the target pixels of each patch are normalised"),
            "weight_region": number("weight of the loss on the covered facial region", 0, 1e6),
            "weight_sim": number("weight of the loss between student and teacher", 0, 1e6),
            "similarity": choice("loss between student and teacher", tuple(SIMILARITIES)),
        },
    ),
    **under(
        "teacher",
        {
            "mode": optional(choice("update of the teacher; None: by recipe", ("ema", "frozen"))),
            "momentum": number("momentum at step 0; it rises to 1 along a cosine", 0, 1),
        },
    ),
    "optimizer.grad_clip": optional(
        number("largest norm of the gradient; 0: no clipping; None: by recipe", 0, 1e9)
    ),
    **under(
        "data",
        {
            # "folder" reads <path>/images/** and <path>/parsing_maps/**.npy. "tfds" reads sets
            # packed by `python -m fsvfm_jax.prepare`, and such folders too. "synthetic" renders
            # faces.
            "source": choice("kind of the data", ("folder", "tfds", "synthetic")),
            "split": text("name of the split of packed sets"),
            # An epoch has as many samples as all paths have faces. With (), each face occurs once.
            "weights": several(
                "relative frequency of the faces of each path", number("", 1e-6, 1e6)
            ),
            # A random crop has 0.2 to 1 of the area of the image.
            "augment": flag("whether faces and their maps are cropped and mirrored at random"),
            "num_samples": whole("number of faces in the synthetic set", 1),
        },
    ),
    **under(
        "probe",
        {
            # docs/pretraining.md describes the numbers, which are called probe_*.
            "every": whole("steps between probes; 0: none"),
            # Half of the labelled faces are real. As many faces of the training set are probed too.
            "faces": whole("faces to fit the probe to, and faces to test it on", 8, 2**13),
            "branch": choice("network whose features are probed", BRANCHES),
            "k": whole("neighbours of a face that vote", 1, 2**16),
            "paths": several("folders that contain the sets on disk", text("a folder")),
            "train": sections("labelled sets to fit the probe to, by name"),
            "test": sections("labelled sets to test the probe on, by name"),
        },
    ),
    # "stop" ends the run with exit code 76. docs/pretraining.md describes the rule.
    "monitor.collapse": choice("what a collapse of the network does", ("off", "warn", "stop")),
}
