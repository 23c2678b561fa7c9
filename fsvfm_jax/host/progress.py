"""How far a long piece of work is, on stderr. It imports little: data workers may import it."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10


def progress(iterable: Iterable[T], *, total: int, description: str) -> Iterator[T]:
    """Yields the items and shows on stderr how far the caller has come with them.

    On a terminal a bar; elsewhere a line every 10 seconds, between two items, and one at the end.

    Args:
        iterable: The items.
        total: How many they are.
        description: What is being done, such as "mean and std".
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
    """Two digits below 10, whole numbers from there on."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def clock_text(seconds: float) -> str:
    """Such as 1:02:03."""
    return str(timedelta(seconds=round(seconds)))
