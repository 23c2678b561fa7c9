"""Measures what frozen features of rendered faces and patches show of forgeries.

The classifiers are fitted in closed form, so that no learning rate and no budget has a part in the
result.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from jaxtyping import Float64

from fsvfm_jax.benchmark.localization import forged_faces, real_faces
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


def measure_frozen(
    encoder: Encoder,
    train: DetectionSet,
    tested: Mapping[str, DetectionSet],
    *,
    trained_on: str,
    pairs: int,
) -> Probes:
    """Measures an encoder.

    Args:
        encoder: The encoder.
        train: The faces to fit to.
        tested: The sets to test on, rendered sets by name.
        trained_on: Name of the rendered set of `train`.
        pairs: Number of forgeries with their real faces, of each set.
    """
    of_train = labelled_features(encoder, train)
    found: Probes = {"linear": {}, "knn": {}, "patches": {}}
    patches = forged_patches(encoder, trained_on, split="train", pairs=pairs)
    for name, faces in tested.items():
        rows = labelled_features(encoder, faces)
        scores = {
            "linear": linear_scores(of_train, rows.features).scores,
            "knn": knn_scores(of_train, rows.features, k=NEIGHBOURS),
        }
        for probe, of_faces in scores.items():
            videos = metrics.video_means(of_faces, rows.fake, rows.videos)
            found[probe][name] = videos.scores.tolist()
        of_set = forged_patches(encoder, name, split="test", pairs=pairs)
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


def forged_patches(encoder: Encoder, name: str, *, split: str, pairs: int) -> Labelled:
    """Returns the features of forged patches, and of the same patches of the real faces.

    Args:
        encoder: The encoder.
        name: Name of a rendered set.
        split: "train" or "test".
        pairs: Number of forgeries.

    Returns:
        The patches. `fake` is True for a forged patch, and `videos` contains the face's number.
    """
    forged = forged_faces(pairs, split=split, model=encoder.model, name=name)
    real = real_faces(forged, split=split, model=encoder.model, name=name)
    parts = [encoder.features(x.images, pool="patches")[forged.forged] for x in (forged, real)]
    faces = np.nonzero(forged.forged)[0]
    return Labelled(
        np.concatenate(parts),
        np.repeat([True, False], len(faces)),
        np.array([f"{face:06d}" for face in np.tile(faces, 2)]),
    )


def patch_aucs(train: Labelled, tested: Labelled) -> Float64[np.ndarray, " F"]:
    """Returns for each face how well a linear classifier finds its forged patches.

    This is the AUC between the forged patches and the same patches of the real face. The place of a
    patch and the person have therefore no part in it, and 0.5 is chance.

    Args:
        train: The patches to fit to.
        tested: The patches to test on.
    """
    scores = linear_scores(train, tested.features).scores
    of_faces = (tested.videos == face for face in np.unique(tested.videos))
    return np.array([metrics.auc(scores[rows], tested.fake[rows]) for rows in of_faces])
