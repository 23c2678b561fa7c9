"""Scores every face of a set exactly once with a detector, on any number of devices."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int64, UInt8
from ml_collections import ConfigDict

from fsvfm_jax import finetune
from fsvfm_jax.data.elements import evaluation_element
from fsvfm_jax.data.labelled.detection_sets import DetectionSet
from fsvfm_jax.data.labelled.faces import FAKE, REAL
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.data.sources import Source
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import DataError
from fsvfm_jax.host.progress import progress
from fsvfm_jax.models.adapter import Detector
from fsvfm_jax.report import metrics
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.report.scores import Scores, scores_of
from fsvfm_jax.train_state import Batch, Params, Validate
from fsvfm_jax.tuning import make_tuning, merge

logger = logging.getLogger(__name__)

MAX_SHOWN = 20  # unreadable faces with a log line each

# A Predict takes parameters and a batch, and returns for each row the margin and whether the face
# was read, on every process.
Predict = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


class Readable:
    """A source that returns an empty image for a face that cannot be read.

    It logs nothing, because workers read ahead and may read a face several times.
    """

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the faces, each with the key `readable`."""
        try:
            return [{**face, "readable": True} for face in self._source.read(indices)]
        except DataError:
            if len(indices) > 1:
                return [self[index] for index in indices]
            return [{"image": np.zeros((1, 1, 3), np.uint8), "readable": False}]


def margins_of(
    model: Detector, params: Params, images: UInt8[Array, "B H W 3"], *, stats: Stats
) -> Float[Array, " B"]:
    """Returns the margin logit(fake) - logit(real) of each face, float32."""
    logits = finetune.classify(model, params, images, stats=stats)
    return logits[:, FAKE] - logits[:, REAL]


