"""Escapes text from other sources, so that Markdown shows it unchanged and it has no effect."""

import re

from fsvfm_jax.host.terminal import printable

MAX_CHARS = 500
# Characters that begin a tag, a link, a picture, code, emphasis, a formula or an entity, or end a
# table's cell; `_` does so outside of words only. The last three patterns match addresses, which
# GitHub turns into links.
_SPECIAL = re.compile(
    r"[\\`*\[\]<&|~$#]"
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|:(?=//)"
    r"|(?<=www)\."
    r"|@",
    re.IGNORECASE,
)


def markdown_text(text: object, *, max_chars: int = MAX_CHARS) -> str:
    r"""Returns the text escaped for a line of Markdown, which then shows it unchanged.

    White space becomes single spaces, special characters of Markdown and HTML get a backslash,
    control characters are escaped as in `\x1b`, and an empty HTML comment follows every `@`.

    Args:
        text: Any object from any source; its `str` is used.
        max_chars: Longest result before escaping. A longer text is cut and ends in an ellipsis.
    """
    line = printable(" ".join(str(text).split()))
    if len(line) > max_chars:
        line = line[: max_chars - 1] + "…"
    return _SPECIAL.sub(_escaped, line)


def _escaped(found: re.Match[str]) -> str:
    # GitHub looks for e-mail addresses after it has removed the backslashes, so a comment splits
    # the address. Before the `@` the comment could begin a line and turn the whole line into HTML.
    return "@<!-- -->" if found[0] == "@" else f"\\{found[0]}"
