"""Escapes text for a terminal or a log, so that control codes in file names have no effect."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Returns the text with control characters and the like escaped, as in `\x1b` or `\n`.

    All characters that Python does not count as printable are escaped: control codes, line breaks,
    marks that change the direction of writing, and bytes of a file name that are not UTF-8.

    Args:
        text: Text from any source.
        keep: Characters that are not escaped, such as "\n".
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
