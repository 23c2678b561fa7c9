"""The verb `attention`: which patches the class token attends to, per head, and by rollout."""

import argparse
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, UInt8

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.pictures import below_each_other
from fsvfm_jax.models.attention_maps import attention_weights, rollout
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.networks import Encoder
from fsvfm_jax.pretrain import normalize_images
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
from fsvfm_jax.visualize.region_shares import REGIONS, region_areas, region_sums, regions_of

NOTE = (
    "Each map shows how the attention of the class token divides among the patches, in percent;"
    " what is missing to 100 % goes to the class token itself and to registers, if there are some."
    " Lines are the borders of the facial regions. Attention shows which patches are mixed into the"
    " class token in one block. It does not show what decides a score: `visualize explain` does."
)
ROLLOUT, MEAN = "rollout", "mean of the heads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_arguments(parser)
    parser.add_argument(
        "--block", type=int, metavar="N", help="block, from 1; by default the last one"
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
    if not network.model.class_token:
        raise ConfigError(f"{args.model} has no class token, whose attention this picture shows")
    block = network.model.depth if args.block is None else args.block
    if block not in range(1, network.model.depth + 1):
        raise ConfigError(f"--block {block} does not exist: give 1 to {network.model.depth}")
    faces = shown_faces.read_for(network, args)
    made = draw(network, faces, block=block, name=opening.model_name(args))
    sheet.write_sheet(made, args.output)


def attention_maps(
    network: Encoder, images: UInt8[np.ndarray, "B S S 3"], *, block: int
) -> dict[str, Float[np.ndarray, "B L"]]:
    """Returns the class token's attention to every token; rows sum to 1.

    The class token comes first, then the registers and the patches.

    Args:
        network: The encoder or detector.
        images: The faces.
        block: The block of the heads, from 1.

    Returns:
        The mean of the heads, the rollout over all blocks, and every head, by title.
    """

    def compute(params, image):
        weights = attention_weights(network.model, params, normalize_images(image, network.stats))
        return weights[block - 1, :, :, 0], rollout(weights)[:, 0]

    compute = jax.jit(compute)
    # The weights of one face at a time fit into any memory.
    found = [jax.device_get(compute(network.params, image[None])) for image in images]
    heads, rolled = (np.concatenate(part) for part in zip(*found, strict=True))
    each = {f"head {number}": heads[:, number - 1] for number in range(1, heads.shape[1] + 1)}
    return {MEAN: heads.mean(axis=1), ROLLOUT: rolled} | each


def draw(network: Encoder, faces: shown_faces.ShownFaces, *, block: int, name: str) -> sheet.Sheet:
    """Draws the maps of each face, and tabulates their shares in each facial region.

    Args:
        network: The encoder or detector.
        faces: The faces.
        block: The block of the heads, from 1.
        name: Name of the network.
    """
    maps = attention_maps(network, faces.images, block=block)
    size, regions = network.image_size, regions_of(faces.parsing_maps)
    prefix = network.model.num_prefix
    percent = {title: 100 * x[:, prefix:].astype(np.float64) for title, x in maps.items()}
    of_heads = np.concatenate([x for title, x in percent.items() if title != ROLLOUT])
    ends = dict.fromkeys(percent, (0.0, float(np.percentile(of_heads, 99.8))))
    ends[ROLLOUT] = (0.0, float(percent[ROLLOUT].max()))
    bordered = partial(with_borders, regions=enlarged(regions, scale_of(size)), colour=LINE)
    columns = {"face": enlarged(faces.images, scale_of(size))}
    for title, patches in percent.items():
        shown = coloured(per_pixel(patches, size), ends[title], HEAT)
        columns[title] = bordered(enlarged(shown, scale_of(size)))
    rows = face_rows(columns, faces.captions)
    per_patch, options = "% of the class token's attention, per patch", {"form": "{:.2g} %"}
    options["width"] = rows.shape[1]
    picture = below_each_other(
        [
            rows,
            legend_of(HEAT, ends[MEAN], title=f"heads of block {block}: {per_patch}", **options),
            legend_of(HEAT, ends[ROLLOUT], title=f"{ROLLOUT}: {per_patch}", **options),
        ]
    )
    title = (
        f"Attention of the class token in block {block} of {name}, and {ROLLOUT} over all blocks"
    )
    return sheet.Sheet(title, [NOTE, *faces.notes], picture, [_table(maps, faces, prefix=prefix)])


def _table(
    maps: dict[str, Float[np.ndarray, "B L"]], faces: shown_faces.ShownFaces, *, prefix: int
) -> sheet.Table:
    """Tabulates shares of the attention; `prefix` tokens precede the patches."""
    rows = []
    for title, tokens in maps.items():
        sums = region_sums(tokens[:, prefix:], faces.parsing_maps).mean(axis=0)
        rows.append([title, *(f"{100 * x:.1f}" for x in (tokens[:, 0].mean(), *sums))])
    areas = region_areas(faces.parsing_maps).mean(axis=0)
    rows.append(["share of the pixels", "-", *(f"{100 * x:.1f}" for x in areas)])
    about = f"Share of the class token's attention in %, mean over {len(faces.names)} faces"
    return sheet.Table(about, ("", "itself", *REGIONS), rows)
