"""Text for a terminal or a log: control codes in file names must not reach it."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Returns the text with control characters and the like escaped, as in `\x1b` or `\n`.

    Escaped are all characters that Python does not count as printable: control codes, line breaks,
    marks that change the direction of writing, and bytes of a file name that are not UTF-8.

    Args:
        text: From anywhere.
        keep: Characters that stay as they are, such as "\n".
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
