"""Text from elsewhere as a part of a Markdown document, where it is shown and does nothing."""

import re

from fsvfm_jax.host.terminal import printable

MAX_CHARS = 500
# What begins a tag, a link, a picture, code, emphasis, a formula or an entity, or ends a table's
# cell; `_` does so outside of words only. The last three are addresses, which become links.
_SPECIAL = re.compile(
    r"[\\`*\[\]<&|~$#]"
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|:(?=//)"
    r"|(?<=www)\."
    r"|@",
    re.IGNORECASE,
)


def markdown_text(text: object, *, max_chars: int = MAX_CHARS) -> str:
    r"""Returns the text for a place inside a line of Markdown, where it is shown as it is.

    White space becomes single spaces, what is special in Markdown or HTML gets a backslash, and
    control characters are escaped as in `\x1b`. After an `@` is an empty comment of HTML.

    Args:
        text: From anywhere; `str` of it is taken.
        max_chars: A longer text is cut, and ends in an ellipsis.
    """
    line = printable(" ".join(str(text).split()))
    if len(line) > max_chars:
        line = line[: max_chars - 1] + "…"
    return _SPECIAL.sub(_escaped, line)


def _escaped(found: re.Match[str]) -> str:
    # GitHub looks for addresses of mail after it has removed backslashes. A comment splits such an
    # address; before the `@` it could begin a line, and would make all of the line HTML.
    return "@<!-- -->" if found[0] == "@" else f"\\{found[0]}"
