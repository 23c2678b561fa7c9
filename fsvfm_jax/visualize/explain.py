"""The verb `explain`: which patches and facial regions make a face look fake to a detector."""

import argparse

import numpy as np
from jaxtyping import Float, UInt8

from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.host.pictures import bars, below_each_other, caption_strip, legend_strip
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.visualize import sheet, shown_faces
from fsvfm_jax.visualize.colours import (
    enlarged,
    face_rows,
    per_pixel,
    scale_of,
    signed_legend,
    signed_maps,
    with_borders,
)
from fsvfm_jax.visualize.explanations import (
    STEPS,
    RegionValues,
    integrated_gradients,
    patch_drops,
    region_values,
)
from fsvfm_jax.visualize.region_shares import REGIONS, region_areas, regions_of

RENDERED = "swap-a"
PATCHES, DROP, SHARE = "one patch covered", "one region covered", "share of each region"
GRADIENTS = "integrated gradients"
COLOURS = (np.array((200, 90, 60), np.uint8), np.array((70, 110, 190), np.uint8))
BORDER = (60, 60, 60)
MAX_BARS = 900  # pixels
NOTES = (
    "The margin is logit(fake) - logit(real). Red parts make the face look fake: without them the"
    " margin is lower. Blue parts make it look real. Lines are the borders of the facial regions."
    " Every map has a scale of its own.",
    f"'{PATCHES}' and '{DROP}': how much the margin falls when the mean colour covers that part"
    f" alone. '{SHARE}': the Shapley values of the regions, which add up to the difference between"
    f" the margin of the face and that of the mean colour. '{GRADIENTS}': {STEPS} steps from the"
    " mean colour to the face, summed over each patch.",
    "A map shows what this detector reacts to. It does not show where a face is forged: on rendered"
    " forgeries such maps hardly find the forged part (docs/seeing.md).",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_arguments(parser)
    shown_faces.add_arguments(parser, rendered="rendered forgeries and real faces")
    sheet.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: A flag, a face or the network is wrong, or the picture cannot be written.
    """
    sheet.check_output_file(args.output)
    arguments.check_network(args)
    network = opening.load_detector(args)
    faces = shown_faces.read_for(network, args, render=render)
    sheet.write_sheet(draw(network, faces, name=opening.model_name(args)), args.output)


def render(index: int, image_size: int, seed: int) -> shown_faces.Pair:
    """Returns a face of a rendered set, of which every other one is forged."""
    size = {"image_size": image_size, "seed": seed}
    source = RenderedFaces(RENDERED, "test", videos=index + 1, frames=1, **size)
    label = LABELS[source.label(index)]
    name = f"rendered face {index}, {'forged' if label == 'fake' else label}"
    return shown_faces.Pair(name, source[index]["image"], source.truth(index).parsing_map)


def draw(network: Detector, faces: shown_faces.ShownFaces, *, name: str) -> sheet.Sheet:
    """Draws the maps of each face, and tabulates what each facial region adds to its margin.

    Args:
        network: The detector.
        faces: The faces.
        name: Name of the network.
    """
    margins = network.margins(faces.images)
    values = region_values(network, faces.images, faces.parsing_maps)
    regions, size = regions_of(faces.parsing_maps), network.image_size

    def of_regions(of_face: Float[np.ndarray, "B regions"]) -> np.ndarray:
        return np.take_along_axis(of_face, regions.reshape(len(regions), -1), 1).reshape(
            regions.shape
        )

    maps = {
        PATCHES: per_pixel(patch_drops(network, faces.images), size),
        DROP: of_regions(values.drop),
        SHARE: of_regions(values.share),
        GRADIENTS: per_pixel(integrated_gradients(network, faces.images), size),
    }
    rows = _rows(network, faces, maps, captions=_captions(network, faces, margins))
    means = {
        region: [values.share[:, place].mean(), values.drop[:, place].mean()]
        for place, region in enumerate(REGIONS)
    }
    width = rows.shape[1]
    picture = below_each_other(
        [
            rows,
            signed_legend(width),
            caption_strip("Parts of the margin, mean over the faces:", width),
            legend_strip(dict(zip((SHARE, DROP), COLOURS, strict=True)), width),
            bars(means, colours=COLOURS, form="{:+.2g}", width=min(width, MAX_BARS)),
        ]
    )
    scores = probability(margins / network.temperature)
    about = f"What decides the score of {name} ({network.score_name})"
    return sheet.Sheet(
        about, [*NOTES, *faces.notes], picture, _tables(faces, values, margins, scores)
    )


def _captions(
    network: Detector, faces: shown_faces.ShownFaces, margins: Float[np.ndarray, " B"]
) -> list[str]:
    scores = probability(margins / network.temperature)
    return [
        f"{caption}: {network.score_name} {score:.3f}, margin {margin:+.2f}"
        for caption, score, margin in zip(faces.captions, scores, margins, strict=True)
    ]


def _rows(
    network: Detector,
    faces: shown_faces.ShownFaces,
    maps: dict[str, Float[np.ndarray, "B S S"]],
    *,
    captions: list[str],
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a row of maps for each face, with the borders of the regions."""
    scale = scale_of(network.image_size)
    regions = enlarged(regions_of(faces.parsing_maps), scale)
    columns, below = {"face": enlarged(faces.images, scale)}, {}
    for title, values in maps.items():
        shown, below[title] = signed_maps(values)
        columns[title] = with_borders(enlarged(shown, scale), regions, BORDER)
    return face_rows(columns, captions, below=below)


def _tables(
    faces: shown_faces.ShownFaces,
    values: RegionValues,
    margins: Float[np.ndarray, " B"],
    scores: Float[np.ndarray, " B"],
) -> list[sheet.Table]:
    header = ("face", "score", "margin", *REGIONS, "mean colour")
    rows = []
    for row, caption in enumerate(faces.captions):
        parts = [f"{x:+.3f}" for x in values.share[row]]
        rest = margins[row] - values.share[row].sum()
        margin = f"{margins[row]:+.3f}"
        rows.append([caption, f"{scores[row]:.3f}", margin, *parts, f"{rest:+.3f}"])
    areas = region_areas(faces.parsing_maps).mean(axis=0)
    total = np.abs(values.share).sum(axis=1, keepdims=True)
    parts = (np.abs(values.share) / np.maximum(total, 1e-12)).mean(axis=0)
    shares = [
        [region, f"{100 * part:.1f} %", f"{100 * area:.1f} %"]
        for region, part, area in zip(REGIONS, parts, areas, strict=True)
    ]
    return [
        sheet.Table(
            "Parts of the margin: the region's and the mean colour's add up to it", header, rows
        ),
        sheet.Table(
            "Share of the score per region: of the sum of the parts without their signs, mean over"
            " the faces",
            ("region", "share of the score", "share of the pixels"),
            shares,
        ),
    ]
