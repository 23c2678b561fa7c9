"""Tests the comparison of candidates: what is compiled, kept and shown."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from commands import ForkServer
from jax.errors import JaxRuntimeError
from tiny import NETWORK

from configs import vit_s
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.plan import compare as comparing
from fsvfm_jax.plan.candidates import Candidate, make_candidates, read_choices
from fsvfm_jax.plan.chips import CHIPS
from fsvfm_jax.plan.compare import compare, comparison, identity_of
from fsvfm_jax.plan.estimate import Target
from fsvfm_jax.plan.modules import ModuleTotal, TopKernel

TARGET = Target(jax.devices()[:1], CHIPS["h200"])
HEADER = {
    "command": "plan --compare",
    "config": "configs/vit_s.py:smoke",
    "topology": "h200:1",
    "versions": {"jax": "0.12"},
}
PART = {
    "module": "teacher's encoder",
    "stage": "forward",
    "bytes": 7,
    "executions": 3,
    "share": 1.0,
}


def candidates(*arguments: str) -> list[Candidate]:
    config = vit_s.get_config("smoke")
    return make_candidates(config, read_choices(arguments, config), TARGET.devices)


def refused(available: int) -> dict:
    nothing = ("moved_bytes", "kernels", "modules", "top_kernels", "bound")
    return {
        **{"batch_size": 32, "images_per_device": 32, "fits": False, "compile_seconds": 5.0},
        "autotuned": True,
        "memory": {"temporary": None, "total": 300 * 2**30, "available": available},
        **dict.fromkeys(nothing),
    }


class Compiler:
    """Stands in for the compiler: an unrolled program moves less, and `remat` needs less memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled: list[tuple[int, str]] = []
        self.raises: dict[int, BaseException] = {}
        self.traced = 0
        monkeypatch.setattr(comparing, "lower_step", self.lower)
        monkeypatch.setattr(comparing, "describe", self.describe)

    def lower(self, learner, mesh, **steps):
        self.traced += 1
        return SimpleNamespace(as_text=lambda: f"{learner.model} {mesh} {steps}")

    def describe(self, config, target):
        model = config.model
        self.compiled.append((model.unroll, model.remat))
        if error := self.raises.get(model.unroll):
            raise error
        moved = 10**9 // model.unroll
        total = {"none": 200 * 2**30}.get(model.remat, 2**30)
        fits = total < target.available_bytes
        memory = {"temporary": total // 2, "total": total, "available": target.available_bytes}
        if model.remat == "dots":  # A TPU's compiler refuses it, and names the bytes only.
            return refused(target.available_bytes)
        seconds = moved / 4.8e12
        bound = {"step_seconds": seconds, "images_per_second": 1 / seconds, "mfu": 0.25, "hours": 9}
        return {
            **{"batch_size": 32, "images_per_device": 32, "fits": fits, "memory": memory},
            **{"moved_bytes": moved, "kernels": 1234, "compile_seconds": 61.0},
            **{"num_samples": 5, "total_steps": 6, "estimate": {}, "bound": bound},
            "autotuned": False,
            "modules": [ModuleTotal(**PART)],
            "top_kernels": [TopKernel(**PART, kernel="copy", operation="blocks/\x1bmul")],
        }


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


def test_equal_programs_are_compiled_once(compiler):
    found = candidates("model.unroll=4,None,2", "epochs=10,20", "model.remat=full")
    results = compare(found, TARGET, header=HEADER, output=None)
    # None is 4 on these devices, and the number of epochs is not in the program.
    assert compiler.compiled == [(4, "full"), (2, "full")]
    assert [result["identity"] for result in results[:4]] == [results[0]["identity"]] * 4
    table = comparison(found, results, top=None)
    same = "(the same program as model.unroll=4 epochs=10 model.remat=full)"
    assert [line.endswith(same) for line in table.splitlines()].index(True) == 2


def test_the_same_command_compiles_only_what_is_missing(compiler, tmp_path, capsys):
    output = str(tmp_path / "results.jsonl")
    found = candidates("model.unroll=1,2,3", "model.remat=none,full")
    compiler.raises = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare(found, TARGET, header=HEADER, output=output)
    assert compiler.compiled == [(1, "none"), (1, "full"), (2, "none")]
    lines = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert [line["candidate"]["model.remat"] for line in lines] == ["none", "full"]

    compiler.raises, compiler.compiled = {}, []
    results = compare(found, TARGET, header=HEADER, output=output)
    assert compiler.compiled == [(2, "none"), (2, "full"), (3, "none"), (3, "full")]
    assert "results.jsonl has 2 of 6 results already" in capsys.readouterr().out
    again = compare(found, TARGET, header=HEADER, output=output)
    assert len(compiler.compiled) == 4
    assert comparison(found, again, top=3) == comparison(found, results, top=3)


def test_a_line_says_what_it_is_of_and_holds_no_figure_of_other_data(compiler, tmp_path):
    output = tmp_path / "results.jsonl"
    compare(candidates("model.unroll=2"), TARGET, header=HEADER, output=str(output))
    line = json.loads(output.read_text())
    assert HEADER.items() <= line.items()
    assert line["candidate"] == {"model.unroll": 2} and line["error"] is None
    assert line["plan"]["moved_bytes"] == 5 * 10**8 and line["plan"]["top_kernels"]
    assert not {"estimate", "num_samples", "total_steps"} & line["plan"].keys()
    assert set(line["plan"]["bound"]) == {"step_seconds", "images_per_second", "mfu"}


def test_the_best_is_first_and_what_fails_is_last(compiler):
    compiler.raises = {3: JaxRuntimeError("INTERNAL: a\nb\x1b[31m" + "c" * 1000)}
    found = candidates("model.unroll=1,3,2", "model.remat=none,full")
    table = comparison(found, compare(found, TARGET, header=HEADER, output=None), top=1)
    lines = table.splitlines()
    assert [lines[k].partition("model.")[2][:24] for k in range(1, 7)] == [
        "unroll=2 model.remat=ful",
        "unroll=1 model.remat=ful",
        "unroll=2 model.remat=non",
        "unroll=1 model.remat=non",
        "unroll=3 model.remat=non",
        "unroll=3 model.remat=ful",
    ]
    assert lines[1].split()[:8] == ["0.50", "1.00", "0.50", "1,234", "0.10", "9,600", "25.0", "%"]
    assert "DOES NOT FIT: 200.00 of " in lines[3]
    assert "REFUSED: JaxRuntimeError: INTERNAL: a b\\x1b[31mccc" in lines[5] and len(lines[5]) < 500
    assert "not autotuned" in table
    assert "what moves the bytes of model.unroll=2 model.remat=full:" in table
    assert "teacher's encoder, forward" in table and "blocks/\\x1bmul" in table


def test_what_a_compiler_refuses_for_its_memory_has_few_figures(compiler, tmp_path, capsys):
    found = candidates("model.unroll=1", "model.remat=dots,full")
    output = str(tmp_path / "results.jsonl")
    results = compare(found, TARGET, header=HEADER, output=output)
    expected = "model.unroll=1 model.remat=dots: DOES NOT FIT: 300.00 of 105.30 GiB"
    assert capsys.readouterr().out.splitlines()[0] == expected
    table = comparison(found, results, top=None)
    assert table.splitlines()[2].split()[:3] == ["300.00", "5", "model.unroll=1"]
    again = compare(found, TARGET, header=HEADER, output=output)
    assert comparison(found, again, top=None) == table
    # With nothing that fits there are no kernels to show.
    assert "\n\n" not in comparison(found[:1], results[:1], top=5)


def test_a_value_or_a_stored_text_adds_no_row(compiler):
    found = candidates("model.unroll=1,2,3")
    found[0].fields["init.params"] = "a\n0.01  0.01  best\x1b[2J" + "b" * 1000
    compiler.raises = {2: JaxRuntimeError("INTERNAL: no")}
    results = compare(found, TARGET, header=HEADER, output=None)
    results[1]["error"] = "first\nsecond\r" + "c" * 1000
    results[2]["plan"]["top_kernels"][0] |= {"kernel": "copy\n9.9  forged"}
    table = comparison(found, results, top=1)
    rows, _, *others = table.split("\n\n")
    assert len(rows.splitlines()) == 4
    assert "init.params=a\\n0.01  0.01  best\\x1b[2Jb" in table
    assert "REFUSED: first\\nsecond\\rc" in table
    assert [len(part.splitlines()) for part in others] == [1, 3, 2]
    assert max(map(len, table.splitlines())) < 500


def test_programs_without_a_bound_are_not_mixed_with_others(compiler):
    found = candidates("model.unroll=1,2,3,4")
    results = compare(found, TARGET, header=HEADER, output=None)
    results[2]["plan"] |= {"bound": None, "moved_bytes": 1}
    results[3]["plan"] |= {"bound": None, "moved_bytes": None}
    results[3]["plan"]["memory"]["total"] = 0
    lines = comparison(found, results, top=None).splitlines()[1:5]
    assert [line.partition("unroll=")[2][:1] for line in lines] == ["2", "1", "3", "4"]


def test_what_the_values_refuse_together_is_told_before_a_compilation(compiler, capsys):
    found = candidates("model.dtype=float32,bfloat16", "model.unroll=1,2")
    found[0] = Candidate(found[0].fields, None, "they do not suit each other")
    compiler.raises = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare(found, TARGET, header=HEADER, output=None)
    assert compiler.compiled == [(2, "none"), (1, "none")]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "model.dtype=float32 model.unroll=1: REFUSED: they do not suit each other"
    )


