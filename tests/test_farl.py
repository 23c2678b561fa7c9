"""Tests FaRL through facer's loading code, with small networks in place of the weights."""

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_files import need

from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.farl import NO_FACE, FarlParser
from fsvfm_jax.prepare.parse import _devices as parse_devices

PARSER_FILE = "face_parsing.farl.lapa.main_ema_136500_jit191.pt"
DETECTOR_FILE = "mobilenet0.25_Final.pth"


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    """Imports PyTorch and facer, which takes seconds, for these tests alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # facer's imports warn
        need("facer.face_detection.retinaface", "farl")
        return need("torch", "farl")


def brightness(torch: ModuleType) -> Any:
    """Returns a network with FaRL's outputs: logits of 11 classes, chosen by the brightness."""

    class Brightness(torch.nn.Module):
        def forward(self, images):
            grey = images.mean(dim=1, keepdim=True)
            levels = torch.arange(11, dtype=images.dtype, device=images.device)
            return 1 - (grey - levels.view(1, 11, 1, 1) / 10).abs(), grey

    return Brightness()


def weights_of_detector(torch: ModuleType, *, sees: bool) -> dict[str, Any]:
    """Returns weights with which RetinaFace finds an upright face at every place, or at none."""
    retinaface = need("facer.face_detection.retinaface", "farl")
    network = retinaface.RetinaFace(cfg=retinaface.cfg_mnet, phase="test")
    weights = {name: torch.zeros_like(x) for name, x in network.state_dict().items()}
    # Offsets of eyes, nose and mouth corners from the middle of a box, in tenths of its side.
    points = torch.tensor([-2.0, -1.5, 2.0, -1.5, 0.0, 0.5, -1.5, 2.5, 1.5, 2.5])
    for level in range(3):
        weights[f"ClassHead.{level}.conv1x1.bias"][1 if sees else 0 :: 2] = 10.0
        weights[f"LandmarkHead.{level}.conv1x1.bias"][:] = points.repeat(2)
    return weights


@pytest.fixture
def hub(torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder in which facer looks for files before it downloads them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.jit.trace(brightness(torch), torch.rand(1, 3, 448, 448)).save(str(folder / PARSER_FILE))
    torch.save(weights_of_detector(torch, sees=True), folder / DETECTOR_FILE)
    return folder


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")


def test_each_pixel_gets_the_class_of_the_network(hub: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 128  # class 5
    picture[20:44, 20:44] = 255  # class 10
    maps = FarlParser("cpu")(["a", "b", "c"], [picture, picture[:32], picture[::-1]])
    assert [x.shape for x in maps] == [(64, 64), (32, 64), (64, 64)]
    assert maps[0].dtype == np.uint8
    inner = np.asarray(maps[0])[4:-4, 4:-4]  # alignment blurs the edge of the picture
    expected = np.round(picture[4:-4, 4:-4, 0] / 25.5)
    assert (inner == expected).mean() > 0.9
    np.testing.assert_array_equal(np.unique(expected), [0, 5, 10])
    assert (np.asarray(maps[2])[::-1][4:-4, 4:-4] == expected).mean() > 0.9


def test_a_crop_without_a_face_has_no_map(torch: ModuleType, hub: Path) -> None:
    torch.save(weights_of_detector(torch, sees=False), hub / DETECTOR_FILE)
    assert FarlParser("cpu")(["a"], [np.zeros((64, 64, 3), np.uint8)]) == [NO_FACE]


def test_weights_that_cannot_be_read_are_named(hub: Path) -> None:
    (hub / PARSER_FILE).write_bytes(b"no network")
    with pytest.raises(DataError, match=r"the weights of farl/lapa/448 .*hub/checkpoints, where"):
        FarlParser("cpu")


@pytest.mark.parametrize(
    ("asked", "gpus", "found"),
    [(None, 2, ["cuda:0", "cuda:1"]), (None, 0, ["cpu"]), ("cuda:3", 8, ["cuda:3"])],
)
def test_every_gpu_works_unless_one_is_named(
    torch: ModuleType,
    asked: str | None,
    gpus: int,
    found: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert parse_devices(asked) == found
