"""All fields of fine-tuning, of evaluation and of their sets, in the form of `fields.py`."""

from fsvfm_jax.config.checks import (
    Fields,
    choice,
    flag,
    number,
    optional,
    sections,
    several,
    text,
    under,
    whole,
)
from fsvfm_jax.config.fields import BRANCHES, MAX_EPOCHS, MAX_WIDTH, MESH, READING, RUN, STATS, TASK
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.labelled.set_options import RENDERED, options_of
from fsvfm_jax.data.rand_augment import EVALUATION_TRANSFORMS, MAX_MAGNITUDE
from fsvfm_jax.data.rendered.rendered_sets import RENDERED_SETS
from fsvfm_jax.models import CHOICES
from fsvfm_jax.tuning import MODES, TARGETS

SELECTIONS = ("validation", "last", "test-oracle", "given")

# The learning rate of a layer has the factor layer_decay^(number of layers above it).
LAYER_DECAY = number("decay of the rate from layer to layer; 1: no decay", 0, 1)

FINETUNING: Fields = {
    **RUN,
    # docs/transfer.md describes the modes.
    "mode": choice("which parameters are trained", MODES),
    "epochs": number("number of passes over the training sets", 0, MAX_EPOCHS),
    "total_steps": optional(whole("number of updates, instead of epochs", 1)),
    **under(
        "model",
        {
            # "mean" averages the patch tokens and applies a new norm; "token" is the class token;
            # "attention" is the output of the attention pool of the starting weights.
            "pool": choice("tokens that make the feature of a face", CHOICES["pool"]),
            "adapter_reduction": optional(
                whole("width / width of the adapter; 0: no adapter; None: set by config.mode")
            ),
            "fas": flag("whether the network has the anti-spoofing head"),
            # It grows linearly from 0 at the first block. A frozen backbone drops branches too.
            "drop_path": number("probability of dropping a branch of the last block", 0, 0.999),
        },
    ),
    **under(
        "init",
        {
            # The same kinds of weights as in pretraining. Heads are always new.
            "params": text("pretrained encoder to start from; '' starts from random weights"),
            "branch": choice("network to start from, if a workdir or file contains both", BRANCHES),
            "entry": text("entry to read from a file with several networks; '': the raw weights"),
        },
    ),
    **under(
        "loss",
        {
            "smoothing": number(
                "label smoothing: share of a target that is spread over all classes", 0, 1
            ),
            "weight_anchor": number("weight of the real-anchor loss; needs an adapter", 0, 1e6),
            "temperature": number("temperature of the real-anchor loss", 1e-3, 1e3),
            # "all" is plain supervised contrastive learning, an ablation.
            "anchors": choice("images that the other images are compared with", ("real", "all")),
        },
    ),
    # docs/transfer.md has the names of the targets and what they are.
    **under(
        "lora",
        {
            "rank": whole("rank of the factors of mode 'lora'", 1, MAX_WIDTH),
            # The product of the factors has the factor alpha / rank.
            "alpha": number("scale of the factors' product, times the rank", 0, 1e6, above=True),
            "targets": several("kernels that get factors", choice("", tuple(TARGETS))),
        },
    ),
    "partial.blocks": whole("number of last blocks that mode 'partial' trains", 1, MAX_WIDTH),
    # The values of the fields of `optimizer` with the same names that are None. The modes "norms"
    # and "lora" have other values (config/downstream.py).
    **under("full", {name: RUN[f"optimizer.{name}"] for name in ("blr", "weight_decay")}),
    "full.layer_decay": LAYER_DECAY,
    **under(
        "optimizer",
        {
            "blr": optional(RUN["optimizer.blr"]),
            "weight_decay": optional(RUN["optimizer.weight_decay"]),
            "name": choice("AdamW, or Adam with an L2 term in the gradient", ("adamw", "adam")),
            "schedule": choice("learning rate after the warm-up", ("cosine", "constant")),
            "layer_decay": optional(LAYER_DECAY),
        },
    ),
    **under(
        "augment",
        {
            "crop": number("smallest share of the area that a crop keeps; 1: no crop", 1e-2, 1),
            "flip": flag("whether half of the images, chosen at random, are mirrored"),
            # Every image gets two operations; the magnitude has a deviation of 0.5.
            "rand_magnitude": number("magnitude of RandAugment; 0: off", 0, MAX_MAGNITUDE),
            "saturation": number("largest change of saturation, of half of the images", 0, 1),
            "erase": number("share of the images in which noise replaces a box", 0, 1),
            # Every batch gets one of the two.
            "mixup": number("alpha of mixup; 0: off", 0, 1e6),
            "cutmix": number("alpha of cutmix; 0: off", 0, 1e6),
        },
    ),
    **under(
        "data",
        {
            "train": sections("sets to train on, by name"),
            "val": sections("validation sets, by name; their loss selects the best checkpoint"),
            "balanced": flag("whether each batch has equally many faces of every set and class"),
            # One weight for each set or, with `balanced`, for each class of each set. None gives
            # equal weights with `balanced`, and otherwise one pass over all faces per epoch.
            "weights": optional(
                several("relative frequency of the faces of each set", number("", 1e-6, 1e6))
            ),
            "view": choice("how images are resized in validation", EVALUATION_TRANSFORMS),
        },
    ),
}

