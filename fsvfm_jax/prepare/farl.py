"""FaRL's face parser through facer (extra `farl`: pyfacer and PyTorch).

facer fetches the weights at the first use into PyTorch's hub folder
(`$TORCH_HOME/hub/checkpoints`).
"""

import warnings
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import UInt8

from fsvfm_jax.errors import DataError, in_one_line
from fsvfm_jax.regions import CLASSES

PARSER = "farl/lapa/448"
DETECTOR = "retinaface/mobilenet"
NO_FACE = "RetinaFace finds no face in it"
# facer's names of LaPa's classes, in the order of `regions.CLASSES`.
_LABELS = ["background", "face", "rb", "lb", "re", "le", "nose", "ulip", "imouth", "llip", "hair"]


class FarlParser:
    """Aligns each face by RetinaFace's five points, as FaRL was trained, and parses it.

    Args:
        device: PyTorch's name of the device of both networks: "cuda:0", "cpu".

    Raises:
        DataError: The weights cannot be fetched or read.
    """

    def __init__(self, device: str):
        with warnings.catch_warnings():  # Warnings of facer's imports and TorchScript help nobody.
            warnings.simplefilter("ignore")
            import facer

            try:
                self._detector = facer.face_detector(DETECTOR, device=torch.device(device))
                self._parser = facer.face_parser(PARSER, device=torch.device(device))
            except Exception as error:  # A download, a file or a device may fail in any way.
                raise DataError(
                    f"the weights of {PARSER} and {DETECTOR} cannot be loaded on {device}"
                    f" ({in_one_line(error)}); facer fetches them into"
                    f" {torch.hub.get_dir()}/checkpoints, where they may also be copied"
                ) from error
        if list(self._parser.label_names) != _LABELS:
            raise DataError(
                f"{PARSER} has the labels {self._parser.label_names}, not those of {CLASSES}"
            )
        self._device = device

    def __call__(
        self, names: list[str], images: list[UInt8[np.ndarray, "_H _W 3"]]
    ) -> list[UInt8[np.ndarray, "_H _W"] | str]:
        """Returns the map of each crop's most central face, or a reason if the crop has no face."""
        maps: list[UInt8[np.ndarray, "_H _W"] | str] = [NO_FACE] * len(images)
        by_shape = defaultdict(list)
        for index, image in enumerate(images):
            by_shape[image.shape].append(index)
        for indices in by_shape.values():
            batch = np.stack([images[i] for i in indices]).transpose(0, 3, 1, 2)
            for row, parsing_map in self._parse(torch.from_numpy(batch).to(self._device)).items():
                maps[indices[row]] = parsing_map
        return maps

    @torch.inference_mode()
    def _parse(self, batch: torch.Tensor) -> dict[int, np.ndarray]:
        """Returns maps by row of a uint8 batch [B, 3, H, W], for the rows with a face."""
        faces = self._detector(batch)
        chosen = _most_central(faces["rects"], faces["image_ids"], batch.shape[2:])
        if not chosen:
            return {}
        rows, which = list(chosen), list(chosen.values())
        data = {
            "rects": faces["rects"][which],
            "points": faces["points"][which],
            "scores": faces["scores"][which],
            "image_ids": torch.arange(len(rows), device=batch.device),
        }
        logits = self._parser(batch[rows], data)["seg"]["logits"]
        return dict(zip(rows, logits.argmax(dim=1).to(torch.uint8).cpu().numpy(), strict=True))


def _most_central(
    rects: torch.Tensor, image_ids: torch.Tensor, size: tuple[int, int]
) -> dict[int, int]:
    """Returns for each image the index of the box (x1, y1, x2, y2) nearest the image's centre."""
    height, width = size
    chosen: dict[int, tuple[float, int]] = {}
    for index, (image, (x1, y1, x2, y2)) in enumerate(
        zip(image_ids.tolist(), rects.tolist(), strict=True)
    ):
        distance = (x1 + x2 - width) ** 2 + (y1 + y2 - height) ** 2
        chosen[int(image)] = min(chosen.get(int(image), (distance, index)), (distance, index))
    return {image: index for image, (_, index) in chosen.items()}
