"""Every field of an evaluation: one detector, many test sets."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Nothing is named yet: a config adds the sets to `data.test`."""
    c = ConfigDict()
    c.task = "evaluate"
    # Images per step, over all devices; no score depends on it.
    c.batch_size = 64
    # "float32" or "bfloat16".
    c.dtype = "float32"
    # "detection" (AUC, AP, EER), or "spoof" (HTER, APCER, BPCER, TPR at FPR 1 %).
    c.report = "detection"
    # How the checkpoint of a run is chosen, a row for each: "validation", "last", "test-oracle",
    # "given" (`init.step`, or the newest; the only one for a folder or file).
    c.select = ("validation", "last")
    # What published figures to compare with, such as "FS-VFM ViT-L".
    c.compare = ""

    c.init = ConfigDict()
    # A fine-tuning run's workdir, an exported folder, or a .pth of the reference.
    c.init.params = ""
    c.init.step = placeholder(int)
    # Of a file with several networks, which: such as "model_ema". "": the raw weights.
    c.init.entry = ""
    # Attention heads, where the file does not tell them.
    c.init.num_heads = placeholder(int)
    # The classes in the order of the logits, where the file does not tell them.
    c.init.labels = ()
    # For the table, where there is no run to tell it.
    c.init.seed = placeholder(int)

    c.data = ConfigDict()
    c.data.paths = ()
    # By name, what `configs.transfer.face_set` makes.
    c.data.test = ConfigDict()
    # Whose videos choose the threshold called "validation" ("spoof").
    c.data.val = ConfigDict()
    # What the network sees: "resize", as in the papers' logs, or "resize256_crop224".
    c.data.view = "resize"
    # Of pixels in [0, 1], where the detector does not tell them.
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    c.data.stats_file = placeholder(str)
    c.data.num_workers = 8

    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1
    return c
