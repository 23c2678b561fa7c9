"""Converts weights from and to other formats: `python -m fsvfm_jax.convert --help`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from etils import epath

from fsvfm_jax import cli, optim
from fsvfm_jax.convert import pth, reference
from fsvfm_jax.convert.card import Description
from fsvfm_jax.convert.families import FAMILIES
from fsvfm_jax.convert.finite import check_finite
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.convert.inspection import describe
from fsvfm_jax.convert.licenses import AUTHORS_LICENSE, LICENSES, exported_license, is_license
from fsvfm_jax.convert.measures import HEADS
from fsvfm_jax.convert.positions import resize_positions
from fsvfm_jax.convert.runs import is_run, read_run, run_config
from fsvfm_jax.convert.training import (
    MOMENTS,
    check_reference,
    from_train_state,
    to_train_state,
)
from fsvfm_jax.convert.weights import (
    OUR_KEY,
    LoadedWeights,
    check_sha256,
    of_pth,
    read_source,
)
from fsvfm_jax.data.stats import REFERENCE_STATS_FILE, STATS_FILE, load_stats, save_stats
from fsvfm_jax.errors import ConfigError, StorageError, nearest
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.models.activations import ACTIVATIONS
from fsvfm_jax.models.adapter import POOLS
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.models.vit import OPTIONS, SIZE_FIELDS, SIZES
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.origin import ORIGIN, save_origin
from fsvfm_jax.train_state import TrainState

COMMAND = "python -m fsvfm_jax.convert"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a user's mistake ends it with one sentence and its exit code."""
    cli.set_up_logging()
    with cli.exit_codes():
        args = _parser().parse_args(argv)
        args.run(args)
        if args.run is inspect:
            cli.check_output()


def to_folder(args: argparse.Namespace) -> None:
    """Writes one folder that timm, Hugging Face, PyTorch and this project load."""
    if args.license is not None and not is_license(args.license):
        raise ConfigError(f"--license={args.license}: {LICENSES}")
    source = _read(args)
    params, model, tuned = source.params, dict(source.model), source.tuned
    if (size := args.image_size) is not None:
        params, tuned = (
            resize_positions(params, size, model),
            tuned and tuned._replace(params=resize_positions(tuned.params, size, model)),
        )
        model["image_size"] = size
    left_out = None
    if reference.kind(params) == "detector":
        if args.pool not in (None, model["pool"]):
            raise ConfigError(
                f"--pool={args.pool}: {args.src} is a detector with the pool {model['pool']!r};"
                " leave --pool out"
            )
    else:
        params = encoder_subset(params)
        pool = args.pool or model.get("pool") or _pool_of_family(source)
        if pool == "attention" and "attn_pool" not in params:
            raise ConfigError(f"--pool=attention: {args.src} has no attention pool")
        if pool != "attention" and "attn_pool" in params:
            left_out = "the attention pool is left out; --pool=attention keeps it"
            del params["attn_pool"], model["pool_heads"]
        names = (*SIZE_FIELDS, *OPTIONS)
        model = {name: model[name] for name in names if name in model} | {"pool": pool}
    facts = dict(source.facts)
    if args.stats is not None:
        facts["stats"] = load_stats(args.stats)
    if args.labels is not None:
        facts["label_names"] = tuple(args.labels.split(","))
    facts["license"] = exported_license(facts.get("license"), given=args.license)
    for name in ("face_detector", "crop_margin"):
        if getattr(args, name) is not None:
            facts[name] = getattr(args, name)
    wanted = {"stats": "--stats FILE", "license": "--license NAME"}
    if reference.kind(params) == "detector":
        wanted["label_names"] = "--labels NAME,NAME in the order of the logits"
    for name, flag in wanted.items():
        if facts.get(name) is None:
            raise ConfigError(f"{args.src} does not contain its {name}: give {flag}")
    description = Description(model=model, **facts)
    write_folder(
        args.dst,
        params,
        description,
        with_encoder=not args.without_encoder,
        tuned=tuned,
        allow_not_finite=args.allow_not_finite,
    )
    if left_out:
        _say(left_out)
    _say(f"{args.dst}: {reference.kind(params)}, {_measures(model)}; see its README.md")


