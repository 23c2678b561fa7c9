"""Every field of fine-tuning and of an evaluation, as in `fields.py`, and of their sets."""

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

SELECTIONS = ("validation", "last", "test-oracle", "given")

FINETUNING: Fields = {
    **RUN,
    # "adapter": an FS-Adapter and its head beside a frozen backbone. "linear": the head alone.
    "mode": choice("what is trained", ("full", "adapter", "linear")),
    "epochs": number("passes over the sets", 0, MAX_EPOCHS),
    "total_steps": optional(whole("number of updates, in place of epochs", 1)),
    **under(
        "model",
        {
            # "mean" of the patch tokens and a norm of its own, or the class "token".
            "pool": choice("what becomes the feature", CHOICES["pool"]),
            "adapter_reduction": optional(
                whole("width over the adapter's width; 0 is no adapter; None is by mode")
            ),
            "fas": flag("whether the head is that of anti-spoofing"),
            # Active in a frozen backbone too.
            "drop_path": number("drop path of the last block; it grows from 0", 0, 0.999),
        },
    ),
    **under(
        "init",
        {
            # As in pretraining; heads are always new.
            "params": text("pretrained encoder to start from; '' draws it"),
            "branch": choice("network to start from, of a workdir or file with two", BRANCHES),
            "entry": text("entry of a file with several networks; '' is the raw weights"),
        },
    ),
    **under(
        "loss",
        {
            "smoothing": number("share of a target that is spread over all classes", 0, 1),
            "weight_anchor": number("weight of the real-anchor loss; needs an adapter", 0, 1e6),
            "temperature": number("temperature of the real-anchor loss", 1e-3, 1e3),
            # "all" is plain supervised contrastive learning, the ablation.
            "anchors": choice("images that others are compared with", ("real", "all")),
        },
    ),
    **under(
        "optimizer",
        {
            "name": choice("AdamW, or Adam with L2 in the gradient", ("adamw", "adam")),
            "schedule": choice("learning rate after the warm-up", ("cosine", "constant")),
            # The factor of a layer is layer_decay^(layers above it).
            "layer_decay": number("decay of the updates from layer to layer; 1 is none", 0, 1),
        },
    ),
    **under(
        "augment",
        {
            "crop": number("least share of the area that a crop keeps; 1 crops nothing", 1e-2, 1),
            "flip": flag("whether every other image is mirrored"),
            # Two operations on every image, deviation 0.5.
            "rand_magnitude": number("magnitude of RandAugment; 0 is off", 0, MAX_MAGNITUDE),
            "saturation": number("greatest change of every other image's saturation", 0, 1),
            "erase": number("share of the images of which a box becomes noise", 0, 1),
            # One of the two on every batch.
            "mixup": number("alpha of mixup; 0 is off", 0, 1e6),
            "cutmix": number("alpha of cutmix; 0 is off", 0, 1e6),
        },
    ),
    **under(
        "data",
        {
            "train": sections("sets to train on, by name"),
            "val": sections("sets whose loss chooses the checkpoint, by name"),
            "balanced": flag("whether a batch has as many faces of each set and class"),
            # One for each set, or if `balanced` for each class of each set.
            "weights": optional(
                several("how often faces come; by balanced", number("", 1e-6, 1e6))
            ),
            "view": choice("what the network sees in validation", EVALUATION_TRANSFORMS),
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
            "params": text("workdir of fine-tuning, exported folder, or .pth file"),
            "step": optional(whole("checkpoint for the selection 'given'")),
            "entry": text("entry of a file with several networks; '' is the raw weights"),
            "num_heads": optional(whole("attention heads, if unknown of a file", 1, MAX_WIDTH)),
            "labels": several("classes by logit, if unknown of a file", choice("", LABELS)),
            "seed": optional(whole("seed for the table, if unknown of a file")),
        },
    ),
    **under(
        "data",
        {
            "test": sections("sets to test on, by name"),
            "val": sections("sets that choose the threshold of 'spoof', by name"),
            "view": choice("what the network sees", EVALUATION_TRANSFORMS),
        },
    ),
}

# What `configs.transfer.face_set` makes: the fields of every set, of those on disk, of some layouts
# of those (empty is the layout's default), and of rendered ones.
FACE_SET: Fields = {
    "layout": choice("how the files lie: docs/transfer.md", (*LAYOUTS, RENDERED)),
    "path": text("folder under config.data.paths"),
    "split": text("split, as the layout calls it"),
}
ON_DISK: Fields = {
    "labels": several(
        "pairs of a class's name and 'fake' or 'real'", several("", text(""), length=2)
    ),
    "exclude": several("classes and folders that are left out", text("")),
    "frames": whole("frames kept of each video, evenly spaced; 0 keeps all"),
    "real_frames": optional(whole("the same of real videos, where it differs")),
}
OF_LAYOUTS: Fields = {
    "videos": text("what counts as a video: folder, name, picture or a pattern; '' looks"),
    "list_file": text("file under the set's path"),
    "strip_prefix": text("beginning of the paths in a list that is left out"),
    "compression": text("compression of the videos, such as c23"),
    "frames_folder": text("name of the folders of frames"),
    "methods": several("forgeries of FaceForensics++", text("")),
    "subset": text("subset, such as msu or T2I"),
}
OF_RENDERED: Fields = {
    "name": choice("rendered set", tuple(RENDERED_SETS)),
    "videos": whole("videos, real and fake together", 1),
    "frames": whole("frames of each video", 1),
    "seed": whole("seed that selects other faces"),
}


def set_fields(layout: str) -> Fields:
    """The fields of a set with this layout, those of other layouts left out."""
    if layout == RENDERED:
        return FACE_SET | OF_RENDERED
    return FACE_SET | ON_DISK | {name: OF_LAYOUTS[name] for name in options_of(layout)}
