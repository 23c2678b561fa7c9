"""Tests that a command continues and ends as usual if nothing reads its output."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from fsvfm_jax import cli
from fsvfm_jax.errors import StorageError
from fsvfm_jax.host import streams

ROOT = Path(__file__).parent.parent
# This command writes much in all ways of writing, and then ends in the requested way.
COMMAND = """
import logging, os, sys, warnings
import absl.logging
from tqdm import tqdm
from fsvfm_jax import cli, errors
from fsvfm_jax.host.progress import progress
cli.begin()
cli.set_up_logging()
with cli.exit_codes():
    for _ in range(100):
        logging.getLogger("fsvfm_jax").warning("x" * 1000)
        print("y" * 1000)
        print("z" * 1000, file=sys.stderr, flush=True)
    warnings.warn("w")
    absl.logging.error("a")  # It keeps the stream that it found when it was imported.
    list(progress(range(3), total=3, description="p"))
    list(tqdm(range(3)))
    os.write(3, b"done")
    {ending}
"""
ENDINGS = {
    "cli.check_output()": 0,
    "raise errors.DataError('bad')": 65,
    "1 / 0": 70,
    "raise KeyboardInterrupt": 130,
}


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def run(program: str, *, stdout: int | None, stderr: int | None) -> tuple[int, bytes]:
    """Returns the exit code, and the text that the program wrote to descriptor 3."""
    read, write = os.pipe()
    redirect = ["exec 3>&$0"]
    for number, target in ((1, stdout), (2, stderr)):
        redirect.append(f"{number}>&{'-' if target is None else target}")
    kept = [x for x in (write, stdout, stderr) if x is not None]
    command = ["bash", "-c", f'{" ".join(redirect)}; exec "$@"', str(write)]
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", program], cwd=ROOT, pass_fds=kept, timeout=PATIENCE
        )
    finally:
        os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return done.returncode, pipe.read()


@pytest.mark.parametrize(("ending", "code"), ENDINGS.items())
def test_a_closed_pipe_does_not_change_how_a_command_ends(closed_pipe, ending, code):
    program = COMMAND.format(ending=ending)
    assert run(program, stdout=closed_pipe, stderr=closed_pipe) == (code, b"done")


@pytest.mark.parametrize(("ending", "code"), [("pass", 0), ("cli.check_output()", 73)])
def test_nor_does_a_full_disk_unless_the_output_is_the_result(ending, code):
    with open("/dev/full", "wb") as full:
        program = COMMAND.format(ending=ending)
        assert run(program, stdout=full.fileno(), stderr=full.fileno()) == (code, b"done")


def test_nor_do_closed_descriptors_which_no_file_gets():
    program = COMMAND.format(ending="os.write(3, str(os.open('/', os.O_RDONLY) > 2).encode())")
    assert run(program, stdout=None, stderr=None) == (0, b"doneTrue")


def test_messages_into_a_pipe_without_room_that_does_not_block_are_dropped():
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(os.devnull, "wb") as null:
        program = COMMAND.format(ending="pass")
        assert run(program, stdout=null.fileno(), stderr=write) == (0, b"done")
    os.close(read)
    os.close(write)


def test_output_into_a_pipe_without_room_that_does_not_block_waits_for_the_reader():
    """Checks that it waits only until the reader goes away, like a write to any pipe."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    program = (
        "from fsvfm_jax import cli; cli.begin(); count = 4000\n"
        "for number in range(count): print(f'{number:099}')\n"
        "cli.check_output()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as opened:
        lines = [int(opened.readline())]
        time.sleep(0.2)  # The pipe is full during this time.
        lines += map(int, opened.readlines())
    assert lines == list(range(4000))
    assert process.wait(PATIENCE) == 0


def test_what_can_be_written_is_written_as_before():
    program = (
        "import sys; from fsvfm_jax.host import streams; before = sys.stderr.encoding;"
        "streams.drop_what_cannot_be_written(); assert sys.stderr.encoding == before;"
        "print('out \\udc80'); print('err ä', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out \\udc80\n", "err ä\n".encode())


def test_streams_of_others_are_left_alone(capsys):
    before = sys.stdout, sys.stderr
    streams.drop_what_cannot_be_written()
    assert (sys.stdout, sys.stderr) == before
    assert streams.lost_output() is None
    cli.check_output()


def test_lost_output_is_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr(streams, "lost_output", lambda: OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match=r"No space left on device.*: free space"):
        cli.check_output()


def test_last_words_wait_for_nobody():
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:  # until the pipe is full
        try:
            os.write(write, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    program = (
        "import os; from fsvfm_jax.host.streams import write_last_words;"
        "write_last_words('x' * 9000); assert os.get_blocking(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=write, timeout=PATIENCE)
    assert done.returncode == 0
    os.close(read)
    os.close(write)


def test_last_words_on_a_terminal_begin_on_a_new_line():
    read, write = os.openpty()
    program = (
        "import os; from fsvfm_jax.host.streams import write_last_words;"
        r"os.write(2, b'score: 3 %'); write_last_words('stopped\n')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=write, timeout=PATIENCE)
    assert os.read(read, 100).splitlines() == [b"score: 3 %", b"stopped"]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_message_is_out_before_the_process_ends_at_once(unbuffered):
    program = (
        "import os, sys; from fsvfm_jax.host import streams;"
        "streams.drop_what_cannot_be_written(); print('last', file=sys.stderr); os._exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (3, "last\n")