def test_an_error_of_the_program_is_no_result(compiler, tmp_path):
    output = tmp_path / "results.jsonl"
    for error in (KeyError, RuntimeError, TypeError, ValueError, MemoryError):
        compiler.raises = {1: error("a mistake")}
        with pytest.raises(error):
            compare(candidates("model.unroll=1"), TARGET, header=HEADER, output=str(output))
    assert output.read_text() == ""


def refused_by_the_compiler(message: str) -> ConfigError:
    error = ConfigError("config.compiler_options: no such option")
    error.__cause__ = JaxRuntimeError(message)
    return error


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        (JaxRuntimeError("INTERNAL: a mistake of the compiler"), True),
        (refused_by_the_compiler("INVALID_ARGUMENT: No such compile option"), True),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), False),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem."), True),
        (JaxRuntimeError("UNAVAILABLE: try again"), False),
        (ConfigError("config.schedule does not suit config.epochs"), False),
    ],
)
def test_only_what_the_compiler_says_of_the_program_is_stored(compiler, tmp_path, error, stored):
    compiler.raises = {1: error}
    output = tmp_path / "results.jsonl"
    found = candidates("model.unroll=1,2")
    results = compare(found, TARGET, header=HEADER, output=str(output))
    assert [result["plan"] is None for result in results] == [True, False]
    assert str(error) in comparison(found, results, top=None)
    assert len(output.read_text().splitlines()) == 1 + stored
    compiler.raises, compiler.compiled = {}, []
    compare(found, TARGET, header=HEADER, output=str(output))
    assert len(compiler.compiled) == 1 - stored


