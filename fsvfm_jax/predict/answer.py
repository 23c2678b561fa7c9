"""Scores an uploaded file as `score` does, and draws what the page shows of it."""

import base64
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.rand_augment import CROP_PCT
from fsvfm_jax.host.pictures import encode_png
from fsvfm_jax.mask_pictures import masks_picture
from fsvfm_jax.masking import Masks, sample_masks
from fsvfm_jax.predict.decision import Decision, make_record
from fsvfm_jax.predict.faces import Face, FileFaces, unreadable
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.predict.plots import first_faces, with_boxes
from fsvfm_jax.predict.upload import UploadOptions, make_worker
from fsvfm_jax.prepare.average import average_map
from fsvfm_jax.prepare.crops import MARGIN
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.prepare.workers import DIED, Worker
from fsvfm_jax.regions import patch_classes

MAX_MASKED = 4  # faces whose masks are drawn
OTHER_CROPS = """\
The regions are those of an average face in a crop of 1.3 times its box. This model crops faces in
another way, so the regions may not lie on the face."""
AVERAGE_REGIONS = "The regions are those of an average face; pretraining takes those of each face."
_MIN_SIDE = 224  # smaller faces are drawn larger


class Answerer:
    """Answers requests: faces are found in several processes, and one network scores them.

    Args:
        network: The detector.
        options: The options that determine what is done with a file.
        decision: How margins become scores and decisions.
        processes: Number of processes that find faces.
        max_seconds: The longest time for finding the faces of a file.
    """

    def __init__(
        self,
        network: Detector,
        options: UploadOptions,
        decision: Decision,
        *,
        processes: int,
        max_seconds: float | int,
    ):
        self._network, self._options, self._decision = network, options, decision
        self._max_seconds = max_seconds
        self._maps, self._masks = _average_masks(network)
        self._lock = threading.Lock()
        # This compiles the program for one face before the first request.
        network.margins(np.zeros((network.image_size, network.image_size, 3), np.uint8))
        self._workers = [Worker(make_worker, options) for _ in range(processes)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()

    def answer(self, media: MediaFile) -> dict[str, Any]:
        """Returns the record of a file, pictures, and a note, which `json` can write.

        Several threads may call this function.

        Args:
            media: The file; its name is the one in the record.
        """
        found = self._faces(media)
        faces = found.faces
        with self._lock:
            views = [face.pixels for face in faces]
            batches = self._network.margin_batches_of_views(views)
            margins = np.concatenate([np.zeros(0), *batches])
        record = make_record(
            media.name,
            found,
            margins=margins,
            options=self._options.faces,
            decision=self._decision,
        )
        name = self._decision.score_name
        shown = found.shown
        own = [] if shown is None else [x for x in record["faces"] if x["frame"] == shown.frame]
        return {
            "record": record,
            "score_name": name,
            "shown_frame": None if shown is None else shown.frame,
            "picture": None if shown is None else _url(with_boxes(shown, own, score_name=name)),
            "masks": _url(self._draw_masks(first_faces(faces, most=MAX_MASKED))) if faces else None,
            "masks_note": self._masks_note(),
        }

    def _faces(self, media: MediaFile) -> FileFaces:
        with self._worker() as worker:
            try:
                found = worker.do(media, seconds=self._max_seconds)
            except TimeoutError:
                return unreadable(f"it took over {self._max_seconds:g} s")
        return found or unreadable(DIED)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def _draw_masks(self, faces: Sequence[Face]) -> UInt8[np.ndarray, "H W 3"]:
        """Returns a picture with a row per face: the face, the average regions and a mask."""
        count, factor = len(faces), max(1, _MIN_SIDE // self._network.image_size)
        images = np.stack([face.pixels for face in faces])
        masks = Masks(*(array[:count] for array in self._masks))
        return masks_picture(
            images.repeat(factor, axis=1).repeat(factor, axis=2),
            self._maps[:count].repeat(factor, axis=1).repeat(factor, axis=2),
            {"mask of pretraining": masks},
            patch_size=factor * self._network.model.patch_size,
        )

    def _masks_note(self) -> str:
        faces = self._options.faces
        # `average_map` fits the crops of `prepare detect`.
        fits = faces.detector == "dlib" and faces.crop_margin == MARGIN
        return AVERAGE_REGIONS if fits else OTHER_CROPS


def _average_masks(network: Detector) -> tuple[UInt8[np.ndarray, "B S S"], Masks]:
    """Returns the regions of an average face as the network sees it, and masks of pretraining."""
    size = network.image_size
    whole = round(size / CROP_PCT[network.view])
    start = (whole - size) // 2
    regions = average_map(whole, whole)[start : start + size, start : start + size]
    maps = np.stack([regions] * MAX_MASKED)
    masks = sample_masks(jax.random.key(0), patch_classes(maps, network.model.patch_size))
    return maps, Masks(*map(np.asarray, masks))


def _url(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """Returns the picture as an address that contains it."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"
