"""Probes a network while it is trained: what its features contain, and how well it reconstructs.

The faces are read once and stay in the memory of the host. A probe only reads the state, so that
training is bit for bit the same with and without it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int64, Shaped
from ml_collections import ConfigDict

from fsvfm_jax import losses
from fsvfm_jax.data.elements import evaluation_element, to_batch_element
from fsvfm_jax.data.labelled.detection_sets import (
    DetectionSet,
    check_classes,
    fingerprints_of,
    labels_of,
    open_sets,
    warn_of_common_videos,
)
from fsvfm_jax.data.labelled.faces import FAKE, LABELS, spaced
from fsvfm_jax.data.pipeline import HostBatch, read_faces
from fsvfm_jax.data.sources import FaceSet, JoinedSets
from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.masking import group_members
from fsvfm_jax.predict import programs
from fsvfm_jax.pretrain import Pretraining, normalize_images
from fsvfm_jax.probe.features import Labelled, knn_scores, linear_scores, rankme, spectrum
from fsvfm_jax.regions import GROUPS
from fsvfm_jax.report import metrics
from fsvfm_jax.run.faults import fault
from fsvfm_jax.scoring import Readable
from fsvfm_jax.train_state import Batch, Probe, TrainState

logger = logging.getLogger(__name__)

PARTS = ("train", "test")
# Largest number of faces that a device computes at once.
FACES_AT_ONCE = 64


class ProbeFaces(NamedTuple):
    """The labelled faces of a probe: those to fit to, and those to test on.

    Attributes:
        source: All faces of all sets.
        rows: Index of each chosen face in `source`.
        fake: True for a fake face.
        videos: Name of each face's video.
        tested: True for a face to test on.
    """

    source: JoinedSets
    rows: Int64[np.ndarray, " N"]
    fake: Bool[np.ndarray, " N"]
    videos: Shaped[np.ndarray, " N"]
    tested: Bool[np.ndarray, " N"]


class ProbeOutputs(NamedTuple):
    """What the devices compute in a probe, with the rows that fill the batches.

    Attributes:
        own: Features of faces of the training set.
        errors: Mean squared error of the removed patches: of all, then of each of `regions.GROUPS`.
            NaN if no patch of the group is removed.
        labelled: Features of the labelled faces.
        readable: Whether each labelled face was read.
    """

    own: Float[Array, "N D"]
    errors: Float[Array, " G"]
    labelled: Float[Array, "M D"]
    readable: Bool[Array, " M"]


def open_probe(
    config: ConfigDict, *, source: FaceSet, mesh: Mesh
) -> Callable[[Pretraining, TrainState], Probe] | None:
    """Opens the labelled sets of a probe, without reading a face.

    Args:
        config: The resolved config of pretraining.
        source: The training faces.
        mesh: The mesh over all devices.

    Returns:
        A function from the learner and the template of its state to a `Probe`; it reads the faces
        and compiles. None if `config.probe.every` is 0.

    Raises:
        UserError: A set cannot be opened.
    """
    if not config.probe.every:
        return None
    sets = {
        part: open_sets(
            config.probe[part],
            config.probe.paths,
            image_size=config.model.image_size,
            field=f"config.probe.{part}",
        )
        for part in PARTS
    }
    for part in PARTS:
        check_classes(sets[part], purpose="the probe", where=f" (config.probe.{part})")
    distributed.check_same(
        " ".join(fingerprints_of(sets[part]) for part in PARTS), what="probe sets"
    )
    warn_of_common_videos(sets["train"].values(), sets["test"].values(), use="a probe is fitted to")
    return partial(_make_probe, config, source, choose(sets, faces=config.probe.faces), mesh)


def choose(sets: Mapping[str, Mapping[str, DetectionSet]], *, faces: int) -> ProbeFaces:
    """Chooses faces of each part that are evenly spaced over its sets, half of them fake.

    Args:
        sets: The sets by part and name.
        faces: Largest number of faces of each part.
    """
    flat = [(part, one) for part in PARTS for one in sets[part].values()]
    labels = np.concatenate([labels_of(one) for _, one in flat])
    tested = np.concatenate([np.full(len(one), part == "test") for part, one in flat])
    kept = []
    for part_tested in (False, True):
        for label in range(len(LABELS)):
            of_class = np.flatnonzero((tested == part_tested) & (labels == label))
            kept.append(of_class[spaced(len(of_class), faces // 2)])
    rows = np.concatenate(kept)
    joined = JoinedSets([one for _, one in flat])
    starts = np.concatenate([[0], np.cumsum(joined.sizes)])
    number = np.searchsorted(starts, rows, side="right") - 1
    pairs = zip(number, rows, strict=True)
    videos = [f"{n}/{flat[n][1].video(int(row - starts[n]))}" for n, row in pairs]
    return ProbeFaces(joined, rows, labels[rows] == FAKE, np.array(videos), tested[rows])


def _make_probe(
    config: ConfigDict,
    source: FaceSet,
    chosen: ProbeFaces,
    mesh: Mesh,
    learner: Pretraining,
    template: TrainState,
) -> Probe:
    """Reads the faces, compiles the program, and returns the probe."""
    count = min(config.probe.faces, len(source))
    places = np.arange(count) * len(source) // count
    own = _own_rows(config, source, _rows_of_process(places, mesh))
    labelled = _labelled_rows(config, chosen, _rows_of_process(chosen.rows, mesh))
    compute = partial(_compute, learner, branch=config.probe.branch, own_faces=count)
    program = jax.jit(compute, out_shardings=sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        batches = [sharding.put_batch(rows, mesh) for rows in (own, labelled)]
        compiled = program.lower(template, *batches).compile()

    def probe(state: TrainState, step: int) -> Callable[[], dict[str, float]]:
        fault("probe", step, process=jax.process_index())
        found = compiled(state, *(sharding.put_batch(rows, mesh) for rows in (own, labelled)))
        return lambda: measure(jax.device_get(found), chosen, own_faces=count, k=config.probe.k)

    return probe


def _padded(count: int, devices: int) -> tuple[int, int]:
    """Returns the rows of a batch of at least `count` faces, and the chunks in which to compute it.

    All devices have equally many rows of each chunk, at most `FACES_AT_ONCE`.
    """
    of_device = -(-count // devices)
    chunks = -(-of_device // FACES_AT_ONCE)
    return devices * chunks * -(-of_device // chunks), chunks


def _rows_of_process(indices: Int64[np.ndarray, " N"], mesh: Mesh) -> list[int]:
    """Returns the indices of this process's rows; the first faces fill the rows after the last."""
    padded, _ = _padded(len(indices), mesh.size)
    filled = np.resize(indices, padded)
    return np.split(filled, jax.process_count())[jax.process_index()].tolist()


