"""Gives every reader files that are damaged or are not of the reader's kind.

    python tests/fuzz_readers.py SEED CASES FOLDER [READER ...]

The program prints one line per reader, with the number of cases by outcome. It prints the case and
exits with 1 at the first outcome that is not allowed. A case that uses more than CPU_SECONDS or
MEMORY_BYTES ends the process. The file LAST in the folder contains the number of the last case.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_sources
from etils import epath

from fsvfm_jax.convert import runs, weights
from fsvfm_jax.data import images, stats
from fsvfm_jax.data.labelled import file_formats, protocols
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.sources import FaceFolder
from fsvfm_jax.errors import UserError
from fsvfm_jax.host import storage
from fsvfm_jax.prepare import video
from fsvfm_jax.prepare.manifest import read_lines
from fsvfm_jax.report import given_scores, summary, versus
from fsvfm_jax.report.paired import Pair, check_same, verdicts
from fsvfm_jax.report.published_curves import CURVES
from fsvfm_jax.run import integrity, lines, lock, rewind
from fsvfm_jax.run.fingerprint import StoredFingerprint
from fsvfm_jax.visualize.run_against import compare
from fsvfm_jax.visualize.run_facts import describe
from fsvfm_jax.visualize.run_folder import read_folder
from fsvfm_jax.visualize.run_page import make_page
from fsvfm_jax.visualize.run_pictures import read_pictures

CPU_SECONDS = 20
MEMORY_BYTES = 2**30
SPARSE_BYTES = 50 * 10**9
LAST = "last.txt"


class Reader(NamedTuple):
    """A reader of other people's files.

    Attributes:
        write: Writes files that the reader accepts into an empty folder.
        read: Reads these files.
        files: Names of the files that are replaced.
        damage_is: Errors for a damaged file besides `UserError`.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    damage_is: tuple[type[Exception], ...] = ()


def _read_all(faces: FaceRecords) -> None:
    for index in range(len(faces)):
        faces.read([index])


def _read_set(layout: str, **options: Any) -> Callable[[Path], object]:
    return lambda folder: protocols.read_set(layout, str(folder), split="test", **options)


def _make_page(folder: Path) -> None:
    run = describe(read_folder(epath.Path(folder)), "run")
    pictures = read_pictures(run.folder, runs=1, notes=run.notes)
    verdict = compare(run, CURVES["vggface2_b"])
    make_page([run], [pictures], plotly="", curve=CURVES["vggface2_b"], verdicts=[verdict])


def _compare(folder: Path) -> None:
    report = versus.open_report(f"A={folder}", "A", select=None)
    for dataset in report.rows:
        pair = Pair(("A", "B"), report.scores(dataset), report.scores(dataset))
        check_same(pair)
        verdicts(pair)


