"""Shows the progress of long work on stderr.

The module imports little, because data workers import it.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10


def progress(iterable: Iterable[T], *, total: int, description: str) -> Iterator[T]:
    """Yields the items and shows on stderr how many of them are done.

    On a terminal the progress is a bar. Elsewhere it is one line every 10 seconds, written between
    two items, and one line at the end.

    Args:
        iterable: The items.
        total: Number of items.
        description: Name of the work, such as "mean and std".
    """
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=description, dynamic_ncols=True)
        return

    def say(done: int, seconds: float, ending: str) -> None:
        share = f"{done}/{total} ({100 * done // max(total, 1)} %)"
        rate = rate_text(done / max(seconds, 1e-9))
        print(f"{description}: {share}, {rate}/s, {ending}", file=sys.stderr, flush=True)

    started = said = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES and done < total:
            said = now
            seconds = now - started
            say(done, seconds, f"{clock_text((total - done) * seconds / done)} left")
    seconds = time.monotonic() - started
    say(done, seconds, f"took {clock_text(seconds)}")


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
