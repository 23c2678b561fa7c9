"""Compares encoders for deepfake detection (DfD) in six modes; the papers have two of them.

    python -m fsvfm_jax.benchmark compare --config=configs/compare/dfd.py:b --output=DIR \\
        --config.paths="('DIR',)" --config.encoders.fsvfm.params=WEIGHTS \\
        --config.encoders.dinov2.params=WEIGHTS --config.modes="('full','adapter')"

Every encoder that has its weights is trained on FF++ c23 and tested on seven other sets, with the
recipes of configs/finetune/dfd.py and configs/adapter/dfd.py. docs/compare.md says where the
weights of each encoder are, and under which licence. The learning rate is searched for every
encoder in the same way; the recipes' other values are those that the papers found for FS-VFM.

    argument      networks      hardware            published
    :s            ViT-S         one GPU with 16 GB  below the rows of the table
    :b (default)  ViT-B         one GPU with 24 GB  below the rows of the table
    :l            ViT-L         one GPU with 40 GB  below the rows of the table

`:b,CDFv2,DFDC` tests these sets alone, of those of configs/eval/dfd.py. `:smoke` is that of
configs/compare/rendered.py.
"""

from ml_collections import ConfigDict

from configs import arguments, comparison, sets
from configs.adapter import dfd as adapter
from configs.compare import rendered
from configs.eval import dfd as evaluation
from configs.finetune import dfd as finetune


def get_config(arg: str = "") -> ConfigDict:
    words = arguments.split(arg, ("s", "b", "l", *sets.DEEPFAKES, "smoke"))
    if "smoke" in words:
        return rendered.get_config("smoke")
    size = arguments.pick(words, ("s", "b", "l"), default="b", what="size")
    train = {"full": finetune.get_config(size), "adapter": adapter.get_config(size)}
    for mode in ("norms", "lora", "partial", "linear"):
        train[mode] = finetune.get_config(size)
        train[mode].mode = mode
    for mode in train.keys() - {"adapter"}:  # The adapter's loss compares the faces of a batch.
        train[mode].accum_steps = "auto"
    tested = ",".join(word for word in words if word in sets.DEEPFAKES)
    c = comparison.get_config(train, evaluation.get_config(tested), encoders=comparison.ENCODERS)
    name = f"ViT-{size.upper()}"
    papers = {"full": f"FS-VFM {name}", "adapter": f"FS-Adapter {name}"}
    c.encoders.fsvfm.published.update(papers)
    if size == "b":
        c.encoders.fsfm.published.full = "FSFM ViT-B"
    c.lock()
    return c
