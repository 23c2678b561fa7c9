"""The verb `reconstruct`: what a pretrained network predicts of removed patches, and its errors."""

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from fsvfm_jax import cli, losses
from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import HEADS, network, unseen
from fsvfm_jax.convert.runs import is_run, run_config
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.data.stats import Stats, load_stats
from fsvfm_jax.detectors import stats_of
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.pictures import bars, below_each_other, caption_strip, legend_strip
from fsvfm_jax.mask_pictures import REMOVED
from fsvfm_jax.masking import STRATEGIES, Masks, group_members, sample_masks
from fsvfm_jax.models.fsvfm import FSVFM
from fsvfm_jax.models.layers import patchify
from fsvfm_jax.pretrain import draw_reconstructions, normalize_images
from fsvfm_jax.regions import GROUPS, NUM_COVERABLE, patch_classes
from fsvfm_jax.train_state import Params
from fsvfm_jax.visualize import sheet, shown_faces
from fsvfm_jax.visualize.colours import (
    HEAT,
    coloured,
    enlarged,
    face_rows,
    legend_of,
    per_pixel,
    scale_of,
)

TRUE = "with the mean and contrast of the true patches"
ALONE = "as the network alone knows it"
KEPT = np.array((200, 215, 230), np.uint8)
WITH_TRUE, WITHOUT = np.array((70, 110, 190), np.uint8), np.array((200, 90, 60), np.uint8)
FLAT = "mean of the true patches, nothing predicted"
FLAT_COLOUR = np.array((150, 150, 150), np.uint8)
MEAN, LEVELS = "mean", "absolute error in levels of 0 to 255"
MAX_BARS = 900  # pixels
COVERING = ("crfr_r", "crfr_p")  # strategies that cover a region
NORM_PIX = (
    "The network predicts each patch without its mean and contrast (norm_pix). The reconstruction"
    f" '{TRUE}' takes both from the true patch, which the network does not know: much of what looks"
    f" right there is given. The reconstruction '{ALONE}' gives every removed patch the mean and"
    " contrast of the kept patches of its face."
)
RAW = "The network predicts pixels: nothing is taken from the true patches."


class Student(NamedTuple):
    """A pretrained network with its decoders.

    Attributes:
        model: The network.
        params: The student's tree.
        stats: Mean and standard deviation that normalise the images.
        norm_pix: Whether it predicts the pixels of a patch without their mean and deviation.
    """

    model: FSVFM
    params: Params
    stats: Stats
    norm_pix: bool


