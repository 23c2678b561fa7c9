"""Computes the records of many files: processes find faces, and the network scores them in batches.

A batch may contain faces of several files. While the device computes a batch, the faces of the next
one are collected. A slow file makes no other one wait for its batch to be full.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float64, UInt8

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict.decision import Decision, make_record
from fsvfm_jax.predict.faces import FaceOptions, FileFaces, find_faces, unreadable
from fsvfm_jax.predict.inputs import Input
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.shown import Shown
from fsvfm_jax.predict.timings import Timings
from fsvfm_jax.prepare.detect import check_libraries

# If no file is finished for so long, the faces that wait are scored in a batch that is not full.
IDLE_SECONDS = 3.0
# Takes the place of a file among the inputs, its record, and a picture of it.
Finish = Callable[[int, Record, Shown | None], None]
_Scored = Callable[[int, FileFaces, Float64[np.ndarray, " N"]], None]


def score_inputs(
    inputs: Iterable[Input],
    finish: Finish,
    *,
    network: Detector,
    options: FaceOptions,
    decision: Decision,
    processes: int,
    timings: Timings,
) -> None:
    """Scores every input.

    Args:
        inputs: The files.
        finish: Called with the record of each file, in the order in which they are finished.
        network: The detector.
        options: How faces are found.
        decision: How margins become scores and decisions.
        processes: Number of processes that find faces.
        timings: Receives how long the stages take.
    """
    paths: dict[int, str] = {}  # of the files that the processes have

    def scored(place: int, found: FileFaces, margins: Float64[np.ndarray, " N"]) -> None:
        path = paths.pop(place)
        record = make_record(path, found, margins=margins, options=options, decision=decision)
        finish(place, record, found.shown)

    def readable() -> Iterator[Input]:
        for place, one in enumerate(inputs):
            one = _with_library(one)
            paths[place] = one.path
            if one.media is None:
                scored(place, unreadable(one.error), np.zeros(0))
            yield one

    search = find_faces(readable(), options, processes=processes, idle_seconds=IDLE_SECONDS)
    with contextlib.closing(search) as found:
        _score(found, scored, network=network, timings=timings)


def _with_library(one: Input) -> Input:
    """Returns a video as unreadable if the library that decodes videos is missing."""
    if one.media is None or not one.media.is_video:
        return one
    try:
        check_libraries([one.media], detector="none")
    except ConfigError as error:
        return Input(one.path, None, f"it is a video, and {error}")
    return one


def _score(
    found: Iterator[tuple[int, FileFaces] | None],
    scored: _Scored,
    *,
    network: Detector,
    timings: Timings,
) -> None:
    """Calls `scored` with every file and the margins of its faces."""
    waiting: deque[tuple[int, FileFaces]] = deque()
    margins: list[float] = []
    is_complete = False

    def views() -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        """Yields the views of faces until all are found, or the search is slow."""
        nonlocal is_complete
        started = time.perf_counter()
        for one in found:
            timings.waited_seconds += time.perf_counter() - started
            if one is None and waiting:
                return
            if one is not None:
                timings.add(one[1])
                if one[1].faces:
                    waiting.append(one)
                    yield from (face.pixels for face in one[1].faces)
                else:
                    scored(*one, np.zeros(0))
            started = time.perf_counter()
        is_complete = True

    while not is_complete:
        for batch in network.margin_batches_of_views(views()):
            timings.first_score()
            margins += batch.tolist()
            while waiting and len(waiting[0][1].faces) <= len(margins):
                place, faces = waiting.popleft()
                count = len(faces.faces)
                scored(place, faces, np.array(margins[:count], np.float64))
                del margins[:count]
