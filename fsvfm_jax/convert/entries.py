"""Finds the network in the content of a file: its entry, and the prefix of its keys.

Training programs save a network in a dictionary, such as {"model": ..., "model_ema": ...}, and
modules around a network put their name before its keys, such as "module." of data parallelism. For
the files of all libraries, this module joins both to one dotted name, such as "model_ema.module".
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.errors import ConfigError, DataError, quoted

LOG = logging.getLogger(__name__)

# Names of entries and prefixes. If a file has several networks, the first in this order is read.
WORDS = (
    *("model", "state_dict", "model_state_dict", "net", "network", "student", "teacher"),
    *("module", "backbone", "encoder", "vit", "params", "img", "opt", "target"),
    *("visual", "trunk", "vision_model", "base_encoder", "dinov2", "dinov2_with_registers"),
)
AVERAGES = ("model_ema", "state_dict_ema", "ema", "ema_model", "ema_state_dict")
BRANCHES = ("student", "teacher")
# Modules that put their name anywhere in a key: torch.compile, FSDP and activation checkpointing.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Every network with a class token has one of these keys, which shows its prefix.
ANCHORS = (
    *("vit.embeddings.cls_token", "embeddings.cls_token", "cls_token", "embedding.kernel"),
    *("embeddings.class_embedding", "class_embedding"),
)
# A network without a class token has one of these.
ANCHORS_WITHOUT_CLASS = ("patch_embed.proj.weight", "embeddings.patch_embedding.weight")
# An anti-spoofing network has these two keys: its encoder has a prefix of its own, which
# `reference.py` handles. Without the second key it is an encoder under known words.
FAS_ANCHOR = "backbone.vit.cls_token"
FAS_HEAD = "embedder.bottleneck_layer_fc.weight"
MAX_LEVELS = 4
MAX_CANDIDATES = 50
MAX_KEY = 250


class Network(NamedTuple):
    """A network's arrays, and their place in the file.

    Attributes:
        state_dict: Arrays by their keys without the prefix.
        entry: The dictionaries that contained the network, as a dotted name; "" for the file
            itself.
        prefix: The prefix of its keys.
        wrappers: Names in `WRAPPERS` that were in its keys.
        others: Dotted names of the file's other networks.
        left_out: Keys that do not belong to the network.
    """

    state_dict: dict[str, np.ndarray]
    entry: str
    prefix: str
    wrappers: tuple[str, ...]
    others: tuple[str, ...]
    left_out: tuple[str, ...]

    def about(self) -> dict[str, Any]:
        """Returns all attributes except the arrays."""
        found = self._asdict()
        del found["state_dict"]
        return found


class _Candidate(NamedTuple):
    """A network that a file may contain: in a dictionary of arrays, under a prefix of the keys."""

    path: tuple[str, ...]
    prefix: str
    arrays: Mapping[str, Any]
    anchored: bool

    def words(self) -> list[str]:
        """Returns all parts of its dotted name."""
        return ".".join((*self.path, self.prefix.rstrip("."))).strip(".").split(".")

    def name(self) -> str:
        return ".".join(self.words())


def find_network(
    content: Any, *, path: Path, entry: str | None = None, branch: str = "student"
) -> Network:
    """Finds the network in a file's content, and logs its place.

    Args:
        content: Arrays by name, or nested dictionaries that contain such dictionaries.
        path: Path of the file, for messages.
        entry: Dotted name, or its beginning, of the network to read; None or "" selects the raw
            weights, not their moving average.
        branch: "student" or "teacher": the network to read if a file contains both.

    Returns:
        The network.

    Raises:
        DataError: There is no network, or none under a known name.
        ConfigError: There is no network under that entry.
    """
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds no network but a {type(content).__name__}")
    candidates = list(_candidates(content))
    if not candidates:
        raise DataError(f"{path} holds no network: {_why_none(content)}")
    if len(candidates) > MAX_CANDIDATES:
        raise DataError(f"{path} holds {len(candidates)} networks, more than any file does")
    chosen = _choose(candidates, path=path, entry=entry, branch=branch)
    state_dict, wrappers = _without_wrappers(chosen.arrays)
    if len(state_dict) != len(chosen.arrays):
        raise DataError(f"{path} has keys that differ only in {quoted(wrappers)}")
    prefixes = [x.prefix for x in candidates if x.arrays is chosen.arrays]
    under = {
        key: max(filter(key.startswith, prefixes), key=len, default=None) for key in state_dict
    }
    network = Network(
        {
            key.removeprefix(chosen.prefix): array
            for key, array in state_dict.items()
            if under[key] == chosen.prefix
        },
        entry=".".join(chosen.path),
        prefix=chosen.prefix,
        wrappers=wrappers,
        others=tuple(x.name() or "the file itself" for x in candidates if x is not chosen),
        left_out=tuple(key for key, prefix in under.items() if prefix is None),
    )
    _log(network, path)
    return network


def networks_in(keys: Iterable[str]) -> list[str]:
    """Returns the prefixes of the networks that these keys of arrays belong to; "" is no prefix."""
    return [candidate.prefix for candidate in _prefixes((), dict.fromkeys(keys))]


def _candidates(content: Mapping[Any, Any]) -> Iterator[_Candidate]:
    """Yields all networks in a file's content; dictionaries of an optimizer are skipped."""
    seen = set()
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    for _ in range(MAX_LEVELS):
        below = []
        for path, entries in level:
            if id(entries) in seen:
                continue
            seen.add(id(entries))
            if _is_state_dict(entries, path):
                yield from _prefixes(path, entries)
                continue
            below += [
                ((*path, name), value)
                for name, value in entries.items()
                if isinstance(value, dict) and _is_name(name) and not name.startswith("optim")
            ]
        level = below


