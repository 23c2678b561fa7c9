"""Tests that the contact sheet shows every face with the regions of its map."""

import io

import numpy as np
from PIL import Image

from fsvfm_jax.host.pictures import LINE_HEIGHT
from fsvfm_jax.prepare.contact_sheet import TILE, contact_sheet, encode_sheet
from fsvfm_jax.regions import PALETTE

SIZE = 32


def test_the_contact_sheet_colours_the_maps() -> None:
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    faces = [(black, np.full((SIZE, SIZE), label, np.uint8)) for label in range(6)]
    sheet = contact_sheet(faces)
    step = TILE + 2
    assert sheet.shape == (2 * step - 2 + LINE_HEIGHT, 8 * step - 2, 3)
    for label in range(6):
        top, left = label // 4 * step, label % 4 * 2 * step
        assert not sheet[top : top + TILE, left : left + TILE].any()
        colour = sheet[top : top + TILE, left + step : left + step + TILE]
        np.testing.assert_array_equal(colour, np.broadcast_to(PALETTE[label] // 2, colour.shape))
    assert (sheet[step : step + TILE, 4 * step : 8 * step - 2] == 255).all()


def test_faces_may_differ_in_size_and_the_file_holds_the_sheet() -> None:
    grey = [np.full((height, 20, 3), 90, np.uint8) for height in (20, 33)]
    sheet = contact_sheet([(image, np.zeros(image.shape[:2], np.uint8)) for image in grey])
    assert (sheet[:TILE, :TILE] == 90).all()
    with Image.open(io.BytesIO(encode_sheet(sheet))) as stored:
        np.testing.assert_array_equal(np.asarray(stored), sheet)
