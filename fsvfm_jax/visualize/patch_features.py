"""The verb `features`: patch features as colours, and their similarity to that of one patch."""

import argparse
import math

import numpy as np
from jaxtyping import Float, UInt8

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.pictures import below_each_other
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.networks import Encoder
from fsvfm_jax.visualize import sheet, shown_faces
from fsvfm_jax.visualize.colours import (
    HEAT,
    LINE,
    coloured,
    enlarged,
    face_rows,
    legend_of,
    per_pixel,
    scale_of,
    with_borders,
)
from fsvfm_jax.visualize.region_shares import REGIONS, region_parts, regions_of

CHOSEN = (0, 200, 0)  # frame of the chosen patch
FRAME = 3  # pixels
COMPONENTS = 3
TO_OWN = "similarity to the patch of this face"
TO_FIRST = "similarity to the patch of face 1"
NOTES = (
    "Colours of the features: red, green and blue are the first three principal components of all"
    " patch features of these faces, each stretched from the 1st to the 99th percentile. Patches of"
    " one colour have alike features; a colour has no other meaning.",
    "Similarity: the cosine between the feature of a patch and that of the patch with the green"
    " frame.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_arguments(parser)
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="block whose output to take, from 1; by default the last block, after the final norm",
    )
    parser.add_argument(
        "--patch",
        type=_patch,
        metavar="ROW,COLUMN",
        help="patch to compare all patches with, from 0,0 at the top left; by default the middle",
    )
    shown_faces.add_arguments(parser)
    sheet.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: A flag, a face or the network is wrong, or the picture cannot be written.
    """
    sheet.check_output_file(args.output)
    arguments.check_network(args)
    network = opening.load_network(args)
    side = math.isqrt(network.model.num_patches)
    row, column = (side // 2, side // 2) if args.patch is None else args.patch
    if max(row, column) >= side:
        raise ConfigError(f"--patch={row},{column} does not exist: a face has {side} x {side}")
    faces = shown_faces.read_for(network, args)
    made = draw(
        network, faces, patch=(row, column), block=args.block, name=opening.model_name(args)
    )
    sheet.write_sheet(made, args.output)


def principal_components(
    features: Float[np.ndarray, "B N D"],
) -> tuple[Float[np.ndarray, "B N 3"], Float[np.ndarray, " 3"]]:
    """Returns each patch's first three principal components, and their shares of the variance.

    Args:
        features: The features of all patches.
    """
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    variances, directions = np.linalg.eigh(rows.T @ rows)
    largest = directions[:, : -COMPONENTS - 1 : -1]
    # The sign of a direction is arbitrary; this one makes the colours the same everywhere.
    largest = largest * np.sign(largest[np.abs(largest).argmax(axis=0), range(COMPONENTS)])
    shares = variances[: -COMPONENTS - 1 : -1] / max(variances.sum(), 1e-12)
    return (rows @ largest).reshape(*features.shape[:2], COMPONENTS), shares


def similarities(
    features: Float[np.ndarray, "B N D"], patches: Float[np.ndarray, "B D"]
) -> Float[np.ndarray, "B N"]:
    """Returns the cosine of each patch's feature and the given feature of its row; 0 for zeros."""
    lengths = np.linalg.norm(features, axis=-1) * np.linalg.norm(patches, axis=-1)[:, None]
    products = np.einsum("bnd,bd->bn", features, patches)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def draw(
    network: Encoder,
    faces: shown_faces.ShownFaces,
    *,
    patch: tuple[int, int],
    block: int | None,
    name: str,
) -> sheet.Sheet:
    """Draws the features of each face, and tabulates their similarity by facial region.

    Args:
        network: The encoder or detector.
        faces: The faces.
        patch: Row and column of the patch to compare with.
        block: The block whose output is taken, from 1; None for the last with the final norm.
        name: Name of the network.
    """
    features = network.features(faces.images, block=block, pool="patches")
    components, shares = principal_components(features)
    place = patch[0] * math.isqrt(features.shape[1]) + patch[1]
    of_first = np.broadcast_to(features[:1, place], features[:, place].shape)
    compared = {
        TO_OWN: similarities(features, features[:, place]),
        TO_FIRST: similarities(features, of_first),
    }
    ends = (min(float(x.min()) for x in compared.values()), 1.0)
    size, scale = network.image_size, scale_of(network.image_size)
    regions = enlarged(regions_of(faces.parsing_maps), scale)
    side = network.model.patch_size * scale
    columns = {"face": _framed(enlarged(faces.images, scale), patch, side)}
    coloured_features = [per_pixel(x, size) for x in np.moveaxis(_stretched(components), -1, 0)]
    columns["colours of the features"] = enlarged(np.stack(coloured_features, axis=-1), scale)
    for title, of_patches in compared.items():
        shown = enlarged(coloured(per_pixel(of_patches, size), ends, HEAT), scale)
        columns[title] = with_borders(shown, regions, LINE)
        framed = slice(1) if title == TO_FIRST else slice(None)
        columns[title][framed] = _framed(columns[title][framed], patch, side)
    rows = face_rows(columns, faces.captions)
    legend = legend_of(HEAT, ends, title="similarity (cosine)", form="{:.2f}", width=rows.shape[1])
    of_block = "the last block" if block is None else f"block {block}"
    return sheet.Sheet(
        f"Patch features of {of_block} of {name}",
        [*NOTES, *faces.notes],
        below_each_other([rows, legend]),
        [_variances(shares), _by_region(compared, faces)],
    )


def _stretched(components: Float[np.ndarray, "B N 3"]) -> UInt8[np.ndarray, "B N 3"]:
    lowest, highest = np.percentile(components, (1, 99), axis=(0, 1))
    share = (components - lowest) / np.maximum(highest - lowest, 1e-12)
    return np.uint8(np.round(255 * share.clip(0, 1)))


def _framed(
    images: UInt8[np.ndarray, "B S S 3"], patch: tuple[int, int], side: int
) -> UInt8[np.ndarray, "B S S 3"]:
    """Returns the images with a green frame inside the border of the patch."""
    images = images.copy()
    top, left = patch[0] * side, patch[1] * side
    inside = np.ones((side, side), bool)
    inside[FRAME:-FRAME, FRAME:-FRAME] = False
    images[:, top : top + side, left : left + side][:, inside] = CHOSEN
    return images


def _variances(shares: Float[np.ndarray, " 3"]) -> sheet.Table:
    names = ("red", "green", "blue")
    rows = [[name, f"{100 * x:.1f} %"] for name, x in zip(names, shares, strict=True)]
    title = "Share of the variance of the patch features in each component"
    return sheet.Table(title, ("component", "share"), rows)


def _by_region(
    compared: dict[str, Float[np.ndarray, "B N"]], faces: shown_faces.ShownFaces
) -> sheet.Table:
    parts = region_parts(faces.parsing_maps, next(iter(compared.values())).shape[1])
    total = parts.sum(axis=(0, 2))
    rows = []
    for title, of_patches in compared.items():
        means = np.einsum("bn,brn->r", of_patches, parts) / np.maximum(total, 1e-12)
        cells = [f"{x:.3f}" if n else "-" for x, n in zip(means, total, strict=True)]
        rows.append([title, *cells])
    return sheet.Table("Mean similarity (cosine) of each region's pixels", ("", *REGIONS), rows)


def _patch(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROW,COLUMN, such as 3,4")
    return int(row), int(column)