def test_a_result_depends_on_all_that_the_compiler_reads(compiler, monkeypatch):
    def identity(*arguments: str, target: Target = TARGET, **header) -> str:
        return identity_of(candidates(*arguments)[0], target, HEADER | header)

    first = identity("batch_size=32")
    assert first == identity("epochs=20", command="other", config="other")
    others = [
        identity("batch_size=16"),
        identity("model.unroll=2"),
        identity("accum_steps=2"),
        identity("accum_steps=auto"),
        identity("compiler_options.xla_a=1"),
        identity("batch_size=32", topology="h200:8"),
        identity("batch_size=32", versions={"jax": "0.13"}),
        identity("batch_size=32", target=TARGET._replace(chip=None)),
    ]
    for name, value in (("LIBTPU_INIT_ARGS", "--xla_x=1"), ("JAX_OPTIMIZATION_LEVEL", "O1")):
        monkeypatch.setenv(name, value)
        others.append(identity("batch_size=32"))
    for changed in ("devices", "plan"):
        monkeypatch.setattr(comparing, "sha256_of_code", lambda of, x=changed: of.name == x)
        others.append(identity("batch_size=32"))
    place = comparing.place
    monkeypatch.setattr(comparing, "place", lambda config, _: place(config, TARGET.devices))
    other_kind = TARGET._replace(devices=[SimpleNamespace(device_kind="NVIDIA X")])
    others.append(identity("batch_size=32", target=other_kind))
    assert len({first, *others}) == 14


