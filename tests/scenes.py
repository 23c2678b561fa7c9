"""Draws pictures with several rendered faces."""

import numpy as np

from fsvfm_jax.data.rendered.synthetic import render_face


def scene(*faces: tuple[int, int, int], height: int = 200, width: int = 420) -> np.ndarray:
    """Returns a grey picture with rendered faces at (number, left, top)."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for index, left, top in faces:
        picture[top : top + 128, left : left + 128] = render_face(index, image_size=128)[0]
    return picture


TWO_FACES = scene((5, 40, 36), (2, 250, 40))
