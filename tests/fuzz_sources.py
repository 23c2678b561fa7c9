"""Makes small files of every kind that a reader takes, for `fuzz_readers.py` to damage."""

import json
from pathlib import Path

import face_trees
import jax
import numpy as np
import random_weights
import run_workdirs
from etils import epath
from golden_files import need
from google_names import google_names
from hostile_files import saved
from labelled_trees import write_pictures
from PIL import Image
from scored_sets import BY_HAND, scored, write_given, write_parquet
from video_files import write_video

from configs import vit_s
from fsvfm_jax.config import resolve as config
from fsvfm_jax.convert import pth, reference
from fsvfm_jax.convert.folder import timm_names, write_folder
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.convert.tuned import Tuned
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.shards import shard_name
from fsvfm_jax.report.rows import detection_row, spoof_row
from fsvfm_jax.report.write import write_report
from fsvfm_jax.run import integrity, lock
from fsvfm_jax.tuning import Tuning, merge

IMAGES = (
    *("face.png", "face.jpg", "scans.jpg", "face.webp", "palette.png", "face.bmp", "face.tif"),
    *("packed.tif",),
)
LABELLED = {"a": "REAL", "b": "FAKE"}
MAPS = ("map.png", "map.npy")
VIDEOS = ("v.mp4", "v.mkv", "v.avi")
WHOLE_RUN = ("config.json", "fingerprint.json", "rewinds.json", "origin.json", "run.lock")
WHOLE_RUN += ("metrics.jsonl", "epochs.jsonl", "validation.jsonl", "alarms.jsonl")
WHOLE_RUN += ("images/reconstruction_0000005.png",)
SHARD = shard_name("train", 0, 1)


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    face = Image.fromarray(render_face(0, image_size=48)[0])
    files = {
        "face.png": saved(face, "PNG"),
        "face.jpg": saved(face, "JPEG"),
        "scans.jpg": saved(face, "JPEG", progressive=True),
        "face.webp": saved(face, "WEBP"),
        "palette.png": saved(face.convert("P"), "PNG"),
        "face.bmp": saved(face, "BMP"),
        "face.tif": saved(face, "TIFF"),
        "packed.tif": saved(face, "TIFF", compression="tiff_lzw"),
    }
    for name in IMAGES:
        (folder / name).write_bytes(files[name])


def write_maps(folder: Path) -> None:
    face_trees.write_tree(folder, 1)
    parsing_map = render_face(0, image_size=32)[1]
    (folder / "map.png").write_bytes(saved(Image.fromarray(parsing_map), "PNG"))
    (folder / "parsing_maps/a/000.npy").rename(folder / "map.npy")


def write_videos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in VIDEOS:
        write_video(folder / name, 5)


def write_tree(folder: Path) -> None:
    face_trees.write_tree(folder, 2)


def write_packed(folder: Path) -> None:
    tree = face_trees.write_tree(folder.with_name("tree"), 4)
    pack(str(tree), str(folder))


def write_prepared(folder: Path) -> None:
    folder.mkdir(parents=True)
    line = {"stage": "detect", "source": "a.jpg", "outcome": "face", "image": "a.png"}
    (folder / "manifest.jsonl").write_text((json.dumps(line) + "\n") * 3)


def write_scores(folder: Path) -> None:
    folder.mkdir(parents=True)
    scores = {"real/a.png": 0.1, "fake/b.png": 0.9, "fake/c.png": 0.5}
    write_given(folder / "scores.csv", scores.items())
    paths, values = zip(*scores.items(), strict=True)
    write_parquet(folder / "scores.parquet", path=paths, p_fake=values)


def write_compared(folder: Path) -> None:
    scores = scored("x", BY_HAND)
    row = detection_row(scores, selection="given", step=None, seed=None)
    write_report(folder, [row], [scores._replace(dataset="x given")], caption="x")


def write_list(folder: Path) -> None:
    write_pictures(folder, "real/a_frame_0.png real/a_frame_1.png fake/b.png")
    (folder / "test.txt").write_text("real/a_frame_0.png real\nfake/b.png,fake\n")


def write_bench(folder: Path) -> None:
    write_pictures(folder, "r/a/0.png r/a/1.png f/b/0.png")
    videos = {
        "Real": {"test": {"a": {"label": "Real", "frames": ["r/a/0.png", "r/a/1.png"]}}},
        "Fake": {"test": {"c23": {"b": {"label": "Fake", "frames": ["f\\b\\0.png"]}}}},
    }
    (folder / "set.json").write_text(json.dumps({"set": videos}))