def _pool_of_family(source: LoadedWeights) -> str:
    """Returns the pooling of an encoder's family, or "mean" if it has none."""
    family = FAMILIES.get(source.file.get("family"))
    if family is None or (family.pool == "attention" and "attn_pool" not in source.params):
        return "mean"
    return family.pool


def to_reference(args: argparse.Namespace) -> None:
    """Writes files that the reference loads with strict key checks."""
    if not is_run(args.src) or run_config(args.src).task == "finetune":
        source = _read(args)
        check_reference(args.src, source.model)
        key = "state_dict" if "embedder" in source.params else "model"
        _check_new(args.dst)
        _check_finite(args, source.params)
        extra = {OUR_KEY: {"license": source.facts.get("license")}}
        pth.write(args.dst, reference.to_state_dict(source.params), key=key, extra=extra)
        _say(f"{args.dst}: {reference.kind(source.params)}, {_measures(source.model)}")
        return
    run = read_run(args.src, step=args.step)
    check_reference(args.src, run.config.model)
    state = jax.device_get(run.state)
    _check_finite(args, state.params, state.teacher_params, *_moments(state))
    written = from_train_state(
        state,
        learning_rate=optim.peak_learning_rate(run.config),
        betas=tuple(run.config.optimizer.betas),
        weight_decay=run.config.optimizer.weight_decay,
    )
    _check_new(args.dst)
    args.dst.mkdir(parents=True)
    epoch = max(run.epoch, 0)
    extra = {
        "optimizer": written.optimizer,
        "epoch": epoch,
        OUR_KEY: {"license": run.license},
    }
    for name, state_dict in (("checkpoint", written.student), ("checkpoint-te", written.teacher)):
        file = args.dst / f"{name}-{epoch}.pth"
        pth.write(file, state_dict, extra=extra)
        _say(str(file))
    save_stats(args.dst / REFERENCE_STATS_FILE, run.stats)


def to_training(args: argparse.Namespace) -> None:
    """Writes a workdir that continues a pretraining run of the reference, optimizer included."""
    check_sha256(args.src, args.sha256)
    _check_new(args.dst)
    student, teacher = (pth.read(file, entry=args.entry) for file in (args.src, args.teacher))
    # The form of its state does not depend on the settings.
    tx = optim.make_optimizer(betas=(0.9, 0.95), weight_decay=0.05, grad_clip=1.0)
    state = to_train_state(student, teacher, tx=tx)
    source = of_pth(args.src, student, given=_given(args))
    stats = args.stats or args.src.with_name(REFERENCE_STATS_FILE)
    stats = load_stats(stats)
    _check_finite(args, state.params, state.teacher_params, *_moments(state))
    args.dst.mkdir(parents=True)
    save_stats(args.dst / STATS_FILE, stats)
    save_origin(args.dst, {name: source.facts.get(name) for name in ORIGIN})
    with Checkpoints(epath.Path(args.dst) / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state, step=int(state.step), samples_seen=args.samples_seen)
    fields = " ".join(f"--config.model.{name}={value}" for name, value in source.model.items())
    _say(f"{args.dst}: step {int(state.step)}; train with --workdir={args.dst} and {fields}")


def inspect(args: argparse.Namespace) -> None:
    """Prints what a file or folder contains; nothing in it is executed."""
    check_sha256(args.src, args.sha256)
    print(json.dumps(describe(args.src, read=lambda: _read(args)), indent=1, default=str))


