"""Tests that forgeries and real faces belong together, and where the forged patches are."""

from fsvfm_jax.benchmark import rendered_pairs
from fsvfm_jax.models import build_detector


def test_the_forged_patches_are_those_of_the_inner_face():
    model = build_detector({"image_size": 64, "patch_size": 8, "width": 16, "depth": 1,
                            "num_heads": 2})  # fmt: skip
    faces = rendered_pairs.forged_faces(8, split="test", model=model)
    share = faces.forged.mean(axis=1)
    assert faces.images.shape == (8, 64, 64, 3) and (share > 0.05).all() and (share < 0.6).all()
    assert all("/fake/" in name for name in faces.names) and len(set(faces.names)) == 8
    real = rendered_pairs.real_faces(faces, split="test", model=model)
    assert all("/real/" in name for name in real.names) and real.forged is faces.forged
    edge = faces.forged.reshape(8, 8, 8)[:, [0, -1]]
    assert edge.mean() < 0.1 < faces.forged.reshape(8, 8, 8)[:, 2:6, 2:6].mean()