class Reconstruction(NamedTuple):
    """What a network predicts of the removed patches of faces.

    Attributes:
        images: Columns of images: the faces, the masked faces, and each reconstruction.
        errors: For each reconstruction the absolute error of each pixel, mean over the colours, in
            levels of 0 to 255.
        flat_errors: The same for the mean of each true patch, without any prediction.
        loss: Error of each patch as in L_rec.
    """

    images: UInt8[Array, "columns B S S 3"]
    errors: Float[Array, "K B S S"]
    flat_errors: Float[Array, "B S S"]
    loss: Float[Array, "B N"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="workdir of a pretraining run, or .pth file of the reference, with the decoders",
    )
    parser.add_argument("--stats", metavar="JSON", help="file with mean and std, for a .pth file")
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a workdir; by default the newest"
    )
    parser.add_argument("--entry", metavar="NAME", help="entry of a file with several networks")
    for name in HEADS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=cli.count,
            metavar="N",
            help="attention heads, if the file does not contain the number",
        )
    parser.add_argument(
        "--raw-pixels",
        action="store_true",
        help="the network of a .pth file was trained without norm_pix; a workdir says it itself",
    )
    parser.add_argument("--strategy", choices=STRATEGIES, default="crfr_p", help="of the masks")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of patches removed")
    parser.add_argument(
        "--region", choices=GROUPS[:NUM_COVERABLE], help="region that crfr_r and crfr_p cover"
    )
    shown_faces.add_arguments(parser)
    sheet.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: A flag, a face or the network is wrong, or the picture cannot be written.
    """
    if args.region is not None and args.strategy not in COVERING:
        raise ConfigError(
            f"--region={args.region} is for {' and '.join(COVERING)}: --strategy={args.strategy}"
            " covers no region"
        )
    sheet.check_output_file(args.output)
    cli.check_accelerator(jax.default_backend())
    student = open_student(args)
    faces = shown_faces.read_faces(args, size=student.model.image_size)
    masks = sample_masks(
        jax.random.key(args.seed),
        patch_classes(faces.parsing_maps, student.model.patch_size),
        strategy=args.strategy,
        mask_ratio=args.mask_ratio,
        region=None if args.region is None else GROUPS.index(args.region),
    )
    sheet.write_sheet(
        draw(student, faces, masks, name=Path(args.model).resolve().name), args.output
    )


def open_student(args: argparse.Namespace) -> Student:
    """Opens the network that the flags name.

    Raises:
        DataError: It has no pixel decoder, or cannot be read.
        ConfigError: A number of heads, or mean and std, are not known.
    """
    path = Path(args.model)
    heads = {name: vars(args)[name] for name in HEADS if vars(args)[name] is not None}
    source = read_source(path, branch="student", given=heads, step=args.step, entry=args.entry)
    if reference.kind(source.params) != "student":
        raise DataError(
            f"{path} has no pixel decoder: name the workdir of a pretraining run, or a .pth file"
            " with all of a pretrained network"
        )
    norm_pix = not args.raw_pixels
    if is_run(path):
        if args.raw_pixels:
            raise ConfigError("--raw-pixels is for .pth files; the config of a run says it")
        norm_pix = run_config(path).loss.norm_pix
    given = None if args.stats is None else load_stats(args.stats)
    stats = stats_of(source, path, given=given, field="--stats JSON, a file with mean and std")
    return Student(network(source.params, **unseen(source.model)), source.params, stats, norm_pix)


def reconstruct(
    student: Student, images: UInt8[np.ndarray, "B S S 3"], masks: Masks
) -> Reconstruction:
    """Predicts the removed patches of faces.

    Args:
        student: The network.
        images: The faces.
        masks: The masks of the faces.
    """
    compute = partial(_reconstruct, model=student.model, norm_pix=student.norm_pix)
    return jax.jit(partial(compute, stats=student.stats))(student.params, images, masks)


def _reconstruct(params, images, masks, *, model: FSVFM, norm_pix: bool, stats: Stats):
    size = model.patch_size
    normalized = normalize_images(images, stats)
    predicted = model.apply({"params": params}, normalized, masks, method="student").prediction
    target = losses.patch_targets(normalized, size, norm_pix=norm_pix)
    mean, deviation = losses.patch_moments(patchify(normalized, size))
    predictions = [predicted]
    if norm_pix:
        kept = (1 - masks.mask.astype(jnp.float32))[:, :, None]
        of_kept = (
            (x * kept).sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)
            for x in (mean, deviation)
        )
        kept_mean, kept_deviation = of_kept
        predictions = [predicted * deviation + mean, predicted * kept_deviation + kept_mean]
    flat = jnp.broadcast_to(mean, predicted.shape)
    drawn = draw_reconstructions(normalized, masks, jnp.stack([*predictions, flat]), stats=stats)
    errors = jnp.abs(drawn[2:].astype(jnp.float32) - drawn[:1].astype(jnp.float32)).mean(axis=-1)
    loss = losses.patch_errors(predicted, target)
    return Reconstruction(drawn[:-1], errors[:-1], errors[-1], loss)


def draw(
    student: Student, faces: shown_faces.ShownFaces, masks: Masks, *, name: str
) -> sheet.Sheet:
    """Draws faces, masked faces, reconstructions and errors, and tabulates the errors by region.

    Args:
        student: The network.
        faces: The faces.
        masks: The masks of the faces.
        name: Name of the network.
    """
    made = Reconstruction(*map(np.asarray, reconstruct(student, faces.images, masks)))
    size, patch_size = student.model.image_size, student.model.patch_size
    mask = np.asarray(masks.mask) != 0
    titles = [TRUE, ALONE] if student.norm_pix else ["of the network"]
    rows, ends = _rows(made, per_pixel(mask, size), faces.captions, titles)
    classes = patch_classes(faces.parsing_maps, patch_size)
    members = np.asarray(group_members(classes)) & mask[:, None]
    values = _by_region(made, members, patch_size=patch_size)
    series = dict(zip(titles, (WITH_TRUE, WITHOUT), strict=False)) | {FLAT: FLAT_COLOUR}
    legend = {"removed patch": REMOVED, "kept patch, not predicted": KEPT}
    width = rows.shape[1]
    picture = below_each_other(
        [
            rows,
            legend_strip(legend, width),
            legend_of(HEAT, ends, title=f"error: {LEVELS}", form="{:.0f}", width=width),
            caption_strip(f"Error of the removed patches of each region: {MEAN} {LEVELS}", width),
            legend_strip(series, width),
            bars(
                {region: errors[:-1] for region, errors in values.items()},
                colours=[*series.values()],
                form="{:.1f}",
                width=min(width, MAX_BARS),
            ),
        ]
    )
    notes = [NORM_PIX if student.norm_pix else RAW, *faces.notes]
    table = _table(values, members, [*series])
    return sheet.Sheet(f"Reconstruction of removed patches by {name}", notes, picture, [table])


def _rows(
    made: Reconstruction, removed: Bool[np.ndarray, "B S S"], captions: list[str], titles: list[str]
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[float, float]]:
    """Returns a row of images for each face, and the ends of the scale of errors."""
    ends = (0.0, float(np.ceil(np.percentile(made.errors[:, removed], 99))))
    columns = {"face": made.images[0], "masked": made.images[1]}
    for title, image, error in zip(titles, made.images[2:], made.errors, strict=True):
        columns[f"reconstruction {title}"] = image
        shown = np.where(removed[..., None], coloured(error, ends, HEAT), KEPT)
        columns[f"error of the reconstruction {title}"] = shown
    scale = scale_of(removed.shape[1])
    columns = {title: enlarged(images, scale) for title, images in columns.items()}
    return face_rows(columns, captions), ends


def _by_region(
    made: Reconstruction, members: Bool[np.ndarray, "B G N"], *, patch_size: int
) -> dict[str, list[float]]:
    """Returns for each region the mean errors of its removed patches, and their mean loss."""
    pixels = np.concatenate([made.errors, made.flat_errors[None]])
    side = pixels.shape[-1] // patch_size
    blocks = pixels.reshape(*pixels.shape[:2], side, patch_size, side, patch_size)
    patches = blocks.mean(axis=(3, 5)).reshape(*pixels.shape[:2], -1)  # [K + 1, B, N]
    chosen = {group: members[:, place] for place, group in enumerate(GROUPS)}
    chosen["all"] = members.any(axis=1)
    values = np.concatenate([patches, made.loss[None]])
    return {
        name: [float(x[mask].mean()) if mask.any() else float("nan") for x in values]
        for name, mask in chosen.items()
    }


def _table(
    values: dict[str, list[float]], members: Bool[np.ndarray, "B G N"], titles: list[str]
) -> sheet.Table:
    counts = dict(zip(GROUPS, members.sum(axis=(0, 2)), strict=True))
    counts["all"] = members.any(axis=1).sum()
    rows = []
    for name, (*errors, loss) in values.items():
        texts = ["-" if np.isnan(x) else f"{x:.1f}" for x in errors]
        rows.append([name, f"{counts[name]:,}", *texts, "-" if np.isnan(loss) else f"{loss:.3f}"])
    header = ("region", "removed patches", *titles, "L_rec")
    return sheet.Table(f"Error of removed patches: {MEAN} {LEVELS}, and L_rec", header, rows)
