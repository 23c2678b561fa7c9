"""Uses a detector or an encoder on any picture: `python -m fsvfm_jax.predict --help`."""

# Large modules are imported inside functions, because worker processes import this module again.

import argparse
import sys
from collections.abc import Sequence

from absl import flags

from fsvfm_jax import cli
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
        args, args.rest = _parser().parse_known_args(argv)
        if not args.takes_config:
            if args.rest:
                raise ConfigError(f"unexpected argument {args.rest[0]!r}; see {COMMAND} --help")
            flags.FLAGS.mark_as_parsed()  # The flags of libraries, which keep their defaults.
        share_heaps()
        args.run(args)


def _parser() -> argparse.ArgumentParser:
    from fsvfm_jax.predict import about, calibrate, embed, score, serve, stress

    parser = cli.Parser(prog=COMMAND, description="Uses a detector or an encoder on any picture.")
    parser.set_defaults(takes_config=False, rest=[])
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    scoring = verbs.add_parser(
        "score",
        help="how fake the faces in photographs and videos look to a detector",
        description="Finds the faces in photographs and videos as in the training of a detector,"
        " and writes for every file how fake they look to it.",
        allow_abbrev=False,
    )
    score.add_arguments(scoring)
    scoring.set_defaults(run=score.run)
    text = "write the features of faces, and find the faces nearest to a face"
    embedding = verbs.add_parser("embed", help=text, description=f"{text[0].upper()}{text[1:]}.")
    embed.add_arguments(embedding)
    embedding.set_defaults(run=embed.run)
    calibrating = verbs.add_parser(
        "calibrate",
        help="operating points, calibration error and temperature on labelled faces",
        description="Measures on labelled faces how far a detector's scores can be trusted, and"
        " writes thresholds and a temperature that `score` uses.",
        allow_abbrev=False,
    )
    calibrate.add_arguments(calibrating)
    calibrating.set_defaults(run=calibrate.run)
    stressing = verbs.add_parser(
        "stress",
        help="the same detector on labelled faces that are degraded",
        description="Degrades labelled faces, real and fake alike, and measures a detector on"
        " them: JPEG, H.264, resizing, blur, noise, gamma, crop and number of frames.",
        allow_abbrev=False,
    )
    stress.add_arguments(stressing)
    stressing.set_defaults(run=stress.run)
    text = "what the score of a detector means, and what is known of a network"
    telling = verbs.add_parser("about", help=text, description=f"Prints {text}.")
    about.add_arguments(telling)
    telling.set_defaults(run=about.run)
    text = "a page in the browser that scores pictures and short videos"
    serving = verbs.add_parser(
        "serve", help=text, description=f"Serves {text}.", allow_abbrev=False
    )
    serve.add_arguments(serving)
    serving.set_defaults(run=serve.run)
    return parser


if __name__ == "__main__":
    cli.begin(stopped="stopped: all that was written is complete")
    main(sys.argv[1:])
