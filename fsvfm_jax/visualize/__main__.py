"""Draws pictures of what a network gets, sees and returns: `python -m fsvfm_jax.visualize --help`.

Every verb is a module with two functions: `add_arguments` and `run`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from fsvfm_jax import cli

COMMAND = "python -m fsvfm_jax.visualize"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a mistake of the user ends it with one sentence and an exit code.

    Args:
        argv: Command line without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        args = _parser(argv).parse_args(argv)
        args.run(args)
        cli.check_output()


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Pictures of the method and of networks.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def command(name: str, about: str, *, module: str) -> None:
        verb = verbs.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        if name in argv:  # The import of a verb takes seconds, because it imports JAX.
            code = importlib.import_module(f"fsvfm_jax.visualize.{module}")
            code.add_arguments(verb)
            verb.set_defaults(run=code.run)

    command(
        "masks",
        "a picture of the masks, and a table of the share of each region they remove",
        module="masks",
    )
    command(
        "reconstruct",
        "what a pretrained network predicts of removed patches, and its errors by region",
        module="reconstruct",
    )
    command(
        "attention",
        "which patches the class token attends to, per head, and by rollout over the blocks",
        module="attention",
    )
    command(
        "features",
        "patch features as colours, and their similarity to the feature of one patch",
        module="patch_features",
    )
    command(
        "explain",
        "which patches and facial regions make a face look fake to a detector",
        module="explain",
    )
    command("run", "a page of training runs: curves, pictures, configs", module="run_page")
    return parser


if __name__ == "__main__":
    cli.begin()
    main(sys.argv[1:])