def _own_rows(config: ConfigDict, source: FaceSet, indices: Sequence[int]) -> HostBatch:
    faces, _ = read_faces(source, indices, replace=config.data.skip_corrupt > 0)
    return _stacked([to_batch_element(face, config.model.patch_size) for face in faces])


def _labelled_rows(config: ConfigDict, chosen: ProbeFaces, indices: Sequence[int]) -> HostBatch:
    source, size = Readable(chosen.source), config.model.image_size
    # One face at a time: stored faces may be much larger than the rows.
    rows = [
        evaluation_element(source[index], (0, 0), size=size, view="resize") for index in indices
    ]
    unread = {index for index, row in zip(indices, rows, strict=True) if not row["readable"]}
    if unread:
        name = chosen.source.name(min(unread))
        logger.warning("the probe leaves out %d unreadable faces, such as %s", len(unread), name)
    return _stacked(rows)


def _stacked(rows: Sequence[Mapping[str, Any]]) -> HostBatch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _compute(
    learner: Pretraining,
    state: TrainState,
    own: Batch,
    labelled: Batch,
    *,
    branch: str,
    own_faces: int,
) -> ProbeOutputs:
    """Computes features and errors; the rows of `own` from `own_faces` on only fill the batch."""
    params = state.params if branch == "student" else state.teacher_params
    model, stats = learner.model, learner.stats
    features = partial(programs.features, params, model=model, stats=stats, block=None, pool="mean")

    def errors_of(rows: tuple[Any, ...]) -> Float[Array, "B N"]:
        images, masks = normalize_images(rows[0], stats), rows[1]
        student = model.apply({"params": state.params}, images, masks, method="student")
        norm_pix = learner.loss["norm_pix"]
        target = losses.patch_targets(images, model.patch_size, norm_pix=norm_pix)
        return losses.patch_errors(student.prediction, target)

    # As in `Pretraining.draw`, the masks are always those of key 0.
    masks = learner.sample(jax.random.key(0), own["classes"])
    errors = _in_chunks(errors_of, (own["image"], masks))
    is_face = jnp.arange(len(errors)) < own_faces
    removed = masks.mask.astype(bool) & is_face[:, None]
    return ProbeOutputs(
        own=_in_chunks(features, own["image"]),
        errors=region_errors(errors, removed, group_members(own["classes"])),
        labelled=_in_chunks(features, labelled["image"]),
        readable=labelled["readable"],
    )