def make_predict(model: Detector, *, stats: Stats, mesh: Mesh) -> Predict:
    """Returns a `Predict`, compiled on its first call."""

    def margins(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return margins_of(model, params, batch["image"], stats=stats), batch["readable"]

    jitted = jax.jit(margins, out_shardings=sharding.replicated(mesh))

    def predict(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        with jax.set_mesh(mesh):
            return jitted(params, batch)

    return predict


class Feed(NamedTuple):
    """The settings with which the faces of a set are read and passed to a network.

    Attributes:
        image_size: Width and height of the network's input, in pixels.
        view: "resize" or "resize256_crop224".
        batch_size: Images per batch, over all devices.
        num_workers: Processes that read and decode on each host; 0 uses threads.
        mesh: The mesh over all devices.
    """

    image_size: int
    view: str
    batch_size: int
    num_workers: int
    mesh: Mesh


def feed_of(config: ConfigDict, model: Detector, mesh: Mesh) -> Feed:
    """Returns the `Feed` of a resolved config of fine-tuning or of an evaluation."""
    data = config.data
    return Feed(model.image_size, data.view, config.batch_size, data.num_workers, mesh)


def score_set(
    predict: Predict,
    params: Params,
    faces: Source,
    *,
    feed: Feed,
    name: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Float64[np.ndarray, " N"]:
    """Returns the margin of every face, in the set's order and on every process; NaN if unread.

    Global batch k contains the `batch_size` faces from index k * batch_size. The last batch is
    filled with the first faces of the set, and their second margins are dropped.

    Args:
        predict: Computes the margins of a batch, as `make_predict` returns it.
        params: The detector's parameters, replicated on all devices.
        faces: The set.
        feed: The settings for reading the faces.
        name: Name of the set in the progress and in messages.
        after_batch: Called after every batch; the scoring ends if it raises an error.

    Raises:
        DataError: The network's output is not finite.
    """
    batches = make_iterator(
        Readable(faces),
        element=partial(evaluation_element, size=feed.image_size, view=feed.view),
        global_batch_size=feed.batch_size,
        seed=0,
        shuffle=False,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=feed.num_workers,
    )
    count = -(-len(faces) // feed.batch_size)
    found = []
    with contextlib.closing(batches):
        stream = itertools.islice(batches, count)
        if jax.process_index() == 0:
            stream = progress(stream, total=count, description=f"batches of {name}")
        for batch in stream:
            outputs = predict(params, sharding.put_batch(batch, feed.mesh))
            margins, readable = (np.asarray(output) for output in outputs)
            if not np.isfinite(margins).all():
                raise DataError(f"{name}: what the network says is not finite: it cannot be judged")
            margins = np.where(readable, margins.astype(np.float64), np.nan)
            found.append(margins)
            after_batch()
    margins = np.concatenate(found)[: len(faces)]
    if jax.process_index() == 0:
        _warn_of_unread(faces, np.flatnonzero(np.isnan(margins)), name=name)
    return margins


def _warn_of_unread(faces: Source, unread: Int64[np.ndarray, " _N"], *, name: str) -> None:
    """Logs why the first `MAX_SHOWN` of the faces could not be read, and the number of all."""
    for index in unread[:MAX_SHOWN]:
        try:
            faces.read([int(index)])
        except DataError as error:
            logger.warning("%s; it is left out and counted", error)
    if len(unread):
        logger.warning("%s: %d of %d faces are left out", name, len(unread), len(faces))


def to_scores(margins: Float64[np.ndarray, " N"], faces: DetectionSet, *, dataset: str) -> Scores:
    """Converts margins to probabilities of fake; unread faces are left out and counted.

    Args:
        margins: The margins, as `score_set` returns them.
        faces: The set.
        dataset: Name of the set in the scores.
    """
    kept = np.flatnonzero(~np.isnan(margins))
    return scores_of(faces, kept, probability(margins[kept]), dataset=dataset)


def validation_scores(
    margins: Sequence[Float64[np.ndarray, " _N"]], sets: Sequence[DetectionSet]
) -> dict[str, float]:
    """Returns the scores over all validation sets together.

    Args:
        margins: The margins of each set, as `score_set` returns them.
        sets: The sets, in the same order.

    Returns:
        `val_loss` (cross-entropy without label smoothing), `val_frame_auc`, `val_video_auc`, and
        `val_unread`, the number of faces that could not be read.
    """
    all_margins, fake, videos = [], [], []
    for number, (of_set, faces) in enumerate(zip(margins, sets, strict=True)):
        all_margins.append(of_set)
        fake += [faces.label(index) == FAKE for index in range(len(faces))]
        videos += [f"{number}/{faces.video(index)}" for index in range(len(faces))]
    margin, is_fake, video = np.concatenate(all_margins), np.array(fake), np.array(videos)
    read = ~np.isnan(margin)
    margin, is_fake, video = margin[read], is_fake[read], video[read]
    of_videos = metrics.video_means(probability(margin), is_fake, video)
    return {
        "val_loss": float(np.logaddexp(0, np.where(is_fake, -margin, margin)).mean()),
        "val_frame_auc": metrics.auc(margin, is_fake),
        "val_video_auc": metrics.auc(of_videos.scores, of_videos.positive),
        "val_unread": float((~read).sum()),
    }


def open_validation(
    config: ConfigDict, sets: Sequence[DetectionSet], stats: Stats, *, mesh: Mesh, model: Detector
) -> Validate:
    """Returns a function that computes the `validation_scores` of a network's parameters.

    Args:
        config: The resolved config of fine-tuning.
        sets: The validation sets.
        stats: Mean and standard deviation that normalise the images.
        mesh: The mesh over all devices.
        model: The network.
    """
    predict = make_predict(model, stats=stats, mesh=mesh)
    feed, tuning = feed_of(config, model, mesh), make_tuning(config)

    def validate(params: Params, after_batch: Callable[[], None]) -> dict[str, float]:
        if tuning.mode == "lora":
            params = jax.jit(merge, static_argnames="tuning")(params, tuning=tuning)
        margins = [
            score_set(
                predict,
                params,
                faces,
                feed=feed,
                name=f"validation {number}",
                after_batch=after_batch,
            )
            for number, faces in enumerate(sets, start=1)
        ]
        return validation_scores(margins, sets)

    return validate
