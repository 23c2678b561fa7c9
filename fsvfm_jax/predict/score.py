"""The verb `score`: how fake the faces of photographs and videos look to a detector.

Worker processes decode files and find faces; this process computes the scores in batches, and
writes one record per file in the order of the inputs.
"""

import argparse
import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from fsvfm_jax import cli
from fsvfm_jax.detectors import NO_DETECTOR
from fsvfm_jax.errors import ConfigError, DataError, SomeFailed
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.progress import progress
from fsvfm_jax.predict import arguments, curves
from fsvfm_jax.predict.calibration import CALIBRATION_FILE, Calibration, read_calibration
from fsvfm_jax.predict.decision import Decision, decide_by, make_record
from fsvfm_jax.predict.faces import (
    CROPPED,
    MAX_FACES,
    FaceOptions,
    FileFaces,
    make_worker,
    unreadable,
)
from fsvfm_jax.predict.inputs import Input, find_inputs
from fsvfm_jax.predict.networks import Detector, Encoder
from fsvfm_jax.predict.records import FORMATS, Record, check_new_file, record_writer
from fsvfm_jax.predict.timings import Timings
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.workers import DIED, spread

FACE_DETECTORS = ("dlib", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder, .txt list of paths, or - for one such path per line of stdin",
    )
    arguments.add_arguments(parser)
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder to which the paths in lists are relative; by default each list's folder",
    )
    _add_face_arguments(parser)
    parser.add_argument(
        "--threshold",
        default=None,
        metavar="NUMBER|NAME",
        help="score from which a file is decided to be fake: a number, or an operating point of the"
        " calibration; default: eer, or 0.5 without a calibration",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="JSON",
        help=f"calibration of the model; default: {CALIBRATION_FILE} in the model's folder",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="new file for the records: .jsonl, .csv, .parquet",
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="folder for a curve over time of each video"
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
        StorageError: The output cannot be written.
    """
    if args.output is not None:
        check_new_file(args.output, flag="--output", suffixes=FORMATS)
    if args.frames > MAX_FACES:
        raise ConfigError(f"--frames={args.frames} is over {MAX_FACES}")
    inputs = find_inputs(args.inputs, root=args.root)
    network = arguments.load_network(
        args, face_detector=args.face_detector, crop_margin=args.crop_margin
    )
    if not isinstance(network, Detector):
        raise DataError(f"{args.model} {NO_DETECTOR}")
    options = face_options(network, args)
    _check_extras(inputs, options)
    decision = decide_by(network.score_name, args.threshold, _calibration(network, args))
    timings = Timings()
    failed = 0
    with record_writer(args.output, score_name=decision.score_name) as write:
        records = score_inputs(
            inputs, network, options, decision, processes=args.processes, timings=timings
        )
        for place, record in enumerate(progress(records, total=len(inputs), description="score")):
            write(record)
            failed += record["error"] is not None
            if args.plots is not None:
                curves.write_curve(args.plots, place, record, score_name=decision.score_name)
    if args.timings:
        timings.tell(network, processes=args.processes)
    cli.check_output()
    if failed:
        what = f"{failed} of {len(inputs)} files could not be scored; their records say why"
        raise DataError(what) if failed == len(inputs) else SomeFailed(what)


def face_options(network: Encoder, args: argparse.Namespace) -> FaceOptions:
    """Returns how the faces of the inputs are found, from the model's facts and the flags.

    Args:
        network: The network; flags were given to `load`.
        args: The flags of `add_arguments`.

    Raises:
        ConfigError: The model does not tell how its faces were found and the flags do not, or flags
            do not fit each other.
    """
    detector, margin = network.face_detector, network.crop_margin
    if args.cropped:
        if args.face_detector is not None or args.crop_margin is not None:
            raise ConfigError(
                "--cropped takes pictures whole: leave out --face-detector and --crop-margin"
            )
        detector, margin = CROPPED, 0.0
    elif detector is None:
        raise ConfigError(
            f"{args.model} does not tell how its faces were found: give --face-detector dlib and"
            " --crop-margin PART (0.15 if `prepare detect` made the crops of its training), or"
            " --cropped if the inputs are cropped faces"
        )
    elif detector not in FACE_DETECTORS:
        raise ConfigError(
            f"{args.model} was trained on faces that {detector!r} found, which is not available"
            f" here: give --face-detector {' or '.join(FACE_DETECTORS)}, or crop the faces with it"
            " and give --cropped"
        )
    elif detector == "none":
        margin = 0.0
    elif margin is None:
        raise ConfigError(
            f"{args.model} does not tell the margin around its faces: give --crop-margin PART (0.15"
            " if `prepare detect` made the crops of its training)"
        )
    if not 0 <= margin <= 10:
        raise ConfigError(f"--crop-margin={margin} is not from 0 to 10")
    return FaceOptions(detector, margin, args.faces, args.frames, network.image_size, network.view)


def _add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how faces are found."""
    parser.add_argument(
        "--cropped",
        action="store_true",
        help="every picture is a crop of a face already, and is taken whole",
    )
    parser.add_argument(
        "--face-detector",
        choices=FACE_DETECTORS,
        help="how faces are found, if the model does not tell; none: the middle square is taken",
    )
    parser.add_argument(
        "--crop-margin",
        type=float,
        metavar="PART",
        help="margin on each side of a face's box, as a fraction of the box, if the model does not"
        " tell",
    )
    parser.add_argument(
        "--faces",
        choices=("largest", "all"),
        default="largest",
        help="faces to score of a picture or frame; default: largest",
    )
    parser.add_argument(
        "--frames",
        type=cli.count,
        default=32,
        metavar="N",
        help="frames of a video, evenly spaced from the first to the last; default: 32",
    )
    parser.add_argument(
        "--processes",
        type=cli.count,
        default=available_cores(),
        metavar="N",
        help="processes that read files and find faces; default: one per core",
    )


def _calibration(network: Detector, args: argparse.Namespace) -> Calibration | None:
    """Returns the calibration that the flags name, or that lies in the model's folder."""
    file = args.calibration or Path(args.model) / CALIBRATION_FILE
    if args.calibration is None and not os.path.lexists(file):
        return None
    found = read_calibration(file, weights_sha256=network.sha256)
    if found.view != network.view:
        raise ConfigError(
            f"{file} was made for faces that are resized as {found.view}, not {network.view}: give"
            f" --view {found.view}, or calibrate again"
        )
    return found


def score_inputs(
    inputs: Sequence[Input],
    network: Detector,
    options: FaceOptions,
    decision: Decision,
    *,
    processes: int,
    timings: Timings,
) -> Iterator[Record]:
    """Yields the record of every input, in the order of the inputs.

    Args:
        inputs: The files.
        network: The detector.
        options: How faces are found.
        decision: How margins become scores and decisions.
        processes: Number of processes that find faces.
        timings: Receives how long the stages take.
    """
    items = [(place, one.media) for place, one in enumerate(inputs) if one.media is not None]
    arguments = [options] * min(processes, max(len(items), 1))
    with contextlib.closing(spread(items, make_worker, arguments)) as stream:
        found = ((place, faces or unreadable(DIED)) for (place, _), faces in stream)
        scored = _margins(found, network, timings)
        done: dict[int, Record] = {}
        for place, one in enumerate(inputs):
            if one.media is None:
                yield make_record(one.path, unreadable(one.error), np.zeros(0), options, decision)
                continue
            while place not in done:
                number, faces, margins = next(scored)
                # The record has no pixels, which would take much memory until its turn comes.
                path = inputs[number].path
                done[number] = make_record(path, faces, margins, options, decision)
            yield done.pop(place)


def _margins(
    found: Iterable[tuple[int, FileFaces]], network: Detector, timings: Timings
) -> Iterator[tuple[int, FileFaces, Float64[np.ndarray, " N"]]]:
    """Yields the files with the margins of their faces, in the same order.

    A batch may contain faces of several files. While the device computes a batch, the faces of the
    next one are collected.
    """
    waiting: deque[tuple[int, FileFaces]] = deque()
    margins: list[float] = []

    def views() -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        started = time.perf_counter()
        for place, faces in found:
            timings.waited_seconds += time.perf_counter() - started
            timings.add(faces)
            waiting.append((place, faces))
            yield from (face.pixels for face in faces.faces)
            started = time.perf_counter()

    def complete() -> Iterator[tuple[int, FileFaces, Float64[np.ndarray, " N"]]]:
        while waiting and len(waiting[0][1].faces) <= len(margins):
            place, faces = waiting.popleft()
            count = len(faces.faces)
            yield place, faces, np.array(margins[:count], np.float64)
            del margins[:count]

    for batch in network.margin_batches_of_views(views()):
        timings.first_score()
        margins += batch.tolist()
        yield from complete()
    yield from complete()


def _check_extras(inputs: Sequence[Input], options: FaceOptions) -> None:
    """Raises ConfigError if a library that the inputs need is not installed."""
    needed = {"dlib"} if options.detector == "dlib" else set()
    if any(one.media is not None and one.media.is_video for one in inputs):
        needed.add("av")
    check_installed(needed, extra="prepare")
