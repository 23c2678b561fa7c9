"""Reads encoders of other libraries, for warm starts and comparisons."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.convert import configs, families, google, huggingface, pth, timm
from fsvfm_jax.convert.configs import HUGGING_FACE_EPSILON
from fsvfm_jax.convert.entries import Network, find_network
from fsvfm_jax.convert.families import FAMILIES, family_of, heads_of
from fsvfm_jax.convert.folder import MODEL_FILE
from fsvfm_jax.convert.measures import measures, network
from fsvfm_jax.convert.names import HF_CLIP, OPENAI, TIMM, names_of, rename
from fsvfm_jax.convert.npz import load_npz
from fsvfm_jax.convert.safetensors import load_safetensors, read_header
from fsvfm_jax.convert.sharded import INDEX_FILE, load_sharded, read_headers, sharded_sha256
from fsvfm_jax.convert.source_files import file_sha256, read_source_json
from fsvfm_jax.errors import ConfigError, DataError, quoted

LOG = logging.getLogger(__name__)

# The files that a folder of weights may contain; the first existing one of `WEIGHT_FILES` is read.
PICKLED_FILE = "pytorch_model.bin"
SUFFIXES = (".safetensors", ".npz", ".bin", ".json")
WEIGHT_FILES = (MODEL_FILE, INDEX_FILE, PICKLED_FILE)
# Files of open_clip, and the config beside them.
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
BESIDE = {"preprocessor": "preprocessor_config.json", "open_clip": "open_clip_config.json"}


class Encoder(NamedTuple):
    """An encoder of another library.

    Attributes:
        params: Its parameters, float32.
        model: Its measures and options, as `ViT` takes them.
        family: Its family, one of `families.FAMILIES`, or None.
        facts: What is known of it, as `weights.LoadedWeights.facts`.
        left_out: Keys of parts that are not of the encoder, such as a projection.
    """

    params: dict[str, Any]
    model: dict[str, Any]
    family: str | None = None
    facts: Mapping[str, Any] = MappingProxyType({})
    left_out: tuple[str, ...] = ()


class Weights(NamedTuple):
    """A network as stored in a file or folder.

    Attributes:
        network: The arrays of the network, and their place in the file.
        file: The file that was read.
        sha256: SHA-256 of that file, or of the list of files that an index names.
        format: Name of the file's format.
        config: The config.json beside the file, and the other files of `BESIDE` under their names;
            None if there are none.
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
    config = _configs(file, needed=path.is_dir() and file.name not in OPEN_CLIP_FILES)
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
    prefix: str = "",
    **given: Any,
) -> Encoder:
    """Converts a state dict to our encoder; the keys identify the library.

    Args:
        state_dict: Weights of timm, MAE (a `.pth` has timm's keys), Hugging Face, Google, or of the
            other libraries in `names.ALL`.
        config: The config.json that belongs to them, if there is one, as `Weights.config`.
        prefix: What preceded the keys in the file.
        given: Measures, such as `num_heads`, that neither `config` nor the arrays contain.

    Raises:
        DataError: The network is not a vision transformer with the parts of `ViT`.
        ConfigError: The number of heads is unknown, or differs from that in `config`.
    """
    known = configs.known(config)
    found = _by_library(state_dict, known, has_config=config is not None, prefix=prefix)
    if known.num_heads is not None:
        found.options["num_heads"] = known.num_heads
    for name, value in found.options.items():
        if given.setdefault(name, value) != value:
            source = "config.json" if config else "the file"
            what = "attention heads" if name == "num_heads" else name
            raise ConfigError(f"{source} says {value} {what}, not {given[name]} as given")
    given = _of_family(found, known) | given
    if pool_heads := _pool_heads(found, known, num_heads=given.get("num_heads")):
        given.setdefault("pool_heads", pool_heads)
    if found.family == "SigLIP" and names_of(state_dict) is HF_CLIP:
        given.setdefault("activation", "gelu_tanh")  # as in all of Hugging Face's
    if found.family == "CLIP" and "activation" not in given:
        given["activation"] = _activation_of_clip(state_dict, known)
    facts = {} if found.family is None else {"stats": FAMILIES[found.family].stats}
    facts |= {name: value for name, value in known.facts.items() if value is not None}
    if found.left_out:
        count, shown = len(found.left_out), quoted(found.left_out)
        LOG.info("%d arrays are no part of the encoder: %s", count, shown)
    network(found.params, **given)
    model = measures(found.params, **given)
    side = model["image_size"] // model["patch_size"]
    if model.get("positions") == "table_and_rope" and known.rotated_side not in (None, side):
        raise DataError(
            f"the rotations of the network are those of {known.rotated_side} patches along a side"
            f" (ref_feat_shape), and it has {side}, which is not supported"
        )
    return Encoder(found.params, model, found.family, facts, found.left_out)


