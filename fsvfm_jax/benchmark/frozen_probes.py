"""Measures what frozen features of rendered faces and patches show of forgeries.

The classifiers are fitted in closed form, so that no learning rate and no budget has a part in the
result.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Float64

from fsvfm_jax.benchmark.rendered_pairs import forged_faces, real_faces
from fsvfm_jax.data.labelled.detection_sets import DetectionSet, labels_of
from fsvfm_jax.data.labelled.faces import FAKE
from fsvfm_jax.predict.networks import Encoder
from fsvfm_jax.probe.features import Labelled, knn_scores, linear_scores
from fsvfm_jax.report import metrics

NEIGHBOURS = 20


class Probes(TypedDict):
    """What is measured of one network without training it, by set.

    Attributes:
        linear: Score of each test video, in the order of the videos' names.
        knn: The same, by the nearest neighbours.
        patches: AUC of each forged face; see `patch_aucs`.
    """

    linear: dict[str, list[float]]
    knn: dict[str, list[float]]
    patches: dict[str, list[float]]


class PairPatches(NamedTuple):
    """Features of the patches of forgeries and of their real faces.

    Attributes:
        fake: The patches of each forgery.
        real: The same patches of its real face.
        forged: Whether each patch of the forgery is forged; of each face, some are and some not.
    """

    fake: Float[np.ndarray, "F N D"]
    real: Float[np.ndarray, "F N D"]
    forged: Bool[np.ndarray, "F N"]


def measure_frozen(
    encoder: Encoder,
    train: DetectionSet,
    tested: Mapping[str, DetectionSet],
    *,
    trained_on: str,
    pairs: Mapping[str, int],
) -> Probes:
    """Measures an encoder.

    Args:
        encoder: The encoder.
        train: The faces to fit to.
        tested: The sets to test on, rendered sets by name.
        trained_on: Name of the rendered set of `train`.
        pairs: Number of forgeries with their real faces, for "train" and for "test" of each set.
    """
    of_train = labelled_features(encoder, train)
    found: Probes = {"linear": {}, "knn": {}, "patches": {}}
    patches = pair_patches(encoder, trained_on, split="train", pairs=pairs["train"])
    for name, faces in tested.items():
        rows = labelled_features(encoder, faces)
        scores = {
            "linear": linear_scores(of_train, rows.features).scores,
            "knn": knn_scores(of_train, rows.features, k=NEIGHBOURS),
        }
        for probe, of_faces in scores.items():
            videos = metrics.video_means(of_faces, rows.fake, rows.videos)
            found[probe][name] = videos.scores.tolist()
        of_set = pair_patches(encoder, name, split="test", pairs=pairs["test"])
        found["patches"][name] = patch_aucs(patches, of_set).tolist()
    return found


def labelled_features(encoder: Encoder, faces: DetectionSet) -> Labelled:
    """Returns the mean of the patches of every face of a set.

    Args:
        encoder: The encoder.
        faces: The set.
    """
    images = (faces[index]["image"] for index in range(len(faces)))
    videos = np.array([faces.video(index) for index in range(len(faces))])
    return Labelled(encoder.features(images), labels_of(faces) == FAKE, videos)


def pair_patches(encoder: Encoder, name: str, *, split: str, pairs: int) -> PairPatches:
    """Returns the features of all patches of forgeries, and of the real faces.

    Args:
        encoder: The encoder.
        name: Name of a rendered set.
        split: "train" or "test".
        pairs: Number of forgeries.
    """
    forged = forged_faces(pairs, split=split, model=encoder.model, name=name)
    real = real_faces(forged, split=split, model=encoder.model, name=name)
    fake, same = (encoder.features(x.images, pool="patches") for x in (forged, real))
    some = forged.forged.any(axis=1) & ~forged.forged.all(axis=1)
    return PairPatches(fake[some], same[some], forged.forged[some])


def patch_aucs(train: PairPatches, tested: PairPatches) -> Float64[np.ndarray, " F"]:
    """Returns for each forgery how well a linear classifier finds its forged patches.

    The classifier learns to separate forged patches from the same patches of the real faces. If it
    learned to separate them from all other patches, it would find the inner face, where most
    forgeries are, in real faces too. The score of the same patch of the real face is subtracted
    from the score of each patch, so that place and person do not change the result. The AUC
    compares the forged patches of a face with the other patches of that face, so that what all
    patches share does not change the result. Chance is 0.5.

    Args:
        train: The patches to fit to.
        tested: The patches to test on.
    """
    faces = np.broadcast_to(np.arange(len(train.forged))[:, None], train.forged.shape)
    forged = train.forged
    labelled = Labelled(
        np.concatenate([train.fake[forged], train.real[forged]]),
        np.repeat([True, False], forged.sum()),
        np.tile(faces[forged], 2),
    )
    rows = np.concatenate([tested.fake, tested.real]).reshape(-1, tested.fake.shape[-1])
    of_fake, of_real = np.split(linear_scores(labelled, rows).scores, 2)
    found = (of_fake - of_real).reshape(tested.forged.shape)
    pairs = zip(found, tested.forged, strict=True)
    return np.array([metrics.auc(scores, of_face) for scores, of_face in pairs])
