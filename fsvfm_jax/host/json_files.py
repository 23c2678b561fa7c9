"""Reads JSON that may come from a stranger, or from a run that was killed, by a schema.

A schema is a type: a `TypedDict`, `NamedTuple` or dataclass, `dict[str, float]`, or `Annotated[int,
msgspec.Meta(ge=0)]` for a number with a range.
"""

import json
import os
from collections import Counter
from typing import Any

import msgspec

from fsvfm_jax.host.plain_files import read_plain

MAX_JSON_BYTES = 2**24
MAX_REASON = 500  # characters
MAX_KEY = 80  # characters


def parse_json(text: bytes | str, schema: Any) -> Any:
    """Returns the value that a JSON text contains, without the fields that the schema lacks.

    Args:
        text: JSON, in UTF-8 if it is bytes. NaN and Infinity are accepted as numbers.
        schema: Type of the value.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, has an object with the same key
            twice, or does not match the schema. The message states which, in one line.
    """
    try:
        return msgspec.convert(json.loads(text, object_pairs_hook=unique), schema)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.ValidationError as error:
        # The message may quote the text, which may be long.
        raise ValueError(str(error)[:MAX_REASON]) from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object as a dict; serves as the `object_pairs_hook` of `json`.

    Args:
        pairs: Keys and values in the order of the text.

    Raises:
        ValueError: A key occurs twice, so its value is not defined.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {key[:MAX_KEY]!r} occurs twice in one object")
    return found


def read_json(path: str | os.PathLike[str], schema: Any, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Returns the value in a local JSON file.

    Args:
        path: The file.
        schema: Type of the value, as for `parse_json`.
        max_bytes: The largest file that is read.

    Raises:
        OSError: The file cannot be opened (see `host.plain_files.open_plain`).
        ValueError: As `parse_json`.
    """
    return parse_json(read_plain(path, max_bytes=max_bytes), schema)