READERS = {
    "image": Reader(
        fuzz_sources.write_images,
        lambda folder: [
            images.decode_image(images.read_file(str(folder / name)), orient=True)
            for name in fuzz_sources.IMAGES
        ],
        fuzz_sources.IMAGES,
        (ValueError,),
    ),
    "format of an image": Reader(
        fuzz_sources.write_images,
        lambda folder: [
            file_formats.read_format(str(folder / name)) for name in fuzz_sources.IMAGES
        ],
        fuzz_sources.IMAGES,
    ),
    "parsing map": Reader(
        fuzz_sources.write_maps,
        lambda folder: [
            images.decode_map(images.read_file(str(folder / name))) for name in fuzz_sources.MAPS
        ],
        fuzz_sources.MAPS,
        (ValueError,),
    ),
    "video": Reader(
        fuzz_sources.write_videos,
        lambda folder: [
            list(
                video.read_frames(str(folder / name), range(video.count_frames(str(folder / name))))
            )
            for name in fuzz_sources.VIDEOS
        ],
        fuzz_sources.VIDEOS,
        (ValueError,),
    ),
    "folder of faces": Reader(
        fuzz_sources.write_tree,
        lambda folder: FaceFolder(str(folder), image_size=32)[0],
        ("images/a/000.png", "parsing_maps/a/000.npy"),
    ),
    "packed set": Reader(
        fuzz_sources.write_packed,
        lambda folder: _read_all(FaceRecords(str(folder), image_size=32)),
        ("manifest.json", "features.json", "dataset_info.json", fuzz_sources.SHARD),
    ),
    "manifest of prepare": Reader(
        fuzz_sources.write_prepared,
        lambda folder: list(read_lines(folder)),
        ("manifest.jsonl",),
    ),
    "list": Reader(fuzz_sources.write_list, _read_set("list"), ("test.txt",)),
    "DeepfakeBench": Reader(
        fuzz_sources.write_bench, _read_set("deepfakebench", list_file="set.json"), ("set.json",)
    ),
    "FaceForensics++": Reader(fuzz_sources.write_ffpp, _read_set("ffpp"), ("test.json",)),
    "Celeb-DF": Reader(
        fuzz_sources.write_celebdf, _read_set("celebdf"), ("List_of_testing_videos.txt",)
    ),
    "DFDC": Reader(fuzz_sources.write_dfdc, _read_set("dfdc"), ("metadata.json",)),
    "statistics": Reader(
        fuzz_sources.write_stats, lambda folder: stats.load_stats(folder / "stats"), ("stats",)
    ),
    "reference checkpoint": Reader(
        fuzz_sources.write_pth,
        lambda folder: _read_source(folder / "w.pth"),
        ("w.pth",),
    ),
    "exported folder": Reader(
        fuzz_sources.write_exported,
        lambda folder: _read_source(folder / "exported"),
        tuple(
            f"exported/{name}" for name in ("config.json", "preprocess.json", "model.safetensors")
        ),
    ),
    "small file of LoRA": Reader(
        fuzz_sources.write_small,
        lambda folder: weights.read_source(
            folder / "small", branch="student", given={}, encoder=folder / "encoder"
        ),
        ("small/config.json", "small/tuned.safetensors"),
    ),
    "weights in shards": Reader(
        fuzz_sources.write_sharded,
        lambda folder: _read_source(folder / "model.safetensors.index.json"),
        ("model.safetensors.index.json", "a.safetensors"),
    ),
    "Google's weights": Reader(
        fuzz_sources.write_npz, lambda folder: _read_source(folder / "w.npz"), ("w.npz",)
    ),
    "run as a source": Reader(
        fuzz_sources.write_run, lambda folder: runs.run_config(folder), ("config.json",)
    ),
    "checkpoint": Reader(
        fuzz_sources.write_checkpoint,
        lambda folder: (
            integrity.damage(epath.Path(folder) / "checkpoints" / "5"),
            integrity.score(epath.Path(folder) / "checkpoints" / "5"),
            integrity.unfinished_step(epath.Path(folder) / "checkpoints"),
        ),
        ("checkpoints/5/manifest.json", "checkpoints/5/array", "saving.txt"),
    ),
    "fingerprint and rewinds": Reader(
        fuzz_sources.write_state,
        lambda folder: (
            storage.read_stored_json(
                epath.Path(folder) / "fingerprint.json", StoredFingerprint, mend="x"
            ),
            storage.read_stored_json(
                epath.Path(folder) / "rewinds.json", list[rewind.Rewind], mend="x"
            ),
        ),
        ("fingerprint.json", "rewinds.json"),
    ),
    "metrics": Reader(
        fuzz_sources.write_metrics,
        lambda folder: lines.drop_later_lines(epath.Path(folder) / "metrics.jsonl", 3),
        ("metrics.jsonl",),
    ),
    "lock": Reader(
        fuzz_sources.write_lock,
        lambda folder: lock._File(str(folder / "run.lock")).read(),
        ("run.lock",),
        (OSError,),
    ),
    "page of a run": Reader(
        fuzz_sources.write_whole_run,
        _make_page,
        fuzz_sources.WHOLE_RUN,
    ),
    "scores of a detector": Reader(
        fuzz_sources.write_scores,
        lambda folder: given_scores.read_given(str(folder / "scores.csv")),
        ("scores.csv",),
    ),
    "Parquet of scores": Reader(
        fuzz_sources.write_scores,
        lambda folder: given_scores.read_given(str(folder / "scores.parquet")),
        ("scores.parquet",),
    ),
    "reports to compare": Reader(
        fuzz_sources.write_compared,
        _compare,
        ("table.json", "scores/x_given.csv"),
    ),
    "table": Reader(
        fuzz_sources.write_table,
        lambda folder: summary.summary([str(folder / "table.json")]),
        ("table.json",),
    ),
}


def _read_source(path: Path) -> object:
    return weights.read_source(path, branch="student", given={"num_heads": 4})


