"""Shows the progress of long work on stderr.

The module imports little, because data workers import it.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10


def progress(iterable: Iterable[T], *, total: int, description: str) -> Iterator[T]:
    """Yields the items and shows on stderr how many of them are done, as `meter` does.

    Args:
        iterable: The items.
        total: Number of items.
        description: Name of the work, such as "mean and std".
    """
    with meter(total=total, description=description) as step:
        for item in iterable:
            yield item
            step()


@contextlib.contextmanager
def meter(*, total: int | None, description: str) -> Iterator[Callable[[], None]]:
    """Yields a function to call after every item; shows on stderr how many items are done.

    On a terminal the progress is a bar. Elsewhere it is one line every 10 seconds, written after
    an item, and one line at the end.

    Args:
        total: Number of items; None if it is not known, and then no remaining time is shown.
            It is not shown after a single item either, whose time is partly that of the start.
        description: Name of the work, such as "mean and std".
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=description, dynamic_ncols=True) as bar:

            def step_bar() -> None:
                bar.update()

            yield step_bar
        return

    def say(seconds: float, *endings: str) -> None:
        share = f"{done}" if total is None else f"{done}/{total} ({100 * done // max(total, 1)} %)"
        rate = f"{rate_text(done / max(seconds, 1e-9))}/s"
        text = ", ".join([share, rate, *endings])
        print(f"{description}: {text}", file=sys.stderr, flush=True)

    started = said = first = time.monotonic()
    done = 0

    def step() -> None:
        nonlocal done, said, first
        done += 1
        now = time.monotonic()
        first = now if done == 1 else first
        if now - said >= _SECONDS_BETWEEN_LINES and done != total:
            said = now
            if total is None or done == 1:
                say(now - started)
                return
            # The first item took the time of the start, too.
            seconds_left = (total - done) * (now - first) / (done - 1)
            say(now - started, f"{clock_text(seconds_left)} left")

    yield step
    seconds = time.monotonic() - started
    say(seconds, f"took {clock_text(seconds)}")


def rate_text(rate: float) -> str:
    """Returns a rate with two digits below 10 and as a whole number from 10 on."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def clock_text(seconds: float) -> str:
    """Returns a duration as hours, minutes and seconds, such as 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def print_above(line: str) -> None:
    """Prints a line on stdout, above a bar of `progress` if one is shown on the same terminal."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
