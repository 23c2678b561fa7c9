"""The facial classes of a parsing map and the groups they form.

The module uses NumPy only, because the data workers import it. A parsing map contains one LaPa
class (0 to 10) per pixel. A patch is described by one 16-bit word in which bit `c` is set if any of
its pixels has class `c`. The masks need nothing else.
"""

import numpy as np
from jaxtyping import Integer, UInt16

CLASSES = (
    "background",
    "skin",
    "right_brow",
    "left_brow",
    "right_eye",
    "left_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
NUM_CLASSES = len(CLASSES)
# One RGB colour per entry of `CLASSES`, for pictures.
# fmt: off
PALETTE = np.array([
    (40, 40, 40), (232, 190, 160),  # background, skin
    (120, 70, 20), (190, 125, 50), (20, 90, 200), (90, 175, 255),  # brows, eyes: right, left
    (70, 170, 90), (210, 30, 60), (120, 0, 60), (255, 110, 130),  # nose, lips around the mouth
    (125, 85, 165),  # hair
], np.uint8)
# fmt: on

# The order matters: where a patch of several groups needs one owner, the owner is the first group.
# `boundary` is the only group that is not a set of classes: its patches show skin together with
# hair or background.
GROUPS = ("brows", "eyes", "nose", "mouth", "boundary", "hair", "skin", "background")
GROUP_CLASSES = {
    "brows": (2, 3),
    "eyes": (4, 5),
    "nose": (6,),
    "mouth": (7, 8, 9),
    "hair": (10,),
    "skin": (1,),
    "background": (0,),
}
# A mask may cover any of the groups before skin fully.
NUM_COVERABLE = GROUPS.index("skin")


def patch_classes(
    parsing_maps: Integer[np.ndarray, "B H W"], patch_size: int
) -> UInt16[np.ndarray, "B N"]:
    """Returns one word per patch, in which bit `c` is set if class `c` occurs in the patch.

    Args:
        parsing_maps: LaPa classes 0 to 10, of any integer dtype.
        patch_size: Side of a square patch in pixels. H and W must be multiples of it.

    Returns:
        Words for the N = (H / patch_size) * (W / patch_size) patches, row by row.

    Raises:
        ValueError: H or W is not a multiple of `patch_size`, or a class is outside 0 to 10.
    """
    batch, height, width = parsing_maps.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"a parsing map of {height} x {width} pixels does not divide into patches of"
            f" {patch_size} x {patch_size}"
        )
    lowest, highest = parsing_maps.min(initial=0), parsing_maps.max(initial=0)
    if lowest < 0 or highest >= NUM_CLASSES:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"parsing map holds class {wrong}; LaPa's classes are 0 to 10")
    bits = np.left_shift(np.uint16(1), parsing_maps.astype(np.uint16))
    # Whole rows first: NumPy combines long rows several times as fast as the pixels of a patch.
    rows = np.bitwise_or.reduce(bits.reshape(batch, -1, patch_size, width), axis=2)
    patches = rows.reshape(*rows.shape[:2], width // patch_size, patch_size)
    return np.bitwise_or.reduce(patches, axis=3).reshape(batch, -1)
