"""Turns photographs and videos into training sets: `python -m fsvfm_jax.prepare --help`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fsvfm_jax import cli
from fsvfm_jax.errors import Preempted
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.prepare import check, detect, pack, parse
from fsvfm_jax.prepare.crops import FACE_DETECTORS
from fsvfm_jax.prepare.existing_maps import LABELS

COMMAND = "python -m fsvfm_jax.prepare"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a mistake of the user ends it with one sentence and an exit code.

    Args:
        argv: Command line without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        try:
            args = _parser().parse_args(argv)
            args.run(args)
        except KeyboardInterrupt as error:
            raise Preempted("interrupted: the same command goes on where it stopped") from error


def _run(args: argparse.Namespace) -> None:
    src = Path(args.src)
    # Wrong settings should fail before detecting, which takes hours.
    names = ("split", "encoding", "image_size", "shard_records")
    pack.check_settings(**{name: getattr(args, name) for name in names})
    is_tree = (src / "images").is_dir() and (src / "parsing_maps").is_dir()
    if not is_tree:
        parse.check(_parse_options(args), batch_size=args.batch_size)
        _detect(args)
        _parse(args)
    settings = {"dir": str(src if is_tree else args.dir), "set": str(args.dir / "set")}
    # A tree that this command made may contain links; a tree from elsewhere may be a stranger's.
    settings["links_out"] = not is_tree
    pack.run(argparse.Namespace(**vars(args) | settings))


def _detect(args: argparse.Namespace) -> None:
    options = detect.Options(**{name: getattr(args, name) for name in detect.Options._fields})
    counts = detect.detect(
        args.src, args.dir, options, root=args.root, processes=args.processes, beam=args.beam
    )
    _tell(args.dir, counts)


def _parse(args: argparse.Namespace) -> None:
    counts = parse.parse(
        args.dir,
        _parse_options(args),
        processes=args.processes,
        device=args.device,
        batch_size=args.batch_size,
        beam=args.beam,
    )
    _tell(args.dir, counts)


def _parse_options(args: argparse.Namespace) -> parse.Options:
    maps = None if args.maps is None else os.path.abspath(args.maps)
    return parse.Options(parser=args.parser, maps=maps, labels=args.labels)


def _tell(tree: Path, counts: dict[str, int]) -> None:
    parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(printable(f"{tree}: {parts}; see {tree / 'manifest.jsonl'}"))


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Makes training sets of photographs and videos.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def command(verb: str, run, text: str, **settings) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **settings,
        )
        added.set_defaults(run=run)
        return added

    everything = command("run", _run, "detect, parse and pack, into FACES/set")
    _add_detect(everything)
    _add_parse(everything)
    pack.add_options(everything)
    _add_detect(command("detect", _detect, "find faces and cut them out, into FACES/images"))
    parsing = command("parse", _parse, "make a parsing map for every image of FACES/images")
    parsing.add_argument("dir", type=Path, metavar="FACES", help="folder with images/")
    _add_parse(parsing)
    packing = command("pack", pack.run, "write the faces of a folder as a set of few files")
    pack.add_arguments(packing)
    for added in (everything, verbs.choices["detect"], parsing, packing):
        added.add_argument(
            "--processes",
            type=cli.count,
            default=available_cores(),
            metavar="N",
            help="number of processes; with --beam its runner decides",
        )
        added.add_argument(
            "--beam",
            metavar="OPTIONS",
            help="run on Apache Beam with these options, such as --beam='--runner=FlinkRunner"
            " --flink_master=HOST:8081'; all paths must be the same on all machines",
        )
    check.add_arguments(command("check", check.run, "check whether a set is intact"))
    return parser


def _add_detect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src",
        metavar="PHOTOS",
        help="folder of images and videos, .txt list of paths, or one image or video; for run also"
        " a folder with images/ and parsing_maps/, which is packed without changes",
    )
    parser.add_argument(
        "dir", type=Path, metavar="FACES", help="folder to work in; created if missing"
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder to which a list's paths are relative; by default the list's folder",
    )
    parser.add_argument(
        "--detector",
        choices=FACE_DETECTORS,
        default="dlib",
        help="none: images are cropped already, and their middle square is used",
    )
    parser.add_argument(
        "--upsample",
        type=int,
        default=1,
        metavar="N",
        help="dlib: how often to double the image's size before the search",
    )
    parser.add_argument(
        "--faces", choices=("largest", "all"), default="largest", help="faces to keep of a picture"
    )
    parser.add_argument(
        "--frames",
        type=_frames,
        default=32,
        metavar="N|all",
        help="number of frames to read of a video, evenly spaced",
    )
    parser.add_argument(
        "--size", type=int, default=224, metavar="N", help="side of a crop in pixels"
    )


def _add_parse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parser",
        choices=("farl", "import", "average"),
        default="farl",
        help="farl: a network; import: existing maps; average: the same regions for every face",
    )
    parser.add_argument(
        "--maps",
        metavar="DIR",
        help="import: folder of <name>.npy or .png for images/<name>.png, of the same aspect ratio",
    )
    parser.add_argument(
        "--labels", choices=tuple(LABELS), default="lapa", help="import: data set of the numbering"
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="farl: PyTorch's name of the device; by default every GPU, or else the CPU",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="farl: number of crops per batch"
    )


def _frames(text: str) -> int | None:
    return None if text == "all" else int(text)


if __name__ == "__main__":
    cli.begin(stopped="stopped: the same command goes on where it stopped")
    main(sys.argv[1:])
