"""Opens a detector and labelled sets for `calibrate` and `stress`, as an evaluation opens them."""

import argparse
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float64
from ml_collections import ConfigDict

from fsvfm_jax import cli, scoring
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.detection_sets import (
    DetectionSet,
    check_classes,
    fingerprints_of,
    open_sets,
)
from fsvfm_jax.data.labelled.faces import REAL, LabelledFaces
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.grouping import open_groups
from fsvfm_jax.host.storage import check_folder, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.known_videos import warn_of_known_videos
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.calibration import joined_titles
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.report.groups import Groups
from fsvfm_jax.report.reliability import ScoredFaces
from fsvfm_jax.report.scores import Scores, joined
from fsvfm_jax.report.write import write_file

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "configs/eval/folder.py"
# The fields of an evaluation that describe sets and computation, not the detector.
READ_FIELDS = tuple(
    f"config.{name}"
    for name in ("data.test", "data.paths", "data.num_workers", "dtype", "groups.", "mesh.")
)
# configs/evaluation.py has this view, which therefore says nothing about a config.
DEFAULT_VIEW = "resize"
OWN_SET = "mine"  # The name of any folder of faces in DEFAULT_CONFIG, which no reader recognises.
ANY_SIZE = 64  # pixels; the names and labels of rendered faces do not depend on it


class LabelledSets(NamedTuple):
    """The sets that a detector is judged on.

    Attributes:
        config: The resolved config of an evaluation.
        sets: The sets by name. Together they have faces of both classes.
        titles: The name of each set for readers, in the same order.
        groups: The groups of the faces, if a file of groups is given.
    """

    config: ConfigDict
    sets: dict[str, DetectionSet]
    titles: tuple[str, ...]
    groups: Groups | None

    @property
    def title(self) -> str:
        """The name of all sets together for readers."""
        return joined_titles(self.titles)

    def videos(self) -> Iterator[tuple[str, bool]]:
        """Yields the video of each face, and whether it is real."""
        for name, faces in self.sets.items():
            for index in range(len(faces)):
                yield f"{name}/{faces.video(index)}", faces.label(index) == REAL

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the names, labels and sizes of the faces' files.

        Names alone would be the same for many splits.
        """
        digest = hashlib.sha256(fingerprints_of(self.sets).encode())
        for faces in self.sets.values():
            if isinstance(faces, LabelledFaces):  # Rendered faces have no files.
                for index in range(len(faces)):
                    digest.update(b" %d" % faces.size(index))
        return digest.hexdigest()


class Task(NamedTuple):
    """A detector and the sets that it is judged on.

    Attributes:
        detector: The detector.
        labelled: The sets.
        batch_size: Number of faces that are computed at once.
    """

    detector: Detector
    labelled: LabelledSets
    batch_size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name the detector, the sets and the groups."""
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="DIR",
        help=f"folder of labelled faces: test/real and test/fake, as {DEFAULT_CONFIG} describes it;"
        " another split, layout or set: --config=FILE and --config.data.test.mine.split=val, with"
        " the fields of an evaluation",
    )
    arguments.add_arguments(parser)
    parser.add_argument(
        "--groups",
        default="",
        metavar="CSV",
        help="file with a column path, relative to DIR, and columns of groups",
    )
    parser.add_argument(
        "--group", default="", metavar="COLUMN", help="column of that file, such as generator"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of an earlier run"
    )
    parser.set_defaults(takes_config=True)


def open_labelled(args: argparse.Namespace) -> LabelledSets:
    """Opens the sets and the groups that the flags of `add_arguments` name.

    This needs no network: a mistake in them must not cost the time that a network takes.

    Args:
        args: The parsed flags, and as `rest` the arguments of the command line that are --config
            and its fields.

    Raises:
        UserError: A set or the file of groups cannot be read, or a class is missing.
    """
    for folder in args.sets:
        if not os.path.isdir(folder):
            raise DataError(f"{folder} is no folder: name folders with test/real and test/fake")
    config = _config(args)
    sets = _open_sets(config, image_size=ANY_SIZE)
    check_classes(sets, purpose="every rate", where=" (config.data.test)")
    return LabelledSets(config, sets, _titles(config), open_groups(config, sets))