EVALUATION: Fields = {
    **TASK,
    **MESH,
    **STATS,
    **READING,
    "batch_size": whole("images per step, over all devices; no score depends on it", 1),
    "dtype": choice("type of the computation", CHOICES["dtype"]),
    # "detection": AUC, AP, EER. "spoof": HTER, APCER, BPCER, TPR at FPR 1 %.
    "report": choice("kind of the table", ("detection", "spoof")),
    # A row for each. "given": `init.step`, or the newest; the only one for a folder or file.
    "select": several("how a run's checkpoint is chosen", choice("", SELECTIONS)),
    "compare": text("model of the published figures; '' compares with none"),
    **under(
        "init",
        {
            "params": text("detector: workdir of fine-tuning, exported folder, or .pth file"),
            "step": optional(
                whole("step of the checkpoint for the selection 'given'; None: the newest")
            ),
            "entry": text("entry to read from a file with several networks; '': the raw weights"),
            "encoder": text("folder of the encoder, if `params` is a folder without it; or ''"),
            # The three fields below are for a file that does not contain these values.
            "num_heads": optional(whole("number of attention heads of the file", 1, MAX_WIDTH)),
            "labels": several("class of each logit of the file", choice("", LABELS)),
            "seed": optional(whole("seed of the file's training, for the table")),
        },
    ),
    **under(
        "data",
        {
            "test": sections("sets to test on, by name"),
            "val": sections("validation sets, by name; they set the threshold of 'spoof'"),
            "view": choice("how images are resized", EVALUATION_TRANSFORMS),
        },
    ),
    **under(
        "groups",
        {
            # docs/using.md describes the file.
            "file": text("CSV file with a column `path` and columns of groups; '' for no groups"),
            "column": text("column of that file whose values are the groups, such as generator"),
        },
    ),
}

# The fields of a set, as `configs.transfer.face_set` makes them: of every set, of sets on disk, of
# some layouts on disk (an empty value is the layout's default), and of rendered sets.
FACE_SET: Fields = {
    "layout": choice("arrangement of the files; docs/transfer.md lists them", (*LAYOUTS, RENDERED)),
    "path": text("folder of the set, relative to config.data.paths"),
    "split": text("name of the split in the layout, such as train"),
}
ON_DISK: Fields = {
    "labels": several(
        "pairs of the name of a class and 'fake' or 'real'", several("", text(""), length=2)
    ),
    "exclude": several("classes and folders that are not read", text("")),
    "frames": whole("evenly spaced frames to use of each video; 0: all frames"),
    "real_frames": optional(whole("frames to use of each real video; None: as many as `frames`")),
}
OF_LAYOUTS: Fields = {
    "videos": text(
        "what is one video: folder, name, picture or a pattern; '' decides from the files"
    ),
    "list_file": text("list of the files, or folder of lists, relative to the set's path"),
    "strip_prefix": text("beginning that is removed from the paths of a list"),
    "compression": text("compression of the videos, such as c23"),
    "frames_folder": text("name of the folders that contain frames"),
    "real": several("folders with real faces, relative to the set's path", text("")),
    "fake": several("folders with fake faces, relative to the set's path", text("")),
    "methods": several("forgery methods of FaceForensics++ to read", text("")),
    "subset": text("name of the subset, such as msu or T2I"),
}
OF_RENDERED: Fields = {
    "name": choice("name of the rendered set", tuple(RENDERED_SETS)),
    "videos": whole("number of videos, real and fake together", 1),
    "frames": whole("number of frames of each video", 1),
    "seed": whole("seed; another seed gives other faces"),
}


def set_fields(layout: str) -> Fields:
    """Returns the fields of a set with this layout, without the fields of other layouts."""
    if layout == RENDERED:
        return FACE_SET | OF_RENDERED
    return FACE_SET | ON_DISK | {name: OF_LAYOUTS[name] for name in options_of(layout)}
