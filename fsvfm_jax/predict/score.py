"""The verb `score`: how fake the faces of photographs and videos look to a detector.

Worker processes decode files and find faces; this process computes the scores in batches, and
writes one record per file.
"""

# JAX is imported inside a function, because it takes seconds, and a wrong flag is found before.

import argparse
import logging
from pathlib import Path
from typing import Any

from fsvfm_jax import cli
from fsvfm_jax.errors import DataError, SomeFailed
from fsvfm_jax.host import signals
from fsvfm_jax.host.progress import meter
from fsvfm_jax.host.streams import write_last_words
from fsvfm_jax.predict import arguments, plots
from fsvfm_jax.predict.faces import FileFaces
from fsvfm_jax.predict.inputs import Inputs, find_inputs
from fsvfm_jax.predict.records import Record, check_records_file, record_writer
from fsvfm_jax.prepare.extras import check_installed

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_inputs(parser, what="image, video, folder")
    arguments.add_arguments(parser)
    arguments.add_face_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="new file for the records: .jsonl, .csv, .parquet",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="new folder for pictures: the boxes and scores of a photograph, the curves of a video",
    )
    parser.add_argument(
        "--timings", action="store_true", help="print on stderr how long each stage took"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        SomeFailed: Some files could not be scored.
        DataError: No file could be scored, or the model cannot be read.
        ConfigError: Flags do not fit each other or the model.
        StorageError: The output, or a picture, cannot be written.
    """
    inputs = _checked_inputs(args)

    from fsvfm_jax.predict import batches, decision, opening
    from fsvfm_jax.predict.timings import Timings

    network = opening.load_detector(args)
    options = opening.face_options(network, args)._replace(show=args.plots is not None)
    _check_detector(options.detector)
    calibration = opening.find_calibration(network, args)
    decided = decision.decide_by(network.score_name, args.threshold, calibration=calibration)
    timings, count = Timings(), _Count(inputs.total)
    pictures = None
    if args.plots is not None:
        pictures = plots.Plots(args.plots, score_name=decided.score_name)
    with (
        signals.released_at_once(count),
        record_writer(
            args.output, score_name=decided.score_name, about=decided.about, taken=count.add
        ) as write,
        meter(total=inputs.total, description="score") as step,
    ):

        def finish(place: int, record: Record, found: FileFaces) -> None:
            write(place, record)
            if pictures is not None:
                pictures.add(place, record, found)
            step()

        batches.score_inputs(
            inputs.each,
            finish,
            network=network,
            options=options,
            decision=decided,
            processes=args.processes,
            timings=timings,
        )
        count.is_complete = True
    if args.timings:
        timings.tell(network, processes=args.processes)
    cli.check_output()
    if pictures is not None:
        pictures.check()
    count.check()


def _checked_inputs(args: argparse.Namespace) -> Inputs:
    """Returns the files to score, after all checks that need no network."""
    arguments.check_network(args)
    arguments.check_face_arguments(args)
    if args.output is not None:
        check_records_file(args.output)
    _check_detector(args.face_detector)
    inputs = find_inputs(args.inputs, root=args.root)
    if args.plots is not None:
        plots.make_folder(args.plots)
    return inputs


def _check_detector(name: str | None) -> None:
    """Raises ConfigError if dlib is needed and not installed."""
    check_installed({"dlib"} if name == "dlib" else set(), extra="prepare")


class _Count:
    """Counts the files, and says how many are left when the command ends too early.

    Args:
        total: Number of files; None if it is not known.
    """

    def __init__(self, total: int | None):
        self._total, self._done, self._failed = total, 0, 0
        self._first: str | None = None
        self.is_complete = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        if not self.is_complete:
            left = "all others" if self._total is None else f"{max(self._total - self._done, 0):,}"
            write_last_words(f"files scored: {self._done:,}; not scored: {left}\n")

    def add(self, record: Record) -> None:
        """Counts a file whose record is taken."""
        self._done += 1
        if record["error"] is not None:
            self._failed += 1
            self._first = self._first or f"{record['path']}: {record['error']}"

    def check(self) -> None:
        """Raises SomeFailed, or DataError if no file could be scored."""
        if self._failed:
            what = (
                f"{self._failed} of {self._done} files could not be scored; their records say why;"
                f" the first is {self._first}"
            )
            raise DataError(what) if self._failed == self._done else SomeFailed(what)
