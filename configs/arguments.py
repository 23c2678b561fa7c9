"""What follows the colon of `--config=FILE:ARGUMENTS`: words between commas, in any order."""

from collections.abc import Collection

from fsvfm_jax.errors import ConfigError


def split(arg: str, known: Collection[str]) -> list[str]:
    """Returns the words of a config file's argument.

    Args:
        arg: Such as "l,smoke"; "" has no words.
        known: The words that the config file takes, in the order that the message lists them.

    Raises:
        ConfigError: A word is not known; the message lists those that are.
    """
    words = arg.split(",") if arg else []
    for word in words:
        if word not in known:
            raise ConfigError(
                f"this config file takes no argument {word!r}; it takes {', '.join(known)}"
            )
    return words


def pick(words: Collection[str], choices: Collection[str], *, default: str, what: str) -> str:
    """Returns the one word that is among the choices.

    Args:
        words: From `split`.
        choices: Words of which a run has one.
        default: The choice where no word names one.
        what: What the choices are, for the message, such as "size".

    Raises:
        ConfigError: Several words are among the choices.
    """
    named = [word for word in words if word in choices] or [default]
    if len(named) > 1:
        raise ConfigError(f"a run has one {what}, not {' and '.join(named)}")
    return named[0]