def write_ffpp(folder: Path) -> None:
    real = "original_sequences/youtube/c23/frames"
    fake = "manipulated_sequences/{}/c23/frames"
    methods = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
    write_pictures(folder, [f"{real}/{name}/0.png" for name in ("071", "054")])
    for method in methods:
        names = ("071_054", "054_071")
        write_pictures(folder, [f"{fake.format(method)}/{name}/0.png" for name in names])
    (folder / "test.json").write_text('[["071", "054"]]')


def write_celebdf(folder: Path) -> None:
    write_pictures(folder, "Celeb-real/a/0.png Celeb-synthesis/b/0.png")
    lines = "1 Celeb-real/a.mp4\n0 Celeb-synthesis/b.mp4\n"
    (folder / "List_of_testing_videos.txt").write_text(lines)


def write_dfdc(folder: Path) -> None:
    write_pictures(folder, "a/0.png b/0.png")
    videos = {f"{name}.mp4": {"label": label, "split": "test"} for name, label in LABELLED.items()}
    (folder / "metadata.json").write_text(json.dumps(videos))


def write_stats(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "stats").write_text('{"mean": [0.5, 0.4, 0.4], "std": [0.3, 0.2, 0.2]}')


def write_pth(folder: Path) -> None:
    need("torch")
    folder.mkdir(parents=True)
    params = random_weights.detector_params(random_weights.TINY | {"pool": "mean"})
    extra = {"epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}
    pth.write(folder / "w.pth", reference.to_state_dict(params), extra=extra)


def write_exported(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = random_weights.TINY | {"pool": "mean"}
    params = random_weights.detector_params(model)
    description = random_weights.describe(model, labels=("fake", "real"))
    write_folder(folder / "exported", params, description)


def write_small(folder: Path) -> None:
    """Writes what fine-tuning made of an encoder with LoRA, and the encoder."""
    folder.mkdir(parents=True)
    model, way = random_weights.TINY, Tuning("lora", rank=1, targets=("q", "fc1"))
    params = jax.device_get(random_weights.tuned_params(way))
    description = random_weights.describe(model, labels=("fake", "real"))
    options = {"with_encoder": False, "tuned": Tuned(params, way)}
    write_folder(folder / "small", jax.device_get(merge(params, way)), description, **options)
    encoder = random_weights.encoder_params(model)
    frozen = {name: x for name, x in params.items() if name in encoder}
    write_folder(folder / "encoder", encoder | frozen, random_weights.describe(model))


def write_sharded(folder: Path) -> None:
    """Writes an encoder's arrays to one file, and an index that names the file for each array."""
    folder.mkdir(parents=True)
    arrays = timm_names(random_weights.encoder_params(random_weights.TINY))
    save_safetensors(folder / "a.safetensors", arrays, metadata={})
    index = {"weight_map": dict.fromkeys(arrays, "a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_npz(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "w.npz", **google_names())


def write_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    resolved = config.resolve(vit_s.get_config("smoke"))
    (folder / "config.json").write_text(config.to_json(resolved))


def write_checkpoint(folder: Path) -> None:
    directory = epath.Path(folder) / "checkpoints"
    (directory / "5").mkdir(parents=True)
    (directory / "5" / "array").write_bytes(bytes(1000))
    integrity.finish_step(directory, 5, score=0.5)
    integrity.begin_step(directory, 6)


def write_state(folder: Path) -> None:
    folder.mkdir(parents=True)
    fingerprint = {"fingerprint": {"seed": 0, "mean": [0.5, 0.5, 0.5]}, "accepted": [{"step": 1}]}
    (folder / "fingerprint.json").write_text(json.dumps(fingerprint))
    (folder / "rewinds.json").write_text('[{"step": 4, "skip_ranges": [[0, 8]]}]')


def write_metrics(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_lock(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "run.lock").write_bytes(lock.record("token"))


def write_whole_run(folder: Path) -> None:
    """Writes a run with the settings of the authors, so that the comparison reads it too."""
    run_workdirs.write_like_authors(folder)
    for name in ("images", "tensorboard"):
        (folder / name).mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1700000000.host.5").touch()
    run_workdirs.write_picture(folder, 5)
    (folder / "rewinds.json").write_text('[{"step": 4, "skip_ranges": [[0, 8]]}]')
    (folder / "origin.json").write_text('{"source": "w.pth"}')
    alarm = {"step": 4, "alarm": "spike", "message": "the loss is 9"}
    run_workdirs.write_lines(folder / "alarms.jsonl", [alarm])
    run_workdirs.write_lines(folder / "validation.jsonl", [{"step": 4, "val_loss": 0.5}])
    (folder / "run.lock").write_bytes(lock.record("token"))


def write_table(folder: Path) -> None:
    scores = scored("set", BY_HAND)
    row = spoof_row(scores, thresholds={}, selection="last", step=1, seed=0)
    write_report(folder, [row], [], caption="x")