def _is_state_dict(entries: Mapping[Any, Any], path: tuple[str, ...]) -> bool:
    arrays = all(_is_name(key) and isinstance(x, np.ndarray) for key, x in entries.items())
    return arrays and (bool(entries) or path[-1:] == ("model",))


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= MAX_KEY


def _prefixes(path: tuple[str, ...], arrays: Mapping[str, Any]) -> Iterator[_Candidate]:
    """Yields the networks in a dictionary of arrays: one, or one for each prefix."""
    keys = ["".join(f"{word}." for word in _words(key))[:-1] for key in arrays]
    heads = {_before(key, (FAS_HEAD,)) for key in keys}
    anchors = []
    for key in keys:
        prefix = _before(key, (FAS_ANCHOR,))
        if prefix is None or prefix not in heads:
            prefix = _before(key, ANCHORS)
        if prefix is not None:
            anchors.append(prefix)
    if not anchors:
        found = (_before(key, ANCHORS_WITHOUT_CLASS) for key in keys)
        anchors = [prefix for prefix in found if prefix is not None]
    for prefix in dict.fromkeys(anchors):
        yield _Candidate(path, prefix, arrays, anchored=True)
    if not anchors and _known(".".join(path).split(".")):
        yield _Candidate(path, _common_prefix(keys), arrays, anchored=False)


def _known(words: list[str]) -> bool:
    return {*WORDS, *AVERAGES, ""}.issuperset(words)


def _words(key: str) -> list[str]:
    return [word for word in key.split(".") if word not in WRAPPERS]


def _before(key: str, anchors: Iterable[str]) -> str | None:
    """Returns the prefix of a key that ends with the first fitting anchor; None if none fits."""
    for anchor in anchors:
        if key == anchor or key.endswith(f".{anchor}"):
            return key.removesuffix(anchor)
    return None


def _common_prefix(keys: list[str]) -> str:
    """Returns the known words that all keys begin with."""
    prefix = ""
    while keys and (word := keys[0].removeprefix(prefix).split(".")[0]) in WORDS:
        if not all(key.startswith(f"{prefix}{word}.") for key in keys):
            break
        prefix += f"{word}."
    return prefix


def _without_wrappers(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the arrays by their keys without the wrappers' names, and those names."""
    renamed = {".".join(_words(key)): array for key, array in arrays.items()}
    found = {word for key in arrays for word in key.split(".") if word in WRAPPERS}
    return renamed, tuple(sorted(found))


def _choose(
    candidates: list[_Candidate], *, path: Path, entry: str | None, branch: str
) -> _Candidate:
    if entry:
        wanted = [word for word in entry.split(".") if word not in WRAPPERS]
        chosen = [x for x in candidates if x.words()[: len(wanted)] == wanted]
        if not chosen:
            names = quoted([x.name() or "the file itself" for x in candidates])
            raise ConfigError(f"{path} has no network under the entry {entry!r}; it has {names}")
    else:
        chosen = [x for x in candidates if _known(x.words())]
        if not chosen:
            names = quoted([x.name() for x in candidates])
            raise DataError(
                f"{path} has its network under {names}, which is no entry or prefix known here:"
                " name it with --entry or config.init.entry"
            )

    def rank(candidate: _Candidate) -> tuple[bool, bool, bool, int]:
        words = candidate.words()
        other_branch = any(word in BRANCHES and word != branch for word in words)
        average = any(word in AVERAGES for word in words)
        first = next((WORDS.index(word) for word in words if word in WORDS), len(WORDS))
        return not candidate.anchored, other_branch, average, first

    return min(chosen, key=rank)


def _why_none(content: Mapping[Any, Any]) -> str:
    """Describes the first entry that is not an array although a network would have one there."""
    name = next((word for word in WORDS if isinstance(content.get(word), dict)), None)
    entries = content if name is None else content[name]
    keys = f"its keys are {quoted([str(key) for key in content])}"
    for key, value in entries.items():
        if isinstance(key, str) and len(key) > MAX_KEY:
            return f"a key of {len(key)} characters, {key[:40]!r}..., is no parameter's name"
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            return f"{str(key)[:MAX_KEY]!r} of it is a {type(value).__name__}, not an array; {keys}"
    return keys


def _log(network: Network, path: Path) -> None:
    where = ".".join(filter(None, (network.entry, network.prefix.rstrip("."))))
    if network.others:
        LOG.warning(
            "%s holds several networks: %s is read, not %s; --entry or config.init.entry chooses",
            path,
            repr(where) if where else "the one at the top",
            quoted(network.others),
        )
    elif where or network.wrappers:
        names = [*filter(None, (where,)), *network.wrappers]
        LOG.info("%s: its network is under %s", path, quoted(names))
    if network.left_out:
        LOG.warning(
            "%s: %d arrays that are not in its network are skipped: %s",
            path,
            len(network.left_out),
            quoted(network.left_out),
        )
