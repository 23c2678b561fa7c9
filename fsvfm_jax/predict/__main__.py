"""Applies networks to faces: `python -m fsvfm_jax.predict --help`."""

import argparse
import sys
from collections.abc import Sequence

from fsvfm_jax import cli
from fsvfm_jax.predict import embed

COMMAND = "python -m fsvfm_jax.predict"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a mistake of the user ends it with one sentence and an exit code.

    Args:
        argv: Command line without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        args = _parser().parse_args(argv)
        args.run(args)
        cli.check_output()


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Applies encoders and detectors to faces.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "write the features of faces, and find the nearest faces"
    added = verbs.add_parser("embed", help=text, description=f"{text[0].upper()}{text[1:]}.")
    embed.add_arguments(added)
    added.set_defaults(run=embed.run)
    return parser


if __name__ == "__main__":
    cli.begin(stopped="stopped: nothing was written")
    main(sys.argv[1:])
