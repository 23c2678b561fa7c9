"""Reads the whole numbers in names of topologies and in flags."""

import re


def read_count(text: str, *, most: int) -> int | None:
    """Returns a number from 1 to `most`, or None if the text is no such number.

    Args:
        text: ASCII digits; the first digit is not 0.
        most: The greatest number, below 10^18.
    """
    if not re.fullmatch("[1-9][0-9]{0,17}", text):
        return None
    return number if (number := int(text)) <= most else None
