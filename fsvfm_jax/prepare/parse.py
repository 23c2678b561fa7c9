"""Makes a parsing map for every crop of a tree: the stage `parse`, and its work on a few crops."""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.average import AverageParser
from fsvfm_jax.prepare.existing_maps import ImportParser
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.files import find_images
from fsvfm_jax.prepare.manifest import (
    TREE_MANIFEST,
    Line,
    Manifest,
    kept_options,
    new_files,
    read_lines,
)
from fsvfm_jax.prepare.stages import do_stage
from fsvfm_jax.prepare.workers import DIED, spread, start_limits, tick

logger = logging.getLogger(__name__)

CROPS_AT_ONCE = 1024  # crops per element of a pipeline, because a network takes seconds to load


@runtime_checkable
class Parser(Protocol):
    """Makes parsing maps: LaPa's classes 0 to 10, one per pixel."""

    def __call__(
        self, names: list[str], images: list[UInt8[np.ndarray, "_H _W 3"]]
    ) -> list[UInt8[np.ndarray, "_H _W"] | str]:
        """Returns the map of each image, of equal aspect ratio, or the reason for having none."""
        ...


class Options(NamedTuple):
    """The options that determine the maps."""

    parser: str = "farl"  # or "import" or "average"
    maps: str | None = None  # folder of maps to import
    labels: str = "lapa"  # labels of the maps to import; or "celebamask19"


def make_parser(options: Options, *, device: str, of_crops: bool) -> Parser:
    """Returns the parser that the options name.

    Args:
        options: The parser and its settings.
        device: PyTorch's name of FaRL's device.
        of_crops: Whether the images are faces cropped from photographs.
    """
    if options.parser == "average":
        return AverageParser()
    if options.parser == "import":
        assert options.maps is not None
        return ImportParser(options.maps, labels=options.labels, of_crops=of_crops)
    # This parser needs an extra, and is therefore imported only here.
    from fsvfm_jax.prepare.farl import FarlParser

    return FarlParser(device)


def maps_of_crops(
    crops: list[tuple[str, bytes]], parser: Parser
) -> list[tuple[Line, bytes | None]]:
    """Returns a manifest line for each crop, and its map as NPY (int8 [1, H, W]) if it has one.

    A map of another size is resized to the image's by nearest pixels, and its line reports that.

    Args:
        crops: Name relative to `images/`, and content of the file.
        parser: The parser that makes the maps.
    """
    images, reasons = {}, {}
    for name, data in crops:
        try:
            images[name] = decode_image(data)
        except ValueError as error:
            reasons[name] = str(error)
    made = parser(list(images), list(images.values())) if images else []
    made = reasons | dict(zip(images, made, strict=True))
    sizes = {name: image.shape[:2] for name, image in images.items()}
    lines = [{"image": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in crops]
    return [_with_map(line, made[line["image"]], sizes.get(line["image"])) for line in lines]


def check(options: Options, *, batch_size: int) -> None:
    """Checks the options of `parse`.

    Args:
        options: The options that determine the maps.
        batch_size: Number of crops that go through FaRL together.

    Raises:
        ConfigError: The options contradict each other, or an extra is missing.
    """
    if (options.parser == "import") != (options.maps is not None):
        raise ConfigError("--parser import and --maps DIR go together: give both or neither")
    if options.labels != "lapa" and options.parser != "import":
        raise ConfigError(f"--labels {options.labels} is for --parser import")
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}; it must be at least 1")
    if options.parser == "farl":
        check_installed({"torch", "facer"}, extra="farl")


def parse(
    tree: Path,
    options: Options,
    *,
    processes: int,
    device: str | None = None,
    batch_size: int = 32,
    beam: str | None = None,
) -> dict[str, int]:
    """Makes all maps, writes `parsing_maps/` and the manifest, and continues a stopped run.

    Args:
        tree: Folder with `images/`.
        options: The options that determine the maps.
        processes: Number of processes; FaRL uses one per device instead.
        device: PyTorch's name of FaRL's device; None means every GPU, or the CPU if there is none.
        batch_size: Number of crops that go through FaRL together.
        beam: Options of the Apache Beam pipeline that runs the stage, or None.

    Returns:
        The number of manifest lines by outcome.

    Raises:
        DataError: There are no crops, or no crop got a map.
        ConfigError: The tree was parsed with other options, or an extra is missing.
        StorageError: The tree cannot be written.
    """
    check(options, batch_size=batch_size)
    names, refusals = find_images(str(tree / "images"))
    with Manifest(tree, "parse", key="image", options=options._asdict()) as manifest:
        for refusal in refusals:
            if refusal.name not in manifest:
                manifest.add([_refused(refusal.name, refusal.reason)])
        work = partial(
            _parsed,
            tree=tree.absolute(),
            options=options,
            # The runner of a pipeline decides how many processes a machine has.
            processes=processes if beam is None else 1,
            device=device,
            batch_size=batch_size,
        )
        items = {name: name for name in names}
        do_stage(manifest, items, work, beam=beam, at_once=CROPS_AT_ONCE)
        counts = manifest.finish()
    _say_what_was_resized(tree)
    if not counts.get("parsed"):
        raise DataError(f"no crop in {tree} got a map; {tree / TREE_MANIFEST} says why for each")
    return counts