def region_errors(
    errors: Float[Array, "B N"], removed: Bool[Array, "B N"], members: Bool[Array, "B G N"]
) -> Float[Array, " _"]:
    """Returns the mean error of all removed patches, and of those of each facial group.

    Args:
        errors: Error of every patch.
        removed: True for a removed patch.
        members: True for a patch that belongs to the group, as `masking.group_members` returns it.

    Returns:
        G + 1 means; NaN for a group without removed patches.
    """
    everything = jnp.ones_like(members[:, :1])
    counted = jnp.concatenate([everything, members], axis=1) & removed[:, None]
    total = jnp.where(counted, errors[:, None], 0).sum(axis=(0, 2))
    return total / counted.sum(axis=(0, 2))


def _in_chunks(compute: Callable[[Any], Array], rows: Any) -> Array:
    """Computes rows in chunks, one after another, as `accumulate_gradients` computes a batch."""
    size = len(jax.tree.leaves(rows)[0])
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    _, chunks = _padded(size, devices)
    split = jax.tree.map(lambda x: x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1), rows)
    found = jax.lax.map(compute, split)
    return found.swapaxes(0, 1).reshape(size, *found.shape[2:])


def measure(found: ProbeOutputs, chosen: ProbeFaces, *, own_faces: int, k: int) -> dict[str, float]:
    """Returns the numbers of a probe by name; NaN where a number is not defined.

    Args:
        found: What the devices have computed, as NumPy arrays.
        chosen: The labelled faces, without the rows that fill the batch.
        own_faces: Number of faces of the training set, without the rows that fill the batch.
        k: Number of neighbours.
    """
    names = ("probe_rec", *(f"probe_rec_{group}" for group in GROUPS))
    numbers = dict(zip(names, map(float, found.errors), strict=True))
    own = found.own[:own_faces]
    if np.isfinite(own).all():
        numbers["probe_rankme"] = rankme(own)
        numbers["probe_variance"] = float(own.var(axis=0, dtype=np.float64).mean())
        numbers |= {f"probe_spectrum_{n}": share for n, share in spectrum(own).items()}
    features = found.labelled[: len(chosen.rows)]
    read = found.readable[: len(chosen.rows)] & np.isfinite(features).all(axis=1)
    train, test = (
        Labelled(features[of_part], chosen.fake[of_part], chosen.videos[of_part])
        for of_part in (read & ~chosen.tested, read & chosen.tested)
    )
    if any(len(np.unique(part.fake)) < len(LABELS) for part in (train, test)):
        return numbers
    neighbours = knn_scores(train, test.features, k=k)
    linear = linear_scores(train, test.features)
    return numbers | {
        "probe_knn_accuracy": metrics.balanced_accuracy(neighbours, test.fake, threshold=0.5),
        "probe_knn_auc": metrics.auc(neighbours, test.fake),
        "probe_linear_accuracy": metrics.balanced_accuracy(linear.scores, test.fake, threshold=0.0),
        "probe_linear_auc": metrics.auc(linear.scores, test.fake),
        "probe_linear_ridge": linear.ridge,
    }
