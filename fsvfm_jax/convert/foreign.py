"""Reads encoders of timm, MAE, Hugging Face and Google, for warm starts and comparisons."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import numpy as np

from fsvfm_jax.convert import google, huggingface, pth, timm
from fsvfm_jax.convert.entries import Network, find_network
from fsvfm_jax.convert.folder import MODEL_FILE
from fsvfm_jax.convert.measures import TIMM_HEADS, measures, network
from fsvfm_jax.convert.npz import load_npz
from fsvfm_jax.convert.safetensors import load_safetensors, read_header
from fsvfm_jax.convert.sharded import INDEX_FILE, load_sharded, read_headers, sharded_sha256
from fsvfm_jax.convert.source_files import file_sha256, read_json
from fsvfm_jax.errors import ConfigError, DataError, quoted
from fsvfm_jax.models.layers import LAYER_NORM_EPSILON

LOG = logging.getLogger(__name__)

# The files that a folder of weights may contain; the first existing one of `WEIGHT_FILES` is read.
PICKLED_FILE = "pytorch_model.bin"
SUFFIXES = (".safetensors", ".npz", ".bin", ".json")
WEIGHT_FILES = (MODEL_FILE, INDEX_FILE, PICKLED_FILE)
# The names of the exact GELU in both libraries.
GELU = (None, "gelu")
HUGGING_FACE_EPSILON = 1e-12


Heads = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class _ModelArgs(TypedDict, total=False):
    num_heads: Heads | None
    act_layer: str | None


class _Config(TypedDict, total=False):
    """The fields that are read from a config.json of timm or Hugging Face."""

    hidden_act: str | None
    num_attention_heads: Heads | None
    layer_norm_eps: float
    architecture: str | None
    model_args: _ModelArgs | None


class Encoder(NamedTuple):
    """Parameters of an encoder, float32, and its measures, as `ViT` takes them."""

    params: dict[str, Any]
    model: dict[str, Any]


class Weights(NamedTuple):
    """A network as stored in a file or folder.

    Attributes:
        network: The arrays of the network, and their place in the file.
        file: The file that was read.
        sha256: SHA-256 of that file, or of the list of files that an index names.
        format: Name of the file's format.
        config: The config.json beside the file, if there is one.
    """

    network: Network
    file: Path
    sha256: str
    format: str
    config: dict[str, Any] | None


def read_weights(path: Path, *, entry: str | None = None, branch: str = "student") -> Weights:
    """Reads the arrays of another library's file, or of its folder with config.json.

    Args:
        path: A folder; or a safetensors file, an index of safetensors files, an `.npz` file of
            Google or a file of PyTorch. A config.json beside a file belongs to that file.
        entry: As for `entries.find_network`.
        branch: As for `entries.find_network`.

    Raises:
        DataError: A file is missing or damaged, or contains no network.
        ConfigError: There is no network under that entry.
    """
    file = _weights_file(path) if path.is_dir() else path
    beside = file.with_name("config.json")
    config = None
    if path.is_dir() or beside.exists():
        config = read_json(beside, dict[str, Any], what="that of timm or Hugging Face")
    if file.suffix == ".json":
        header, load = read_headers(file), load_sharded
        found = _network_in(header, load, path=file, entry=entry, branch=branch)
        return Weights(found, file, sharded_sha256(file), "safetensors in shards", config)
    if file.suffix == ".safetensors":
        header, load = read_header(file), load_safetensors
        found = _network_in(header, load, path=file, entry=entry, branch=branch)
        return Weights(found, file, file_sha256(file), "safetensors", config)
    if file.suffix == ".npz":
        arrays = {name.replace("/", "."): x for name, x in load_npz(file).items()}
        found = find_network(arrays, path=file, entry=entry, branch=branch)
        return Weights(found, file, file_sha256(file), "npz", config)
    content = pth.read(file, entry=entry, branch=branch)
    return Weights(content.network, file, content.sha256, pth.FORMAT, config)


def to_encoder(
    state_dict: Mapping[str, np.ndarray],
    *,
    config: Mapping[str, Any] | None = None,
    **told: Any,
) -> Encoder:
    """Converts a state dict to our encoder; the keys identify the library.

    Args:
        state_dict: Weights of timm, MAE (a `.pth` has timm's keys), Hugging Face or Google.
        config: The config.json that belongs to them, if there is one.
        told: Measures, such as `num_heads`, that neither `config` nor the arrays contain.

    Raises:
        DataError: The network is not a plain vision transformer with class token and final norm.
        ConfigError: The number of heads is unknown, or differs from that in `config`.
    """
    # Hugging Face does not write fields with their default value.
    default_epsilon = LAYER_NORM_EPSILON if config is None else HUGGING_FACE_EPSILON
    fields = _checked(config or {})
    activation, known_heads = None, None
    if huggingface.is_huggingface(state_dict):
        params = huggingface.to_encoder(state_dict)
        activation, known_heads = fields.get("hidden_act"), fields.get("num_attention_heads")
        epsilon = fields.get("layer_norm_eps", default_epsilon)
        if epsilon != LAYER_NORM_EPSILON:
            LOG.warning(
                "config.json has layer_norm_eps %g; our encoder uses %g, which changes outputs"
                " slightly if tokens vary little",
                epsilon,
                LAYER_NORM_EPSILON,
            )
    elif google.is_google(state_dict):
        renamed = google.to_timm(state_dict)
        params, known_heads = timm.to_encoder(renamed.state_dict), renamed.num_heads
        LOG.warning(
            "Google's networks are trained with the tanh form of GELU; ours uses the exact form,"
            " which changes outputs slightly"
        )
    else:
        params = timm.to_encoder(state_dict)
        name, args = fields.get("architecture") or "", fields.get("model_args") or {}
        activation = "quick_gelu" if "quickgelu" in name else args.get("act_layer")
        size = re.match(r"vit_[a-z]+(?=_patch)", name)
        # config.json may contain only the name of the architecture.
        known_heads = args.get("num_heads") or TIMM_HEADS.get(size[0] if size else "")
    if activation not in GELU:
        raise DataError(f"the network's activation is {activation!r}, ours the exact GELU")
    if known_heads is not None and told.setdefault("num_heads", known_heads) != known_heads:
        raise ConfigError(
            f"{'config.json' if config else 'the file'} says {known_heads} attention heads, not"
            f" {told['num_heads']} as given"
        )
    network(params, **told)
    return Encoder(params, measures(params, **told))


def _network_in(
    header: Mapping[str, Any],
    load: Callable[[Path], dict[str, np.ndarray]],
    *,
    path: Path,
    entry: str | None,
    branch: str,
) -> Network:
    """Finds a network by the names in a header, and loads its arrays if it may be an encoder."""
    names = {name: np.array(name, object) for name in header if name != "__metadata__"}
    found = find_network(names, path=path, entry=entry, branch=branch)
    keys = found.state_dict
    if not ("cls_token" in keys or huggingface.is_huggingface(keys) or google.is_google(keys)):
        raise DataError(
            f"{path} holds no vision transformer with a class token: its keys are"
            f" {quoted(list(keys))}"
        )
    arrays = load(path)
    return found._replace(state_dict={key: arrays[name.item()] for key, name in keys.items()})


def _weights_file(folder: Path) -> Path:
    """Returns the file of a folder that contains the weights, or names the files that do.

    Raises:
        DataError: The folder has only a file that this module does not read.
    """
    for name in WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    if (folder / f"{PICKLED_FILE}.index.json").exists():
        raise DataError(
            f"{folder} has its weights in several files of PyTorch ({PICKLED_FILE}.index.json),"
            " which are not read: save them again as safetensors"
        )
    return folder / MODEL_FILE


def _checked(config: Mapping[str, Any]) -> _Config:
    try:
        return msgspec.convert(dict(config), _Config)
    except ValueError as error:  # of the wrong shape, or with half of a surrogate pair
        raise DataError(f"config.json beside the weights is odd: {error}") from error
