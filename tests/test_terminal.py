"""Tests that text is made safe to show."""

import logging

import pytest

from fsvfm_jax import cli
from fsvfm_jax.errors import DataError
from fsvfm_jax.host.terminal import printable

HOSTILE = "a\x1b[2J\r\n\x07\x9b31m\u202egnp.exe\u2028\udcff b"
ESCAPED = r"a\x1b[2J\r\n\x07\x9b31m\u202egnp.exe\u2028\udcff b"
# A traceback has many lines, so the line breaks of a message in it are kept too.
IN_TRACEBACK = ESCAPED.replace(r"\n", "\n")


def test_printable() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Zoë 人.png") == "Zoë 人.png"
    assert printable("a\nb\t", keep="\n") == "a\nb\\t"


def test_an_error_shows_a_name_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), cli.exit_codes():
        raise DataError(f"{HOSTILE} is damaged")
    assert capsys.readouterr().err == f"error: {ESCAPED} is damaged\n"


def test_a_traceback_shows_a_name_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), cli.exit_codes():
        raise RuntimeError(HOSTILE)
    shown = capsys.readouterr().err
    assert f"RuntimeError: {IN_TRACEBACK}\n" in shown
    assert "Traceback" in shown.splitlines()[0]


def test_a_log_line_shows_a_name_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    cli.set_up_logging()
    logging.getLogger("fsvfm_jax.test").info("%s is left out", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("fsvfm_jax.test").exception("%s failed", HOSTILE)
    first, second, *traceback = capsys.readouterr().err.splitlines()
    assert first.endswith(f" {ESCAPED} is left out")
    assert second.endswith(f" {ESCAPED} failed")
    assert "\n".join(traceback).endswith(f"\nValueError: {IN_TRACEBACK}")
