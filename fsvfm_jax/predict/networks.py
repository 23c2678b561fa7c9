"""Opens an encoder or a detector from a run, a folder or a file, and applies it to faces.

A face is a picture that is cropped already. `fsvfm_jax.load` adds the calibration
(`predict.calibrated`).
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float32, Float64, UInt8

from fsvfm_jax.config.fields import BRANCHES
from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import network, unseen
from fsvfm_jax.convert.weights import LoadedWeights, read_source
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rand_augment import CROP_PCT
from fsvfm_jax.data.stats import Stats, load_stats, make_stats
from fsvfm_jax.detectors import NO_DETECTOR, stats_of, to_detector
from fsvfm_jax.errors import ConfigError, DataError, brief
from fsvfm_jax.models import CHOICES, adapter
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.models.vit import ViT, options_of
from fsvfm_jax.predict import programs
from fsvfm_jax.predict.faces import BATCH_SIZE
from fsvfm_jax.predict.pictures import Pictures, views_of
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.train_state import Params

# A program takes parameters and a batch of images, and returns an array with a row per image.
Program = Callable[[Params, UInt8[np.ndarray, "B S S 3"]], jax.Array]

POOLS = (*adapter.POOLS, "patches")
# What gives the values that the weights may not contain: arguments of `load`, and flags.
FIELDS = {
    "stats": "stats (--stats JSON), a file with mean and std",
    "labels": f"labels={LABELS!r} (--labels {','.join(LABELS)})",
}


class Encoder:
    """A network that turns faces into features.

    Attributes:
        model: The network.
        params: The network's parameters.
        path: The workdir, folder or file of the weights.
        stats: Mean and standard deviation that normalise the images.
        view: How a face is resized to the network's input, one of `EVALUATION_TRANSFORMS`.
        batch_size: Largest number of faces that are computed at once.
        facts: What is known of the weights, such as "license", "face_detector" and "crop_margin":
            the fields of `convert.card.Description`. What is unknown may be missing.
        label_names: The classes in the order of the logits; empty for an encoder.
    """

    label_names: tuple[str, ...] = ()

    def __init__(
        self,
        model: ViT,
        params: Params,
        *,
        path: Path,
        stats: Stats,
        view: str,
        facts: Mapping[str, Any],
        batch_size: int,
    ):
        self.model, self.params, self.stats, self.view = model, jax.device_put(params), stats, view
        self.path, self.batch_size, self.facts = path, batch_size, dict(facts)

    @property
    def image_size(self) -> int:
        """The side of the network's input in pixels."""
        return self.model.image_size

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256, in hexadecimal, of all that makes an output of a resized face.

        This is the names, shapes and values of the parameters, the number of attention heads,
        options that are not the papers', the image size if no array shows it, and mean and standard
        deviation. A run, the folder and the `.pth` file that it is exported to have the same.
        """
        digest = hashlib.sha256(f"num_heads {self.model.num_heads}\n".encode())
        digest.update("".join(f"{x} {y}\n" for x, y in options_of(self.model).items()).encode())
        if self.model.positions == "rope":  # No array shows the number of patches.
            digest.update(f"image_size {self.image_size}\n".encode())
        digest.update(np.array(self.stats, np.float32).data)
        arrays = traverse_util.flatten_dict(dict(self.params), sep="/")
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {list(array.shape)}\n".encode())
            digest.update(np.ascontiguousarray(array, np.float32).data)
        return digest.hexdigest()

    def features(
        self, images: Pictures, *, block: int | None = None, pool: str = "mean"
    ) -> Float32[np.ndarray, "N ..."]:
        """Returns the features of faces.

        With `block` the features are the output of that block, without a norm. Without it they
        are the output of the last block after the network's final norm. A detector that pools the
        mean of the patches has no norm for the tokens, but one for the mean: its "mean" is after
        that norm, which makes it the feature that the head takes; its "token" and "patches" are
        without a norm.

        Args:
            images: One face or several: uint8 RGB pixels [H, W, 3] or [N, H, W, 3], a picture of
                Pillow, a path, or an iterable of these.
            block: Number of a block, from 1; None for the last block with the final norm.
            pool: "mean" of the patches, class "token", output of the "attention" pool, or all
                "patches", row by row.

        Returns:
            An array [N, D], or [N, patches, D] for "patches". N is 1 for a single face.

        Raises:
            DataError: An image cannot be read, is not as described above, or its features are not
                finite.
            ConfigError: There is no such block or pool.
        """
        none = np.zeros((0, *self.feature_shape(pool)), np.float32)
        return np.concatenate([none, *self.feature_batches(images, block=block, pool=pool)])

    def feature_shape(self, pool: str) -> tuple[int, ...]:
        """Returns the shape of the features of one face: (D,), or (patches, D) for "patches"."""
        width = self.model.width
        return (self.model.num_patches, width) if pool == "patches" else (width,)

    def feature_batches(
        self, images: Pictures, *, block: int | None = None, pool: str = "mean"
    ) -> Iterator[Float32[np.ndarray, "B ..."]]:
        """Yields the features that `features` returns, a batch at a time.

        An image is taken from an iterable when its batch is computed, so that any number of them
        fits into memory.
        """
        views = views_of(images, size=self.image_size, view=self.view)
        return self.feature_batches_of_views(views, block=block, pool=pool)

    def feature_batches_of_views(
        self,
        views: Iterable[UInt8[np.ndarray, "S S 3"]],
        *,
        block: int | None = None,
        pool: str = "mean",
    ) -> Iterator[Float32[np.ndarray, "B ..."]]:
        """Yields the features of faces that are resized already, as `views_of` returns them."""
        if pool not in POOLS:
            raise ConfigError(f"pool = {brief(pool)} is unknown; choose {', '.join(POOLS)}")
        if pool == "token" and not self.model.class_token:
            raise ConfigError(f"{self.path} has no class token: use pool = 'mean' (--pool)")
        if pool == "attention" and not self.model.pool_heads:
            raise ConfigError(f"{self.path} has no attention pool: use pool = 'mean' (--pool)")
        if pool == "attention" and block is not None:
            raise ConfigError(
                "the attention pool is for the last block: leave out the block (--block), or use"
                " pool = 'mean' (--pool)"
            )
        if block is not None and block not in range(1, self.model.depth + 1):
            raise ConfigError(f"block {brief(block)} does not exist: give 1 to {self.model.depth}")
        program = functools.partial(
            programs.features, model=self.model, stats=self.stats, block=block, pool=pool
        )
        return self._batches(program, views)

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("margins", "predict"):
            raise AttributeError(f"{self.path} {NO_DETECTOR}; it has `features`, and no {name!r}")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _batches(
        self, program: Program, views: Iterable[UInt8[np.ndarray, "S S 3"]]
    ) -> Iterator[np.ndarray]:
        """Yields the program's outputs, a batch at a time.

        Zeros fill the last batch up to the next power of two: a compiled program for each of these
        sizes costs less time than computing many zeros. While the device computes a batch, this
        process reads the images of the next one.
        """
        views, waiting = iter(views), None
        while rows := list(itertools.islice(views, self.batch_size)):
            size = min(2 ** (len(rows) - 1).bit_length(), self.batch_size)
            batch = np.zeros((size, *rows[0].shape), np.uint8)
            batch[: len(rows)] = rows
            computed = program(self.params, batch)
            if waiting is not None:
                yield self._finite_rows(*waiting)
            waiting = computed, len(rows)
        if waiting is not None:
            yield self._finite_rows(*waiting)

    def _finite_rows(self, computed: jax.Array, count: int) -> np.ndarray:
        """Returns the first rows of a program's output, after it is computed."""
        rows = np.asarray(computed)[:count]
        if not np.isfinite(rows).all():
            raise DataError(
                f"the output of {self.path} is not finite: its weights or statistics are damaged"
            )
        return rows


