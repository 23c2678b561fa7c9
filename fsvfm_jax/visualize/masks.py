"""The verb `masks`: draws masks on faces, and tabulates the removed share of each region."""

import argparse
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from fsvfm_jax import cli
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.mask_pictures import masks_picture
from fsvfm_jax.masking import STRATEGIES, Masks, group_members, num_removed, sample_masks
from fsvfm_jax.regions import GROUPS, NUM_COVERABLE, patch_classes
from fsvfm_jax.visualize import sheet, shown_faces
from fsvfm_jax.visualize.colours import enlarged, scale_of

ROWS = (*GROUPS, "all", "one region fully covered")
MAX_FACES_SHOWN = 8
MAX_FACES = 4096  # of the table
MOST = {"image_size": 2048, "draws": 10_000}
FORCED = ("crfr_p",)  # drawn once for every region that it can cover


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    shown_faces.add_arguments(parser)
    parser.set_defaults(count=16)
    parser.add_argument("--image-size", type=cli.count, default=224, help="side in pixels")
    parser.add_argument("--patch-size", type=cli.count, default=16, help="side in pixels")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of patches removed")
    parser.add_argument(
        "--draws", type=cli.count, default=200, help="number of masks drawn per face"
    )
    sheet.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: A flag or a face is wrong, or the picture cannot be written.
    """
    for name, most in MOST.items():
        if (value := vars(args)[name]) > most:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is {value}; it must be at most {most}")
    if args.image_size % args.patch_size:
        raise ConfigError(
            f"--image-size {args.image_size} does not divide into patches of --patch-size"
            f" {args.patch_size}; choose a multiple"
        )
    sheet.check_output_file(args.output)
    faces = shown_faces.read_faces(args, size=args.image_size, most=MAX_FACES)
    sheet.write_sheet(draw_masks(faces, args), args.output)


def draw_masks(faces: shown_faces.ShownFaces, args: argparse.Namespace) -> sheet.Sheet:
    """Draws the masks of the first faces, and computes the removed shares of all.

    Args:
        faces: The faces.
        args: The flags of the verb.
    """
    classes = patch_classes(faces.parsing_maps, args.patch_size)
    sample = jax.jit(sample_masks, static_argnames=("strategy", "mask_ratio", "region"))
    keys = jax.random.split(jax.random.key(args.seed), args.draws)
    shown, shares, first = {}, {}, slice(MAX_FACES_SHOWN)
    for name in STRATEGIES:
        draws = [sample(k, classes, strategy=name, mask_ratio=args.mask_ratio) for k in keys]
        shares[name] = removed_shares(np.stack([masks.mask for masks in draws]), classes)
        if name not in FORCED:
            shown[name] = draws[0]
    for name in FORCED:
        for region, group in enumerate(GROUPS[:NUM_COVERABLE]):
            options = {"strategy": name, "mask_ratio": args.mask_ratio, "region": region}
            shown[f"{name}: {group}"] = sample(keys[0], classes, **options)
    masks = {name: Masks(*(array[first] for array in one)) for name, one in shown.items()}
    maps, scale = faces.parsing_maps[first], scale_of(args.image_size)
    picture = masks_picture(
        enlarged(faces.images[first], scale),
        enlarged(maps, scale),
        masks,
        patch_size=args.patch_size * scale,
    )
    removed, total = num_removed(classes.shape[1], args.mask_ratio), classes.shape[1]
    table = sheet.Table(
        f"Share of the patches that a mask removes: mean over {len(classes)} faces and"
        f" {args.draws} draws for each; each mask removes {removed} of {total} patches",
        ("", *shares),
        table_rows(shares),
    )
    title = f"Masks of each strategy; {removed} of {total} patches are removed"
    return sheet.Sheet(title, faces.notes, picture, [table])


def removed_shares(
    masks: UInt8[np.ndarray, "draws B N"], classes: UInt16[np.ndarray, "B N"]
) -> Float[np.ndarray, " rows"]:
    """Returns for each of ROWS the removed share, over all draws and faces.

    The share of a group is that of its patches in a face, averaged over the faces that show the
    group (NaN if no face does). A patch counts for every group it belongs to. The last row is the
    share of masks that remove all of at least one coverable region of the face.

    Args:
        masks: 1 for removed patches.
        classes: Words of `regions.patch_classes`.
    """
    members = np.asarray(group_members(classes))
    members = np.concatenate([members, np.ones_like(members[:, :1])], axis=1)  # "all"
    size = members.sum(axis=-1)  # [B, rows - 1]
    removed = members.astype(np.float32) @ masks.transpose(1, 2, 0).astype(np.float32)
    share = removed.mean(axis=-1, dtype=np.float64) / np.maximum(size, 1)
    with np.errstate(invalid="ignore"):
        shares = share.sum(axis=0) / (size > 0).sum(axis=0)
    whole = (removed == size[..., None]) & (size[..., None] > 0)
    return np.append(shares, whole[:, :NUM_COVERABLE].any(axis=1).mean())


def table_rows(shares: Mapping[str, Float[np.ndarray, " rows"]]) -> list[list[str]]:
    """Returns the cells in percent, with a row per entry of ROWS and a column per mapping entry."""
    rows = []
    for row, name in enumerate(ROWS):
        values = [column[row] for column in shares.values()]
        rows.append([name, *("-" if np.isnan(v) else f"{100 * v:.1f} %" for v in values)])
    return rows
