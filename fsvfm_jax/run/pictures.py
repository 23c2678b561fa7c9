"""Draws the pictures that a training run writes every few steps, of the same faces each time."""

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import Element, read_faces
from fsvfm_jax.data.sources import Source
from fsvfm_jax.devices.compilation import compile_picture
from fsvfm_jax.host.pictures import titled_grid
from fsvfm_jax.run.faults import fault
from fsvfm_jax.run.reports import Reports
from fsvfm_jax.train_state import Learner, Picture, TrainState

PICTURE_ROWS = 8
PICTURE_SCALE = 3


class Pictures:
    """Draws the learner's picture; the constructor compiles the program for it.

    Args:
        learner: The network in training.
        template: Shapes, dtypes and shardings of the state.
        faces: The rows of the picture, as `picture_faces` returns them.
        mesh: The mesh over all devices.
    """

    def __init__(
        self, learner: Learner, template: TrainState, faces: dict[str, np.ndarray], mesh: Mesh
    ) -> None:
        self._picture, self._faces = learner.picture, faces
        self._draw = compile_picture(learner, mesh, template, faces)

    def write(self, step: int, state: TrainState, reports: Reports) -> None:
        """Reports the numbers of the step, then draws its picture; all processes take part.

        Args:
            step: The step's number.
            state: The state after the step.
            reports: Reports the numbers; its tracker writes the picture.
        """
        reports.flush()
        fault("picture", step, process=jax.process_index())
        columns = jax.device_get(self._draw(state, self._faces))
        if reports.tracker.folder is not None:
            picture = titled(self._picture, columns, step=step)
            reports.tracker.images(step, self._picture.name, picture)


def picture_faces(config: ConfigDict, source: Source, element: Element) -> dict[str, np.ndarray]:
    """Returns faces that are evenly spaced over the set, as a batch: the same in a whole run.

    Args:
        config: The resolved config.
        source: The training faces.
        element: Turns a face into a row of a batch.

    Returns:
        Arrays by name, with up to `PICTURE_ROWS` rows on axis 0.
    """
    count = min(PICTURE_ROWS, len(source))
    chosen = [number * len(source) // count for number in range(count)]
    faces, _ = read_faces(source, chosen, replace=config.data.skip_corrupt > 0)
    elements = [element(face, (config.seed, place)) for place, face in enumerate(faces)]
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}


def titled(
    picture: Picture, columns: UInt8[np.ndarray, "columns rows H W 3"], *, step: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the columns side by side, enlarged, with their titles and a caption.

    Args:
        picture: Titles and note of the picture.
        columns: The images of each column, uint8.
        step: The step's number, for the caption.
    """
    return titled_grid(
        dict(zip(picture.columns, columns, strict=True)),
        caption=f"{picture.name.capitalize()} at step {step}. {picture.note}",
        scale=PICTURE_SCALE,
    )
