"""The verb `masks`: draws masks on faces, and tabulates the removed share of each region."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from fsvfm_jax.data.elements import to_batch_element
from fsvfm_jax.data.sources import make_source
from fsvfm_jax.errors import ConfigError, StorageError, reason_of
from fsvfm_jax.mask_pictures import masks_picture
from fsvfm_jax.masking import STRATEGIES, Masks, group_members, num_removed, sample_masks
from fsvfm_jax.regions import GROUPS, NUM_COVERABLE

ROWS = (*GROUPS, "all", "one region fully covered")
MAX_FACES_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="folder with images/ and parsing_maps/, or packed set; without any, rendered faces",
    )
    parser.add_argument(
        "--count", type=int, default=16, help="number of faces to use, from the first on"
    )
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels")
    parser.add_argument("--patch-size", type=int, default=16, help="side in pixels")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of patches removed")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the masks and of rendered faces"
    )
    parser.add_argument("--draws", type=int, default=200, help="number of masks drawn per face")
    parser.add_argument("--output", required=True, metavar="FILE.png", help="the picture to write")


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: A flag or a face is wrong, or the picture cannot be written.
    """
    _check(args)
    source = make_source(
        "tfds" if args.inputs else "synthetic",
        image_size=args.image_size,
        paths=args.inputs,
        num_samples=args.count,
        seed=args.seed,
    )
    count = min(args.count, len(source))
    elements = (to_batch_element(source[i], args.patch_size) for i in range(count))
    classes = np.stack([element["classes"] for element in elements])
    faces = [source[i] for i in range(min(count, MAX_FACES_SHOWN))]

    sample = jax.jit(sample_masks, static_argnames=("strategy", "mask_ratio"))
    keys = jax.random.split(jax.random.key(args.seed), args.draws)
    shown, shares = {}, {}
    for name in STRATEGIES:
        draws = [sample(k, classes, strategy=name, mask_ratio=args.mask_ratio) for k in keys]
        shown[name] = Masks(*(array[: len(faces)] for array in draws[0]))
        shares[name] = removed_shares(np.stack([masks.mask for masks in draws]), classes)

    images = np.stack([face["image"] for face in faces])
    parsing_maps = np.stack([face["parsing_map"] for face in faces])
    _write(masks_picture(images, parsing_maps, shown, patch_size=args.patch_size), args.output)
    print(markdown_table(shares))
    removed, total = num_removed(classes.shape[1], args.mask_ratio), classes.shape[1]
    print(f"\n{count} faces, {args.draws} draws; each removes {removed} of {total} patches.")
    print(f"The picture is {args.output}: removed patches grey, the covered region's orange.")


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


def markdown_table(shares: Mapping[str, Float[np.ndarray, " rows"]]) -> str:
    """Returns a table in percent, with a row per entry of ROWS and a column per mapping entry."""
    lines = [["", *shares], ["---", *["---:"] * len(shares)]]
    for row, name in enumerate(ROWS):
        values = [column[row] for column in shares.values()]
        lines.append([name, *("-" if np.isnan(v) else f"{100 * v:.1f} %" for v in values)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _check(args: argparse.Namespace) -> None:
    for flag in ("count", "image_size", "patch_size", "draws", "seed"):
        value, least = getattr(args, flag), 0 if flag == "seed" else 1
        if value < least:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is {value}; it must be at least {least}")
    if args.image_size % args.patch_size:
        raise ConfigError(
            f"--image-size {args.image_size} does not divide into patches of --patch-size"
            f" {args.patch_size}; choose a multiple"
        )
    if not Path(args.output).parent.is_dir():
        raise _cannot_be_written(args.output, "its folder does not exist")


def _write(picture: UInt8[np.ndarray, "H W 3"], output: str) -> None:
    try:
        Image.fromarray(picture).save(output, format="PNG")
    except OSError as error:
        raise _cannot_be_written(output, reason_of(error)) from error


def _cannot_be_written(output: str, reason: str | None) -> StorageError:
    return StorageError(
        f"the picture {output} cannot be written ({reason}); choose a file in a writable folder"
    )