def random_json(rng: random.Random, depth: int = 0) -> Any:
    """Returns a JSON value of any kind."""
    if depth < 3 and rng.random() < 0.4:
        items = [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
        if rng.random() < 0.5:
            return items
        return {rng.choice(("files", "step", "", "a\n\x1b[2J", "0")): item for item in items}
    scalars = (None, True, -1, 0, 1, 2**40, 2**64, 10**400, 0.5, float("nan"), float("inf"), "")
    texts = ("../../x", "/etc/passwd", "²", "nul\0", "\x1b[2J\n", "\ud800", "x" * 10_000, "1e5")
    return rng.choice((*scalars, *texts))


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """Returns the text with one of its values replaced, left out or repeated."""
    root = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(items):
            places.append((value, key))
            if isinstance(inner, dict | list):
                collect(inner)

    if not isinstance(root, dict | list) or not root:
        return json.dumps(random_json(rng)).encode()
    collect(root)
    parent, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.2:
        del parent[key]
    elif choice < 0.3 and isinstance(parent, list):
        parent.extend(parent)
    else:
        parent[key] = random_json(rng)
    return json.dumps(root).encode()


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """Returns the bytes with some replaced, cut off, left out or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        if not data:
            break
        at = rng.randrange(min(len(data), rng.choice((32, 512, len(data)))))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                data[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 3:
                del data[at:]
            case 4:
                del data[at : at + rng.randrange(1, 20)]
            case 5:
                data[at:at] = data[at : at + rng.randrange(1, 200)]
    return bytes(data)


def replace(rng: random.Random, file: Path) -> str:
    """Puts something else in the place of the file, and returns its description."""
    content = file.read_bytes()
    is_json = content[:1] in (b"{", b"[")
    kind = rng.choice(("bytes",) * 8 + ("json",) * (8 if is_json else 1) + ("other",) * 2)
    if kind == "bytes":
        file.write_bytes(changed_bytes(rng, content))
    elif kind == "json":
        changed = (
            changed_json(rng, content.splitlines()[0] if is_json_lines(content) else content)
            if is_json
            else json.dumps(random_json(rng)).encode()
        )
        file.write_bytes(changed)
    else:
        kind = rng.choice(tuple(OTHERS))
        file.unlink()
        OTHERS[kind](file)
    return kind


def is_json_lines(content: bytes) -> bool:
    try:
        json.loads(content)
        return False
    except ValueError:
        return True


def _sparse(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(SPARSE_BYTES)


OTHERS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda file: None,
    "empty": lambda file: file.write_bytes(b""),
    "folder": lambda file: file.mkdir(),
    "pipe": lambda file: os.mkfifo(file),
    "device": lambda file: file.symlink_to("/dev/zero"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "sparse": _sparse,
    "deep": lambda file: file.write_bytes(b"[" * 200_000),
    "deep objects": lambda file: file.write_bytes(b'{"a":' * 200_000),
    "long number": lambda file: file.write_bytes(b"9" * 100_000),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00\xd8"),
    "zip": lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)),
    "random": lambda file: file.write_bytes(random.Random(0).randbytes(1000)),
}


def one_case(reader: Reader, valid: Path, folder: Path, rng: random.Random) -> tuple[str, str]:
    """Returns which change was made to which file, and the outcome."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    name = rng.choice(reader.files)
    what = f"{name} as {replace(rng, folder / name)}"
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        reader.read(folder)
        return what, "read"
    except (UserError, *reader.damage_is) as error:
        if not str(error) or "\n" in str(error).replace("\\n", ""):
            return what, f"no single line: {error!r}"
        return what, "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(seed: int, cases: int, folder: Path, names: list[str]) -> None:
    for name in names or READERS:
        READERS[name].write(folder / "valid" / name)
        READERS[name].read(folder / "valid" / name)  # This also loads the reader's imports.
    status = Path("/proc/self/status").read_text()
    used = 1024 * int(re.search(r"VmData:\s+([0-9]+) kB", status)[1])
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES,) * 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # It ends a decoder too.
    for name in names or READERS:
        outcomes: Counter[str] = Counter()
        began = time.monotonic()
        for case in range(cases):
            (folder / LAST).write_text(f"{name}: case {case} of seed {seed}")
            rng = random.Random(f"{seed} {name} {case}")
            what, outcome = one_case(READERS[name], folder / "valid" / name, folder / "case", rng)
            if outcome not in ("read", "refused"):
                sys.exit(f"{name}: case {case} of seed {seed}: {what}: {outcome}")
            outcomes[outcome] += 1
        print(f"{name}: {cases} cases, {dict(outcomes)}, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
