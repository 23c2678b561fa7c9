"""The verb `score`: how fake the faces of photographs and videos look to a detector.

Worker processes decode files and find faces; this process computes the scores in batches, and
writes one record per file in the order of the inputs.
"""

import argparse
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from fsvfm_jax import cli
from fsvfm_jax.detectors import NO_DETECTOR
from fsvfm_jax.errors import ConfigError, DataError, SomeFailed, told
from fsvfm_jax.host.progress import progress
from fsvfm_jax.predict import arguments, curves
from fsvfm_jax.predict.calibration import Calibration, calibration_of
from fsvfm_jax.predict.decision import Decision, decide_by, make_record
from fsvfm_jax.predict.faces import (
    CROPPED,
    FaceOptions,
    FileFaces,
    find_faces,
    most_faces,
    unreadable,
)
from fsvfm_jax.predict.inputs import Input, find_inputs
from fsvfm_jax.predict.networks import Detector, Encoder
from fsvfm_jax.predict.records import FORMATS, Record, check_new_file, record_writer
from fsvfm_jax.predict.timings import Timings
from fsvfm_jax.prepare.detect import check_libraries

logger = logging.getLogger(__name__)

FACE_DETECTORS = ("dlib", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_inputs(parser, what="image, video, folder")
    arguments.add_arguments(parser)
    add_face_arguments(parser)
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
    inputs = find_inputs(args.inputs, root=args.root)
    network = arguments.load_network(args)
    if not isinstance(network, Detector):
        raise DataError(f"{args.model} {NO_DETECTOR}")
    options = face_options(network, args)
    check_libraries(
        (one.media for one in inputs if one.media is not None), detector=options.detector
    )
    decision = decide_by(network.score_name, args.threshold, find_calibration(network, args))
    logger.info("%s", decision.about)
    timings = Timings()
    failed = 0
    with record_writer(args.output, score_name=decision.score_name) as write:
        records = score_inputs(
            inputs,
            network=network,
            options=options,
            decision=decision,
            processes=args.processes,
            timings=timings,
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


def find_calibration(network: Detector, args: argparse.Namespace) -> Calibration | None:
    """Returns the calibration that the flags name, or the model's own, if there is one.

    Raises:
        UserError: As `calibration_of`.
    """
    given = {name: getattr(args, name) for name in ("face_detector", "crop_margin")}
    facts = network.facts | {name: value for name, value in given.items() if value is not None}
    return calibration_of(network, args.model, file=args.calibration, facts=facts)


def face_options(network: Encoder, args: argparse.Namespace) -> FaceOptions:
    """Returns how the faces of the inputs are found, from the model's facts and the flags.

    Args:
        network: The network.
        args: The flags of `add_arguments`.

    Raises:
        ConfigError: The model does not tell how its faces were found and the flags do not, or flags
            fit neither the model nor each other.
    """
    if args.cropped:
        if args.face_detector is not None or args.crop_margin is not None:
            raise ConfigError(
                "--cropped takes pictures whole: leave out --face-detector and --crop-margin"
            )
        detector, margin = CROPPED, 0.0
    else:
        detector, margin = _detector_and_margin(network, args)
    if args.frames > (most := most_faces(network.image_size)):
        raise ConfigError(
            f"--frames={args.frames} takes too much memory with faces of {network.image_size}"
            f" pixels: give at most {most}"
        )
    return FaceOptions(detector, margin, args.faces, args.frames, network.image_size, network.view)


def _detector_and_margin(network: Encoder, args: argparse.Namespace) -> tuple[str, float | int]:
    """Returns the face detector and the margin around its boxes, of the model or of flags."""
    detector = _told_or_given(network, args, "face_detector")
    margin = _told_or_given(network, args, "crop_margin")
    if detector is None:
        raise ConfigError(
            f"{args.model} does not tell how its faces were found: give --face-detector dlib and"
            " --crop-margin PART (0.15 if `prepare detect` made the crops of its training), or"
            " --cropped if the inputs are cropped faces"
        )
    if detector not in FACE_DETECTORS:
        raise ConfigError(
            f"{args.model} was trained on faces that {told(detector)} found, which is not available"
            " here: crop the faces with it and give --cropped"
        )
    if detector == "none":
        if args.crop_margin is not None:
            raise ConfigError(
                "--face-detector none takes the middle square, which has no margin: leave out"
                " --crop-margin"
            )
        return detector, 0.0
    if margin is None:
        raise ConfigError(
            f"{args.model} does not tell the margin around its faces: give --crop-margin PART (0.15"
            " if `prepare detect` made the crops of its training)"
        )
    if not 0 <= margin <= 10:
        raise ConfigError(f"--crop-margin={margin} is not from 0 to 10")
    return detector, margin


def _told_or_given(network: Encoder, args: argparse.Namespace, name: str) -> Any:
    """Returns what the model tells about its faces, or else a flag; refuses another value."""
    stored, given = network.facts.get(name), getattr(args, name)
    if stored is None or given is None or given == stored:
        return given if stored is None else stored
    flag = f"--{name.replace('_', '-')}"
    raise ConfigError(
        f"{flag}={given}, but {args.model} was trained with {told(stored)}: leave out {flag}; or"
        f" correct the model, by `convert to folder` with {flag}={given}"
    )


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that determine how faces are found and decided on."""
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
    arguments.add_calibration(parser)
    parser.add_argument(
        "--threshold",
        default=None,
        metavar="NUMBER|NAME",
        help="score from which a file is decided to be fake: a number, or an operating point of the"
        " calibration; default: fpr_1, or fpr_5, or eer, the first"
        " that the calibration determines; 0.5 without one",
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


def score_inputs(
    inputs: Sequence[Input],
    *,
    network: Detector,
    options: FaceOptions,
    decision: Decision,
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
    record = functools.partial(make_record, options=options, decision=decision)
    with contextlib.closing(find_faces(inputs, options, processes=processes)) as found:
        scored = _margins(found, network, timings)
        done: dict[int, Record] = {}
        for place, one in enumerate(inputs):
            if one.media is None:
                yield record(one.path, unreadable(one.error), margins=np.zeros(0))
                continue
            while place not in done:
                number, faces, margins = next(scored)
                # The record has no pixels, which would take much memory until its turn comes.
                done[number] = record(inputs[number].path, faces, margins=margins)
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
