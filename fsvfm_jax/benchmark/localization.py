"""Measures how well the maps of `visualize explain` find forged patches: `benchmark localization`.

The forgeries are rendered, so that their pixels are known. It tests the maps, and proves nothing
about real deepfakes. The detectors are those of `benchmark transfer` in the same folder; what is
missing there is trained. The settings are those of `configs/offline.py` in the current folder, or
else in the package.
"""

import argparse
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from configs import offline
from fsvfm_jax.benchmark import study, transfer
from fsvfm_jax.benchmark.rendered_pairs import Faces, forged_faces, pairs, real_faces
from fsvfm_jax.host.pictures import below_each_other
from fsvfm_jax.host.storage import write_bytes, write_text
from fsvfm_jax.predict.networks import Detector, load
from fsvfm_jax.report.metrics import auc
from fsvfm_jax.visualize import sheet
from fsvfm_jax.visualize.colours import (
    enlarged,
    face_rows,
    per_pixel,
    scale_of,
    signed_legend,
    signed_maps,
    with_borders,
)
from fsvfm_jax.visualize.explanations import integrated_gradients, patch_drops, region_values
from fsvfm_jax.visualize.region_shares import region_parts

METHOD = "full"
SHOWN = 5  # best and worst faces
ORDERS = 200  # random orders of patches with equal values
COVERED, SHARES, GRADIENTS = "one patch covered", "share of each region", "integrated gradients"
UNSIGNED = ", without signs"
CHANCE, AVERAGE = "random map", "average forged region"
FORGED = (0, 0, 0)  # colour of the border of the forged patches
FACES = "forged test faces of swap-a"
CAPTION = """\
{count} {faces} (fsvfm_jax/data/rendered/rendered_sets.py); this proves nothing about real
deepfakes. Mean +- deviation over {seeds} seeds of training. AUC of the detectors on these and as
many real faces: {aucs}.
A patch is forged if half of its pixels are; that is {share:.0f} % of the patches. IoU is that of
the forged patches and as many patches with the largest values. Pointing is the share of faces whose
largest value is in a forged patch. "found" counts only the faces that the detector takes for fake
({found:.0f} %). "without signs" takes parts that make a face look real for forged, too.
"{chance}" knows nothing. "{average}" is one map for all faces, the mean of the forged patches of
training faces: what it reaches needs no explanation. "untrained" is the same network with random
weights. "real faces" are the maps of the faces before the forgery, against the same patches."""

Values = Float[np.ndarray, "B N"]


def benchmark_localization(args: argparse.Namespace) -> None:
    """Trains what is missing in the folder, and writes a table and pictures there.

    Args:
        args: The arguments of `benchmark localization`.
    """
    folder = study.open_folder(args.output)
    runs = transfer.train_detectors(folder, METHOD, seeds=args.seeds)
    networks = [load(run) for run in runs]
    model = networks[0].model
    faces = forged_faces(args.faces, split="test", model=model)
    average = forged_faces(args.faces, split="train", model=model).forged.mean(axis=0)
    found = [network.margins(faces.images) > 0 for network in networks]
    maps = [explained(network, faces) for network in networks]
    fresh = [
        explained(untrained(network, seed=seed), faces) for seed, network in enumerate(networks)
    ]
    real = real_faces(faces, split="test", model=model)
    of_real = [explained(network, real) for network in networks]
    rows = {
        CHANCE: [
            scores(np.zeros(faces.forged.shape), faces.forged, seed=seed)
            for seed in range(args.seeds)
        ],
        AVERAGE: [scores(np.tile(average, (args.faces, 1)), faces.forged)] * args.seeds,
    }
    for prefix, of_networks in (("untrained: ", fresh), ("real faces: ", of_real), ("", maps)):
        for title in maps[0]:
            for suffix, change in (("", np.positive), (UNSIGNED, np.abs)):
                of_seeds = [scores(change(x[title]), faces.forged) for x in of_networks]
                rows[f"{prefix}{title}{suffix}"] = of_seeds
    text = _text(rows, found, faces, aucs=[_auc(network, args.faces) for network in networks])
    write_text(epath.Path(folder / "localization.md"), text)
    ious = {title: np.mean([x[0] for x in rows[title]], axis=0) for title in maps[0]}
    best = max(ious, key=lambda title: ious[title].mean())
    order = np.argsort(-ious[best], kind="stable")
    for name, chosen in (("best", order[:SHOWN]), ("worst", order[::-1][:SHOWN])):
        title = f"The {name} of {len(faces.names)} {FACES}, by the IoU of '{best}'"
        drawn = picture(faces, maps[0], ious[best], chosen=chosen, title=title)
        write_bytes(epath.Path(folder / f"localization-{name}.png"), sheet.as_png(drawn))
    print(text)


