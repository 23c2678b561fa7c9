"""JSON that may come from a stranger, or from a run that was killed: read by a schema.

A schema is a type: a `TypedDict`, `NamedTuple` or dataclass, `dict[str, float]`, or
`Annotated[int, msgspec.Meta(ge=0)]` for a number with a range.
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
    """Returns the value that a JSON text contains. Fields that the schema lacks are left out.

    Args:
        text: JSON, in UTF-8 if it is bytes. NaN and Infinity are numbers.
        schema: The type of the value.

    Raises:
        ValueError: The text is no JSON, is nested too deeply, has an object with the same key
            twice, or does not have the schema; the message says which, in one line.
    """
    try:
        return msgspec.convert(json.loads(text, object_pairs_hook=unique), schema)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ValueError(str(error)[:MAX_REASON]) from error  # It may quote what is there.


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON, as the `object_pairs_hook` of `json`.

    Raises:
        ValueError: A key occurs twice; which of its values counts is not known.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {key[:MAX_KEY]!r} occurs twice in one object")
    return found


def read_json(path: str | os.PathLike[str], schema: Any, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Returns the value in a local JSON file.

    Raises:
        OSError: The file cannot be opened (`host.plain_files.open_plain`).
        ValueError: As `parse_json`.
    """
    return parse_json(read_plain(path, max_bytes=max_bytes), schema)