def open_task(args: argparse.Namespace, sets: LabelledSets) -> Task:
    """Opens the detector that the flags of `add_arguments` name, to judge it on sets.

    Args:
        args: The parsed flags.
        sets: The sets.

    Raises:
        UserError: The detector cannot be opened, or its faces are resized in another way.
    """
    config = sets.config
    detector = opening.load_detector(args, dtype=config.dtype)
    if config.data.view not in (DEFAULT_VIEW, detector.view):
        raise ConfigError(
            f"config.data.view = {config.data.view!r}, and the detector takes {detector.view!r}:"
            f" give --view={config.data.view}, or correct the config"
        )
    if any(one.layout == RENDERED for one in config.data.test.values()):
        sets = sets._replace(sets=_open_sets(config, image_size=detector.image_size))
    warn_of_known_videos(Path(args.model), sets.sets.values(), image_size=detector.image_size)
    return Task(detector, sets, args.batch_size)


def make_score(task: Task) -> Callable[..., Float64[np.ndarray, " N"]]:
    """Returns `scoring.score_set` for the task's detector, which takes `faces` and `name` then."""
    detector, config = task.detector, task.labelled.config
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
            for name, faces in task.labelled.sets.items()
        ],
        dataset=task.labelled.title,
    )


def to_faces(task: Task, margins: Mapping[str, Float64[np.ndarray, " _N"]]) -> ScoredFaces:
    """Returns the margins of all sets with labels and videos; unread faces are left out."""
    scores = to_scores(task, margins)
    every = np.concatenate([margins[name] for name in task.labelled.sets])
    return ScoredFaces(every[~np.isnan(every)], scores.fake, scores.videos)


def results_folder(args: argparse.Namespace, names: Sequence[str]) -> Path:
    """Returns the folder for results: `--output`, or the model's own folder.

    This checks before the work that results can be written, and that they replace no others
    unasked.

    Args:
        args: The parsed flags.
        names: The names of all files that the command may write.

    Raises:
        ConfigError: The model is a file and `--output` is not given.
        StorageError: The folder takes no file, or has results already, or folders of their names.
    """
    folder, flag = args.output, f"--output={args.output}"
    if folder is None:
        folder = Path(args.model)
        if not folder.is_dir():
            raise ConfigError(f"--model={folder} is no folder: name a folder with --output")
        flag = str(folder)
    check_folder(folder, flag=flag)
    before = [name for name in names if os.path.lexists(folder / name)]
    if before and not args.overwrite:
        raise StorageError(
            f"{folder} has results of an earlier run ({', '.join(before)}): give --overwrite to"
            " replace them, or another folder with --output"
        )
    for name in before:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise StorageError(f"{folder / name} is a folder: remove it, or give another --output")
    return folder


def write_results(folder: Path, files: Mapping[str, bytes], *, names: Sequence[str]) -> None:
    """Writes results and prints their names; removes those that are left of an earlier run.

    Args:
        folder: The folder for results, which may be missing.
        files: The contents of the files by their names.
        names: The names of all files that the command may write.

    Raises:
        StorageError: A file cannot be written or removed.
    """
    for name, content in files.items():
        write_file(epath.Path(folder), name, content)
    for name in names:
        if name not in files:
            with written(folder / name, mend="remove it, or choose another folder with --output"):
                (folder / name).unlink(missing_ok=True)
    print(printable(f"written to {folder}: {', '.join(files)}"))


def _open_sets(config: ConfigDict, *, image_size: int) -> dict[str, DetectionSet]:
    data = config.data
    return open_sets(data.test, data.paths, image_size=image_size, field="config.data.test")


def _titles(config: ConfigDict) -> tuple[str, ...]:
    """Returns the name of each test set for readers: its own, and the names of its folders.

    The names of folders alone are used, because results may be passed on with the model.
    """
    titles = []
    for name, one in config.data.test.items():
        roots = () if one.layout == RENDERED else config.data.paths
        places = [
            "/".join(filter(None, (Path(root).resolve().name, one.path, one.split)))
            for root in roots
            if os.path.isdir(os.path.join(root, one.path))
        ]
        own = "" if name == OWN_SET and places else name
        titles.append(printable(" of ".join(filter(None, (own, ", ".join(places))))))
    return tuple(titles)


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
        raise ConfigError("name a folder with test/real and test/fake, or a --config=FILE")
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
