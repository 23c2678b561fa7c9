"""Uses a detector or an encoder on any picture: `python -m fsvfm_jax.predict --help`."""

# Large modules are imported inside functions, because worker processes import this module again.

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from absl import flags

from fsvfm_jax import cli
from fsvfm_jax.devices.peers import check_alone
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.processes import share_heaps

COMMAND = "python -m fsvfm_jax.predict"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a user's mistake ends it with one sentence and its exit code.

    Args:
        argv: Command line without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        # Only verbs with labelled sets take --config and its fields, which absl parses.
        args, args.rest = _parser(argv).parse_known_args(argv)
        if not args.takes_config:
            if args.rest:
                raise ConfigError(f"unexpected argument {args.rest[0]!r}; see {COMMAND} --help")
            flags.FLAGS.mark_as_parsed()  # The flags of libraries, which keep their defaults.
        check_alone(os.environ)
        share_heaps()
        args.run(args)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Uses a detector or an encoder on any picture.")
    parser.set_defaults(takes_config=False, rest=[])
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def command(name: str, *, about: str, description: str) -> None:
        verb = verbs.add_parser(name, help=about, description=description, allow_abbrev=False)
        if name in argv:  # The import of some verbs takes seconds, because they import JAX.
            module = importlib.import_module(f"fsvfm_jax.predict.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)

    command(
        "score",
        about="how fake the faces in photographs and videos look to a detector",
        description="Finds the faces in photographs and videos as in the training of a detector,"
        " and writes for every file how fake they look to it.",
    )
    command(
        "embed",
        about="write the features of faces, and find the faces nearest to a face",
        description="Writes the features of faces, and finds the faces nearest to a face.",
    )
    command(
        "calibrate",
        about="operating points, calibration error and temperature on labelled faces",
        description="Measures on labelled faces how far a detector's scores can be trusted, and"
        " writes thresholds and a temperature that `score` uses.",
    )
    command(
        "stress",
        about="the same detector on labelled faces that are degraded",
        description="Degrades labelled faces, real and fake alike, and measures a detector on"
        " them: JPEG, H.264, resizing, blur, noise, gamma, crop and number of frames.",
    )
    command(
        "about",
        about="what the score of a detector means, and what is known of a network",
        description="Prints what the score of a detector means, and what is known of a network.",
    )
    command(
        "serve",
        about="a page in the browser that scores pictures and short videos",
        description="Serves a page in the browser that scores pictures and short videos.",
    )
    return parser


if __name__ == "__main__":
    cli.begin(stopped="stopped: all that was written is complete")
    main(sys.argv[1:])