def explained(network: Detector, faces: Faces) -> dict[str, Values]:
    """Returns the maps of `visualize explain` for faces, one value per patch.

    Args:
        network: The detector.
        faces: The faces.
    """
    shares = region_values(network, faces.images, faces.parsing_maps).share
    parts = region_parts(faces.parsing_maps, network.model.num_patches)
    return {
        COVERED: patch_drops(network, faces.images),
        SHARES: np.einsum("br,brn->bn", shares, parts),
        GRADIENTS: integrated_gradients(network, faces.images),
    }


def untrained(network: Detector, *, seed: int) -> Detector:
    """Returns a detector of the same shape with random weights.

    Args:
        network: The detector.
        seed: Seed of the weights.
    """
    params = network.model.init_params(jax.random.key(seed))
    options = {"path": network.path, "stats": network.stats, "view": network.view, "facts": {}}
    return Detector(network.model, params, batch_size=network.batch_size, **options)


def scores(
    values: Values, forged: Bool[np.ndarray, "B N"], *, seed: int = 0
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Returns for each face the IoU of its forged patches and the patches with the largest values.

    As many patches are taken as are forged. Equal values are taken in a random order; the result is
    the mean over ORDERS orders. A constant map therefore has the result of chance.

    Args:
        values: A map of each face.
        forged: Whether each patch is forged.
        seed: Seed of the orders.

    Returns:
        The IoU, and how often the patch with the largest value is forged.
    """
    rng, count = np.random.default_rng(seed), forged.sum(axis=1)
    ious, hits = [], []
    for _ in range(ORDERS):
        order = np.lexsort((rng.random(values.shape), -values), axis=1)
        place = np.argsort(order, axis=1)
        common = (forged & (place < count[:, None])).sum(axis=1)
        ious.append(common / np.maximum(2 * count - common, 1))
        hits.append(np.take_along_axis(forged, order[:, :1], axis=1)[:, 0])
    return np.mean(ious, axis=0), np.mean(hits, axis=0)


def picture(
    faces: Faces,
    maps: Mapping[str, Values],
    iou: Float[np.ndarray, " B"],
    *,
    chosen: np.ndarray,
    title: str,
) -> sheet.Sheet:
    """Draws faces with the border of their forged patches, and their maps.

    Args:
        faces: The faces.
        maps: Maps of a detector, by title.
        iou: IoU of each face, for the captions.
        chosen: The faces to draw, in this order.
        title: The title.
    """
    size = faces.images.shape[1]
    scale = scale_of(size)
    forged = enlarged(per_pixel(faces.forged[chosen], size).astype(np.uint8), scale)
    columns = {"face": enlarged(faces.images[chosen], scale)}
    columns["forged patches"] = with_borders(columns["face"], forged, FORGED)
    below = {}
    for name, values in maps.items():
        shown, below[name] = signed_maps(per_pixel(values[chosen], size))
        columns[name] = with_borders(enlarged(shown, scale), forged, FORGED)
    captions = [f"{faces.names[row]}: IoU {iou[row]:.2f}" for row in chosen]
    rows = face_rows(columns, captions, below=below)
    drawn = below_each_other([rows, signed_legend(rows.shape[1])])
    notes = [
        "The maps are those of the detector of seed 0; the IoU is the mean over the seeds. Black"
        " lines are the borders of the forged patches."
    ]
    return sheet.Sheet(title, notes, drawn, [])


def _auc(network: Detector, count: int) -> float:
    source = pairs(offline.TRAINED, count, split="test", image_size=network.image_size)
    images = np.stack([face["image"] for face in source.read(range(len(source)))])
    return auc(network.margins(images), np.arange(len(images)) % 2 == 1)


def _text(rows, found, faces: Faces, *, aucs: list[float]) -> str:
    header = ("map", "IoU", "pointing in %", "IoU, found", "pointing in %, found")
    cells = []
    for title, of_seeds in rows.items():
        columns = [[iou.mean() for iou, _ in of_seeds], [100 * x.mean() for _, x in of_seeds]]
        pairs = list(zip(of_seeds, found, strict=True))
        columns.append([iou[mask].mean() for (iou, _), mask in pairs if mask.any()])
        columns.append([100 * x[mask].mean() for (_, x), mask in pairs if mask.any()])
        forms = ("{:.3f} ± {:.3f}", "{:.1f} ± {:.1f}") * 2
        texts = [
            form.format(np.mean(x), np.std(x)) if x else "-"
            for form, x in zip(forms, columns, strict=True)
        ]
        cells.append([title, *texts])
    caption = CAPTION.format(
        count=len(faces.images),
        faces=FACES,
        seeds=len(aucs),
        aucs=", ".join(f"{100 * x:.1f}" for x in aucs),
        share=100 * faces.forged.mean(),
        found=100 * np.mean(found),
        chance=CHANCE,
        average=AVERAGE,
    )
    return f"{sheet.as_markdown(sheet.Table('', header, cells))}\n\n{caption}\n"