def _read(args: argparse.Namespace) -> LoadedWeights:
    check_sha256(args.src, args.sha256)
    return read_source(
        args.src,
        branch=args.branch,
        step=args.step,
        given=_given(args),
        encoder=args.encoder,
        entry=args.entry,
    )


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the given measures that are in no array's shape: those of a size, or the heads."""
    given: dict[str, Any] = {}
    if args.model is not None:
        if args.model not in SIZES:
            raise ConfigError(f"--model={args.model} is unknown; {nearest(args.model, SIZES)}")
        given |= SIZES[args.model]
    for name in (*HEADS, "activation"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    return given


def _moments(state: TrainState) -> list[dict[str, Any]]:
    """Returns the optimizer's moments as trees of parameters."""
    return [optax.tree.get(state.opt_state, name) for name, _ in MOMENTS]


def _check_finite(args: argparse.Namespace, *trees: dict[str, Any]) -> None:
    """Raises DataError if a tree has values that are not finite, unless they are allowed."""
    if not args.allow_not_finite:
        for tree in trees:
            check_finite(tree, what=str(args.src))


def _say(text: str) -> None:
    """Prints a text that may contain a path, on one line."""
    print(printable(text))


def _measures(model: dict[str, Any]) -> str:
    return ", ".join(f"{name} {model[name]}" for name in ("width", "depth", "num_heads"))


def _check_new(file: Path) -> None:
    if os.path.lexists(file):
        raise StorageError(f"{file} is there already; name another")


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=COMMAND, description="Converts weights from and to other formats.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    to = verbs.add_parser("to", help="convert to a format")
    formats = to.add_subparsers(required=True, metavar="FORMAT")
    folder = _command(
        formats,
        "folder",
        to_folder,
        "a folder that timm, Hugging Face, plain PyTorch and this project load",
    )
    folder.add_argument(
        "--pool",
        choices=POOLS,
        help="pooling of an encoder; default: its family's, or mean",
    )
    folder.add_argument("--labels", metavar="NAME,NAME", help="names of the logits, in their order")
    folder.add_argument("--face-detector", metavar="NAME", help="detector that found the faces")
    folder.add_argument(
        "--crop-margin",
        type=float,
        metavar="PART",
        help="margin on each side of a face's box, as a fraction of the box",
    )
    folder.add_argument(
        "--license",
        metavar="NAME",
        help=f"licence of the weights, such as apache-2.0; {AUTHORS_LICENSE}"
        " for conversions of the authors' weights, which keep this licence",
    )
    folder.add_argument(
        "--image-size", type=int, metavar="N", help="side of the images in pixels, if it changes"
    )
    text = "write only what fine-tuning made: head; adapter, LoRA's factors, norms or last blocks"
    folder.add_argument("--without-encoder", action="store_true", help=text)
    _command(
        formats,
        "reference",
        to_reference,
        ".pth files for the reference: one file for an encoder or detector; for a pretraining"
        " workdir a folder with student, teacher and optimizer",
    )
    training = _command(
        formats, "training", to_training, "a workdir that continues pretraining, from .pth files"
    )
    training.add_argument(
        "--teacher", type=Path, required=True, metavar="FILE", help="the teacher's .pth"
    )
    training.add_argument(
        "--samples-seen", type=int, default=0, metavar="N", help="samples that the run has seen"
    )
    _command(verbs, "inspect", inspect, "what a file or folder contains", has_destination=False)
    return parser


def _command(
    parsers: Any, name: str, run: Any, text: str, *, has_destination: bool = True
) -> argparse.ArgumentParser:
    does = "Converts to" if has_destination else "Prints"
    parser = parsers.add_parser(name, help=text, description=f"{does} {text}.")
    parser.set_defaults(run=run)
    parser.add_argument("src", type=Path, metavar="SRC", help="workdir, folder or file")
    if has_destination:
        parser.add_argument("dst", type=Path, metavar="DST", help="new folder or file")
        parser.add_argument(
            "--allow-not-finite",
            action="store_true",
            help="also convert weights that are infinite or not a number",
        )
    parser.add_argument("--model", metavar="SIZE", help=f"one of {', '.join(SIZES)}")
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="attention heads, if --model is not given"
    )
    parser.add_argument(
        "--activation", choices=tuple(ACTIVATIONS), help="activation, if the weights do not say it"
    )
    parser.add_argument(
        "--decoder-num-heads", type=int, metavar="N", help="heads of the pixel decoder"
    )
    parser.add_argument(
        "--rep-decoder-num-heads", type=int, metavar="N", help="heads of the representation decoder"
    )
    parser.add_argument(
        "--branch",
        choices=("student", "teacher"),
        default="student",
        help="network to read, if a workdir or file contains both",
    )
    parser.add_argument(
        "--entry", metavar="NAME", help="entry of a file with several networks, such as model_ema"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a workdir; default: the newest"
    )
    parser.add_argument(
        "--encoder", type=Path, metavar="DIR", help="encoder's folder, if SRC does not contain it"
    )
    parser.add_argument("--sha256", metavar="HASH", help="refuse a file with another hash")
    parser.add_argument(
        "--stats", type=Path, metavar="JSON", help="file with mean and std of the pixels"
    )
    return parser


if __name__ == "__main__":
    cli.begin()
    main(sys.argv[1:])