def run(server: ForkServer, *arguments: str) -> subprocess.CompletedProcess:
    fields = [f"--config.model.{name}={value}" for name, value in NETWORK.items()]
    # As in test_estimate.py, whose program is then in the cache.
    config = ["--config=configs/vit_s.py:smoke", "--config.batch_size=16", *fields]
    config += ["--topology=cpu:4", "--config.mesh.fsdp=2"]
    return server.run("fsvfm_jax.plan", *config, *arguments)


@pytest.mark.e2e
def test_the_command_compares_and_continues(fork_server, tmp_path):
    output = tmp_path / "results.jsonl"
    compared = ["--compare", "model.unroll=1", f"--output={output}", "--top=5"]
    first = run(fork_server, *compared)
    assert first.returncode == 0, first.stderr
    assert "tracing: 1/1" in first.stderr and "compiling: 1/1" in first.stderr
    plan = json.loads(output.read_text())["plan"]
    assert sum(row["share"] for row in plan["modules"]) == pytest.approx(1)
    assert sum(row["bytes"] for row in plan["modules"]) == plan["moved_bytes"]
    assert sum(row["executions"] for row in plan["modules"]) == plan["kernels"]
    stages = {(row["module"], row["stage"]) for row in plan["modules"]}
    for part in ("encoder", "pixel decoder", "representation decoder", "projector", "predictor"):
        assert {(f"student's {part}", "forward"), (f"student's {part}", "backward")} <= stages
    assert {("teacher's encoder", "forward"), ("loss", "backward"), ("optimizer", "")} <= stages
    assert all(len(row["operation"]) < 60 for row in plan["top_kernels"])
    assert sum(row["share"] for row in plan["modules"] if row["module"] == "unknown") < 0.01

    again = run(fork_server, *compared)
    assert again.returncode == 0, again.stderr
    assert "compiling" not in again.stderr
    assert f"{output} has 1 of 1 results already" in again.stdout
    table = "moved, GB  needed, GiB"
    assert again.stdout[again.stdout.index(table) :] == first.stdout[first.stdout.index(table) :]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--compare", "unroll=1"], 78, "error: --compare: unroll is no field"),
        (["--compare"], 78, "error: argument --compare: expected at least one argument"),
        (["--compare", "seed=1", "--price=2"], 78, "error: --compare needs no --price"),
        (["--compare", "seed=-1"], 78, "error: 1 of 1 candidates are refused"),
        (["--compare", "seed=1", "--output=/nowhere/x"], 73, "error: /nowhere/x cannot be written"),
        (["--compare", "seed=1", "--output=README.md"], 65, "error: --output=README.md is"),
        (["--top=101"], 78, "error: argument --top: 101 is no whole number"),
    ],
)
def test_a_mistake_ends_in_one_sentence(fork_server, arguments, code, message):
    result = run(fork_server, *arguments)
    assert result.returncode == code, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in result.stderr and result.stdout == ""
