"""Prints one table of several reports: `python -m fsvfm_jax.report --help`."""

import argparse
import sys
from collections.abc import Sequence

from fsvfm_jax import cli
from fsvfm_jax.report.summary import summary

COMMAND = "python -m fsvfm_jax.report"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a mistake of the user ends it with one sentence and an exit code.

    Args:
        argv: Command line without the program's name.
    """
    with cli.exit_codes():
        args = _parser().parse_args(argv)
        print(summary(args.tables))
        cli.check_output()


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Tables of several reports.", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "summary",
        help="one table of many reports, with means over seeds and sets",
        description="Joins the tables of several evaluations into one Markdown table. Metrics of"
        " several seeds become mean and standard deviation.",
        allow_abbrev=False,
    )
    verb.add_argument("tables", nargs="+", metavar="TABLE", help="table.json of an evaluation")
    return parser


if __name__ == "__main__":
    cli.begin()
    main(sys.argv[1:])
