"""Opens a detector and labelled sets for `calibrate` and `stress`, as an evaluation opens them."""

import argparse
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from fsvfm_jax import cli, scoring
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.detection_sets import DetectionSet, check_classes, open_sets
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.detectors import NO_DETECTOR
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.grouping import open_groups
from fsvfm_jax.host.storage import written
from fsvfm_jax.known_videos import warn_of_known_videos
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.report.groups import Groups
from fsvfm_jax.report.reliability import ScoredFaces
from fsvfm_jax.report.scores import Scores, joined

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "configs/eval/folder.py"
# The fields of an evaluation that describe sets and computation, not the detector.
READ_FIELDS = tuple(
    f"config.{name}"
    for name in ("data.test", "data.paths", "data.num_workers", "dtype", "groups.", "mesh.")
)
# configs/evaluation.py has this view, which therefore says nothing about a config.
DEFAULT_VIEW = "resize"


class Task(NamedTuple):
    """A detector and the sets that it is judged on.

    Attributes:
        detector: The detector.
        config: The resolved config of an evaluation.
        sets: The sets by name. Together they have faces of both classes.
        groups: The groups of the faces, if a file of groups is given.
        batch_size: Number of faces that are computed at once.
    """

    detector: Detector
    config: ConfigDict
    sets: dict[str, DetectionSet]
    groups: Groups | None
    batch_size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name the detector, the sets and the groups."""
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help=f"folder of labelled faces: test/real and test/fake, as {DEFAULT_CONFIG} describes it;"
        " another split, layout or set: --config=FILE and --config.data.test.mine.split=val, with"
        " the fields of an evaluation",
    )
    arguments.add_arguments(parser)
    parser.add_argument(
        "--groups",
        default="",
        metavar="CSV",
        help="file with a column path, relative to SET, and columns of groups",
    )
    parser.add_argument(
        "--group", default="", metavar="COLUMN", help="column of that file, such as generator"
    )
    parser.set_defaults(takes_config=True)


def open_task(args: argparse.Namespace) -> Task:
    """Opens what the flags of `add_arguments` name.

    Args:
        args: The parsed flags, and as `rest` the arguments of the command line that are --config
            and its fields.

    Raises:
        UserError: The detector or a set cannot be opened, or a class is missing.
    """
    for folder in args.sets:
        if not os.path.isdir(folder):
            raise DataError(f"{folder} is no folder: name folders with test/real and test/fake")
    config = _config(args)
    detector = opening.load_network(args, dtype=config.dtype)
    if not isinstance(detector, Detector):
        raise DataError(f"{args.model} {NO_DETECTOR}")
    if config.data.view not in (DEFAULT_VIEW, detector.view):
        raise ConfigError(
            f"config.data.view = {config.data.view!r}, and the detector takes {detector.view!r}:"
            f" give --view={config.data.view}, or correct the config"
        )
    sets = open_sets(
        config.data.test,
        config.data.paths,
        image_size=detector.image_size,
        field="config.data.test",
    )
    check_classes(sets, purpose="every rate", where=" (config.data.test)")
    warn_of_known_videos(Path(args.model), sets.values(), image_size=detector.image_size)
    return Task(detector, config, sets, open_groups(config, sets), args.batch_size)


def make_score(task: Task) -> Callable[..., Float64[np.ndarray, " N"]]:
    """Returns `scoring.score_set` for the task's detector, which takes `faces` and `name` then."""
    detector, config = task.detector, task.config
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(task.batch_size, accum_steps=1, mesh=mesh)
    predict = scoring.make_predict(detector.model, stats=detector.stats, mesh=mesh)
    feed = scoring.Feed(
        detector.image_size, detector.view, task.batch_size, config.data.num_workers, mesh
    )
    params = sharding.replicate(detector.params, mesh)
    return functools.partial(scoring.score_set, predict, params, feed=feed)


def to_scores(task: Task, margins: Mapping[str, Float64[np.ndarray, " _N"]]) -> Scores:
    """Returns the scores of all sets of a task as one set; unread faces are left out.

    Args:
        task: The task.
        margins: The margins of each set.
    """
    return joined(
        [
            scoring.to_scores(margins[name], faces, dataset=name)
            for name, faces in task.sets.items()
        ],
        dataset=" and ".join(task.sets),
    )


def to_faces(task: Task, margins: Mapping[str, Float64[np.ndarray, " _N"]]) -> ScoredFaces:
    """Returns the margins of all sets with labels and videos; unread faces are left out."""
    scores = to_scores(task, margins)
    every = np.concatenate([margins[name] for name in task.sets])
    return ScoredFaces(every[~np.isnan(every)], scores.fake, scores.videos)


def output_folder(args: argparse.Namespace) -> Path:
    """Returns the folder for results: `--output`, or the model's own folder.

    Raises:
        ConfigError: The model is a file and `--output` is not given.
    """
    if args.output is not None:
        return args.output
    model = Path(args.model)
    if not model.is_dir():
        raise ConfigError(f"--model={model} is no folder: name a folder with --output")
    return model


def check_folder(folder: Path) -> None:
    """Creates the folder for results, and checks before the scoring that files can be written.

    Raises:
        StorageError: The folder cannot be created, or takes no file.
    """
    with written(folder, mend="choose another folder with --output"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"test")


def _config(args: argparse.Namespace) -> ConfigDict:
    """Returns the resolved config of an evaluation of the model on the sets of the flags."""
    if "--config" in args.rest:
        raise ConfigError("write --config=FILE as one word")
    for word in args.rest:
        # absl takes one dash or two.
        if word.startswith("-") and not word.lstrip("-").startswith(("config=", *READ_FIELDS)):
            raise ConfigError(
                f"{word.partition('=')[0]} is not read here: the sets come from config.data, the"
                " flags --model, --labels, --stats, --view and so on describe the detector, and one"
                " process does the work"
            )
    given = any(word.lstrip("-").startswith("config=") for word in args.rest)
    if not given and not args.sets:
        raise ConfigError("name a SET, a folder with test/real and test/fake, or a --config=FILE")
    words = args.rest if given else [f"--config={DEFAULT_CONFIG}", *args.rest]
    unexpected = cli.parse_flags(["", *words])[1:]
    if unexpected:
        raise ConfigError(f"unexpected argument {unexpected[0]!r}; see --help")
    config = cli.CONFIG.value
    if config.task != "evaluate":
        raise ConfigError(f"config.task = {config.task!r}: give a config of configs/eval/")
    config.init.params = args.model
    if args.sets:
        config.data.paths = tuple(args.sets)
    if bool(args.groups) != bool(args.group):
        raise ConfigError(f"give --groups and --group together: {args.groups!r}, {args.group!r}")
    if args.groups:
        config.groups.update(file=args.groups, column=args.group)
    config = resolve(config)
    if args.sets and all(one.layout == RENDERED for one in config.data.test.values()):
        raise ConfigError(
            f"{args.sets[0]} is read by no set of {cli.config_filename()}, which are all rendered:"
            " leave it out, or give another config"
        )
    return config
