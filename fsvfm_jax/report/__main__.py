"""Makes reports of given scores, and joins reports: `python -m fsvfm_jax.report --help`."""

import argparse
import sys
from collections.abc import Callable, Sequence

from fsvfm_jax import cli
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.report import tabulate, versus
from fsvfm_jax.report.given_scores import PARQUET
from fsvfm_jax.report.summary import summary

COMMAND = "python -m fsvfm_jax.report"


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
    parser = cli.Parser(
        prog=COMMAND, description="Makes, joins and compares reports.", allow_abbrev=False
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], *, about: str, description: str
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=about, description=description, allow_abbrev=False)
        verb.set_defaults(run=run)
        return verb

    verb = command(
        "summary",
        _summary,
        about="one table of many reports, with means over seeds and sets",
        description="Joins the tables of several evaluations into one Markdown table. Metrics of"
        " several seeds become mean and standard deviation.",
    )
    verb.add_argument(
        "tables",
        nargs="+",
        metavar="[METHOD=]TABLE",
        help="table.json of an evaluation; METHOD= before it names the detector in the table",
    )
    verb = command(
        "scores",
        _scores,
        about="the report of an evaluation, of the scores of any detector",
        description="Makes the report of an evaluation from a file of scores: labels and videos"
        " come from the set on disk, as in configs/eval/.",
    )
    tabulate.add_arguments(verb)
    verb = command(
        "compare",
        versus.run,
        about="two detectors on the same videos: which is better, and where they disagree",
        description="Compares two reports: differences of AUC, AP and EER with intervals, and the"
        " videos on which the detectors disagree.",
    )
    versus.add_arguments(verb)
    return parser


def _summary(args: argparse.Namespace) -> None:
    print(summary(args.tables))


def _scores(args: argparse.Namespace) -> None:
    if args.file.lower().endswith(PARQUET):
        check_installed({"pyarrow"}, extra="parquet")
    tabulate.run(args)


if __name__ == "__main__":
    cli.begin(stopped="stopped: give the same command again")
    main(sys.argv[1:])