class Detector(Encoder):
    """A network that separates fake faces from real ones, and gives their features, too.

    The logits are in the order of `LABELS`, whatever the order in the weights.

    Attributes:
        temperature: `predict` divides margins by it; 1 without a calibration.
    """

    label_names = LABELS
    temperature: float = 1.0

    @property
    def score_name(self) -> str:
        """The name of the score: "p_spoof" for an anti-spoofing head, otherwise "p_fake"."""
        return "p_spoof" if self.model.fas else "p_fake"

    def predict(self, images: Pictures) -> Float64[np.ndarray, " N"]:
        """Returns the probability that each face is fake; see `features` for the images."""
        return probability(self.margins(images) / self.temperature)

    def margins(self, images: Pictures) -> Float64[np.ndarray, " N"]:
        """Returns logit(fake) - logit(real) of each face, without a temperature."""
        return np.concatenate([np.zeros(0), *self.margin_batches(images)])

    def margin_batches(self, images: Pictures) -> Iterator[Float64[np.ndarray, " B"]]:
        """Yields the margins a batch at a time, as `feature_batches` yields features."""
        return self.margin_batches_of_views(views_of(images, size=self.image_size, view=self.view))

    def margin_batches_of_views(
        self, views: Iterable[UInt8[np.ndarray, "S S 3"]]
    ) -> Iterator[Float64[np.ndarray, " B"]]:
        """Yields the margins of faces that are resized already, as `views_of` returns them."""
        program = functools.partial(programs.margins, model=self.model, stats=self.stats)
        return (margins.astype(np.float64) for margins in self._batches(program, views))