def _parsed(
    names: Sequence[str],
    *,
    tree: Path,
    options: Options,
    processes: int,
    device: str | None,
    batch_size: int,
) -> Iterator[list[Line]]:
    """Yields the line of each crop, in the order in which they are done."""
    devices = _devices(device) if options.parser == "farl" else ["cpu"] * processes
    arguments = [(tree, options, x) for x in devices]
    for size in (batch_size, 1):  # Crops of a batch whose process died are done one by one.
        chunks = [names[i : i + size] for i in range(0, len(names), size)]
        names = []
        for chunk, lines in spread(chunks, _make_worker, arguments[: max(len(chunks), 1)]):
            if lines is not None:
                yield from ([line] for line in lines)
            elif size > 1:
                names += chunk
            else:
                yield [_refused(chunk[0], DIED)]


def _make_worker(arguments: tuple[Path, Options, str]) -> Callable[[list[str]], list[Line]]:
    tree, options, device = arguments
    of_crops = kept_options(tree).get("detect", {}).get("detector", "none") != "none"
    parser = make_parser(options, device=device, of_crops=of_crops)
    is_network = options.parser == "farl"
    if not is_network:  # PyTorch's use of memory and time cannot be limited.
        start_limits()
    return partial(_write_maps, tree=tree, parser=parser, together=is_network)


def _write_maps(names: list[str], *, tree: Path, parser: Parser, together: bool) -> list[Line]:
    """Writes the maps of a few crops and returns their lines.

    Unless the crops go through a network `together`, only one is in memory at a time.
    """
    lines = []
    with new_files(tree) as write:
        for group in [names] if together else [[name] for name in names]:
            try:
                made = maps_of_crops(_read(group, tree, refused=lines), parser)
            except MemoryError:
                made = [(_refused(name, "it takes too much memory"), None) for name in group]
            for line, npy in made:
                tick()
                lines.append(line)
                if npy is not None:
                    write(f"parsing_maps/{line['map']}", npy)
    return lines


def _read(names: list[str], tree: Path, *, refused: list[Line]) -> list[tuple[str, bytes]]:
    """Returns name and bytes of the readable crops; adds the other crops to the refused lines."""
    crops = []
    for name in names:
        try:
            crops.append((name, read_file(str(tree / "images" / name))))
        except ValueError as error:
            refused.append(_refused(name, str(error)))
    return crops


def _with_map(
    line: Line, made: UInt8[np.ndarray, "_H _W"] | str, size: tuple[int, int] | None
) -> tuple[Line, bytes | None]:
    if isinstance(made, str):
        return {**line, "outcome": "refused", "reason": made, "map": None}, None
    reason = None
    if made.shape != size:
        reason = f"resized from {made.shape[0]} x {made.shape[1]}"
        made = np.array(Image.fromarray(made).resize(size[::-1], Image.Resampling.NEAREST))
    file = io.BytesIO()
    np.save(file, made[None].astype(np.int8))
    name = f"{os.path.splitext(line['image'])[0]}.npy"
    return {**line, "outcome": "parsed", "reason": reason, "map": name}, file.getvalue()


def _say_what_was_resized(tree: Path) -> None:
    resized = [
        line
        for line in read_lines(tree)
        if line["stage"] == "parse" and line["outcome"] == "parsed" and line.get("reason")
    ]
    if resized:
        logger.warning(
            "%s: %d maps were of another size than their images, and were resized by nearest"
            " pixels; first %s, %s",
            tree,
            len(resized),
            resized[0].get("image"),
            resized[0]["reason"],
        )


def _refused(name: str, reason: str) -> Line:
    return {"image": name, "sha256": None, "outcome": "refused", "reason": reason, "map": None}


def _devices(device: str | None) -> list[str]:
    if device is not None:
        return [device]
    import torch  # It is an extra, and therefore imported only here.

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