def _of_family(found: "_Found", known: configs.Known) -> dict[str, Any]:
    """Returns the heads and the image size that the networks of a family have."""
    if found.family is None:
        return {}
    of_family: dict[str, Any] = {}
    width = found.params["patch_embed"]["kernel"].shape[-1]
    if (heads := heads_of(found.family, width)) is not None:
        of_family["num_heads"] = heads
    if found.options.get("positions") == "rope":
        of_family["image_size"] = known.image_size or FAMILIES[found.family].image_size
    return of_family


def _pool_heads(found: "_Found", known: configs.Known, *, num_heads: int | None) -> int | None:
    """Returns the heads of an encoder's attention pool; None without a pool or if unknown."""
    if "attn_pool" not in found.params:
        return None
    of_family = FAMILIES[found.family].pool_heads if found.family else None
    heads = known.pool_heads or of_family or num_heads
    width = found.params["patch_embed"]["kernel"].shape[-1]
    if heads and width % heads:
        raise DataError(
            f"{width} channels cannot be divided among {heads} heads of the attention pool, the"
            " number in config.json or that of the family"
        )
    return heads


def _activation_of_clip(state_dict: Mapping[str, np.ndarray], known: configs.Known) -> str:
    """Returns the activation that a network of CLIP probably has, and warns if that is a guess."""
    if known.architecture:
        return "gelu"  # timm's names of networks with the other one contain "quickgelu".
    activation = "quick_gelu" if names_of(state_dict) is OPENAI else "gelu"
    LOG.warning(
        "no config beside the weights contains CLIP's activation: %s is used; OpenAI's and"
        " FaRL's networks have quick_gelu, most of open_clip's gelu (--activation,"
        " config.model.activation)",
        activation,
    )
    return activation


class _Found(NamedTuple):
    """An encoder as its library's names give it; `options` are those that no array shows."""

    params: dict[str, Any]
    options: dict[str, Any]
    family: str | None = None
    left_out: tuple[str, ...] = ()


def _by_library(
    state_dict: Mapping[str, np.ndarray], known: configs.Known, *, has_config: bool, prefix: str
) -> _Found:
    of = names_of(state_dict)
    if of is None and huggingface.is_huggingface(state_dict):
        # Hugging Face does not write fields with their default value.
        default = {"layer_norm_epsilon": HUGGING_FACE_EPSILON} if has_config else {}
        return _Found(huggingface.to_encoder(state_dict), default | known.options)
    if google.is_google(state_dict):
        renamed = google.to_timm(state_dict)
        options = {"activation": "gelu_tanh", "num_heads": renamed.num_heads}
        return _Found(timm.to_encoder(renamed.state_dict), options)
    families.check_periods(state_dict)
    renamed = rename(state_dict, of or TIMM)
    family = family_of(renamed, of or TIMM, architecture=known.architecture, prefix=prefix)
    options = families.options_of(renamed, family) | known.options
    arrays = families.arrays_of(renamed, options)
    params = timm.to_encoder(arrays, called=renamed.called, **options)
    return _Found(params, options, family, renamed.left_out)


def _configs(file: Path, *, needed: bool) -> dict[str, Any] | None:
    """Reads the configs beside a file of weights.

    Args:
        file: The file.
        needed: Whether there must be a config.json.
    """
    beside, config = file.with_name("config.json"), {}
    if needed or beside.exists():
        config = read_source_json(beside, dict[str, Any], what="that of timm or Hugging Face")
    others = {
        name: read_source_json(file.with_name(name_of_file), dict[str, Any], what="a JSON object")
        for name, name_of_file in BESIDE.items()
        if file.with_name(name_of_file).exists()
    }
    return config | others if beside.exists() or others else None


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
    is_known = names_of(keys) or "cls_token" in keys or huggingface.is_huggingface(keys)
    if not (is_known or google.is_google(keys)):
        raise DataError(
            f"{path} holds no vision transformer that is known here: its keys are"
            f" {quoted(list(keys))}"
        )
    arrays = load(path)
    return found._replace(state_dict={key: arrays[name.item()] for key, name in keys.items()})


def _weights_file(folder: Path) -> Path:
    """Returns the file of a folder that contains the weights, or names the files that do.

    Raises:
        DataError: The folder has no weights, or only a file that this module does not read.
    """
    for name in (*WEIGHT_FILES, *OPEN_CLIP_FILES):
        if (folder / name).exists():
            return folder / name
    if (folder / f"{PICKLED_FILE}.index.json").exists():
        raise DataError(
            f"{folder} has its weights in several files of PyTorch ({PICKLED_FILE}.index.json),"
            " which are not read: save them again as safetensors"
        )
    raise DataError(
        f"{folder} has no weights: it is no workdir with checkpoints, and has no"
        f" {' or '.join(WEIGHT_FILES)}"
    )