def load(
    path: str | os.PathLike,
    *,
    batch_size: int = BATCH_SIZE,
    labels: Sequence[str] = (),
    stats: Stats | Sequence[Sequence[float]] | str | os.PathLike | None = None,
    num_heads: int | None = None,
    activation: str | None = None,
    view: str | None = None,
    branch: str = "student",
    step: int | None = None,
    entry: str | None = None,
    encoder: str | os.PathLike | None = None,
    dtype: str = "float32",
) -> Encoder | Detector:
    """Opens a network.

    Args:
        path: A workdir, an exported folder, a `.pth` file of the reference, or an encoder of
            another library, as `convert.weights.read_source` reads them.
        batch_size: Largest number of faces that are computed at once.
        labels: The class of each logit of a detector, "fake" and "real", if the weights do not
            contain the names.
        stats: Mean and standard deviation for pixels in 0 to 1, or a JSON file with them. None
            takes those of the weights.
        num_heads: Number of attention heads, if the weights do not contain it.
        activation: One of `models.activations.ACTIVATIONS`, if the weights do not say it.
        view: One of `EVALUATION_TRANSFORMS`. None takes that of the weights, or "resize".
        branch: "student" or "teacher", of a workdir or file that has both.
        step: Step of a workdir's checkpoint; None is the newest.
        entry: Entry of a file with several networks.
        encoder: Folder of the encoder, if `path` does not contain it.
        dtype: Type of the computation, "float32" or "bfloat16".

    Raises:
        DataError: There are no such weights, or they are damaged.
        ConfigError: A value that the weights do not contain is not given, or a given value does not
            fit the weights.
    """
    path = Path(path)
    _check(batch_size=batch_size, branch=branch, dtype=dtype)
    given = {"num_heads": num_heads, "activation": activation}
    source = read_source(
        path,
        branch=branch,
        given={name: value for name, value in given.items() if value is not None},
        step=step,
        encoder=None if encoder is None else Path(encoder),
        entry=entry,
    )
    _check_labels(source, path, labels)
    about = {"path": path, "facts": source.facts, "batch_size": batch_size}
    about["view"] = _view(source.facts, path, given=view)
    if reference.kind(source.params) != "detector":
        known = stats_of(source, path, given=_stats(stats), field=FIELDS["stats"])
        return Encoder(*_encoder(source, dtype=dtype), stats=known, **about)
    made = to_detector(source, path, stats=_stats(stats), labels=labels, dtype=dtype, fields=FIELDS)
    return Detector(made.model, made.params, stats=made.stats, **about)


def _check(*, batch_size: int, branch: str, dtype: str) -> None:
    """Raises ConfigError if an argument of `load` has a value that it cannot have."""
    if batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size} is no number from 1 up")
    for name, value, choices in (
        ("branch", branch, BRANCHES),
        ("dtype", dtype, CHOICES["dtype"]),
    ):
        if value not in choices:
            raise ConfigError(f"{name} = {brief(value)} is unknown; choose {' or '.join(choices)}")


def _encoder(source: LoadedWeights, *, dtype: str) -> tuple[ViT, Params]:
    """Returns the encoder in weights that are no detector's, and its parameters."""
    params = encoder_subset(source.params)
    return network(params, **unseen(source.model)).clone(dtype=dtype), params


def _view(facts: Mapping[str, Any], path: Path, *, given: str | None) -> str:
    """Returns how a face is resized, from the facts about the weights or as it is given."""
    interpolation, crop_pct = facts.get("interpolation", "bicubic"), facts.get("crop_pct", 1.0)
    if interpolation != "bicubic":
        raise ConfigError(
            f"{path} resizes images with the interpolation {interpolation}, and only bicubic is"
            " supported: export the network with bicubic if it was trained so"
        )
    if given is not None:
        if given not in CROP_PCT:
            raise ConfigError(f"view = {brief(given)} is unknown; choose {', '.join(CROP_PCT)}")
        return given
    for view, part in CROP_PCT.items():
        if part == crop_pct:
            return view
    raise ConfigError(
        f"{path} has crop_pct {crop_pct}, and only {' and '.join(map(str, CROP_PCT.values()))} are"
        " supported: give view (--view)"
    )


def _stats(given: Stats | Sequence[Sequence[float]] | str | os.PathLike | None) -> Stats | None:
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return load_stats(given)
    try:
        return make_stats(*given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"stats = {brief(given)} are no mean and std of red, green and blue ({error})"
        ) from error


def _check_labels(source: LoadedWeights, path: Path, labels: Sequence[str]) -> None:
    """Raises ConfigError if labels are given that are not those of the weights."""
    if labels and reference.kind(source.params) != "detector":
        raise ConfigError(f"{path} is an encoder, which has no labels: leave them out")
    stored = tuple(source.facts.get("label_names") or ())
    if stored and labels and tuple(labels) != stored:
        raise ConfigError(f"{path} has the labels {brief(stored)}, not {brief(tuple(labels))}")
