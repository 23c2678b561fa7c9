"""All fields of a comparison of encoders, in the form of `fields.py`."""

from fsvfm_jax.config.checks import (
    Fields,
    choice,
    number,
    optional,
    section,
    sections,
    several,
    text,
    under,
    whole,
)
from fsvfm_jax.config.fields import BRANCHES, MAX_WIDTH, STATS
from fsvfm_jax.models import CHOICES
from fsvfm_jax.report.published import MODELS
from fsvfm_jax.tuning import MODES

TASK = "compare"
_SEED = whole("", 0, 2**31 - 1)
_RATE = number("", 0, 1000, above=True)

COMPARISON: Fields = {
    "task": choice("kind of the config", (TASK,)),
    "encoders": sections("encoders by name", made_by="configs.comparison.encoder"),
    "modes": several("modes of fine-tuning to compare", choice("", MODES)),
    "seeds": several("seeds of the compared runs", _SEED),
    # Every encoder gets the rate with the lowest validation loss in a run with `tuning_seed`.
    **under(
        "rates",
        {
            mode: several(f"peak learning rates to choose from in mode {mode!r}", _RATE)
            for mode in MODES
        },
    ),
    "tuning_seed": whole("seed of the search of the learning rates", 0, 2**31 - 1),
    "paths": several("folders that contain the sets of `train` and `test`", text("")),
    "train": sections("configs of fine-tuning by mode", made_by="configs.transfer.get_config"),
    "test": section("config of the evaluation, without a detector"),
}

ENCODER: Fields = {
    "params": optional(text("weights; '' for random ones; None leaves the encoder out")),
    "entry": text("entry to read from a file with several networks; '': the raw weights"),
    "branch": choice("network to start from, if a workdir or file contains both", BRANCHES),
    "pool": optional(choice("tokens that make the feature; None: by the recipe", CHOICES["pool"])),
    # The fields below are for weights that do not contain these values.
    "num_heads": optional(whole("number of attention heads", 1, MAX_WIDTH)),
    "activation": optional(choice("activation of the MLPs", CHOICES["activation"])),
    "mean": optional(STATS["data.mean"]),
    "std": optional(STATS["data.std"]),
    **under(
        "published",
        {
            mode: choice("model of the papers whose results are shown; '': none", ("", *MODELS))
            for mode in MODES
        },
    ),
}
