"""An anti-spoofing detector (FAS) on the domain that its training left out: HTER, AUC, TPR@FPR=1%.

    python -m fsvfm_jax.main --config=configs/eval/fas.py:M --config.init.params=WEIGHTS \\
        --config.compare="FSFM ViT-B" --config.data.paths="('DIR',)"

The target is M, C, I or O of MCIO, or wmca, cefa or surf of WCS; DIR/{MCIO,WCS} hold frame/ and
txt/. `:smoke` tests on rendered faces. A row for each way to choose the checkpoint: "validation"
and its threshold, on the test splits of the domains trained on (frame 0 of these videos is also
trained on); "last"; "test-oracle", on the target itself, as the papers do.

    network     hardware  published HTER, checkpoint "test-oracle"
    FSFM ViT-B  one GPU   M 3.78, C 3.16, I 4.63, O 7.68; 4.81 on average

Every checkpoint of the run is scored. The last checkpoints of the published runs have 10.99 on
average.
"""

from itertools import chain

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    targets = list(chain(*sets.DOMAINS.values()))
    given = arguments.split(arg, (*targets, "smoke"))
    target = arguments.pick(given, targets, default=targets[0], what="target domain")
    c = evaluation.get_config()
    c.report = "spoof"
    c.select = ("validation", "last", "test-oracle")
    found = sets.leave_one_out(target)
    if "smoke" in given:
        found["test"] = sets.rendered(("cam-o",), "test")
        found["val"] = sets.rendered(("cam-m", "cam-c", "cam-i"), "val")
        c.data.num_workers = 0
    c.data.test.update(found["test"])
    c.data.val.update(found["val"])
    c.lock()
    return c
