"""Measures how long the stages of scoring take."""

import sys
import time

import numpy as np

from fsvfm_jax.predict.faces import FileFaces
from fsvfm_jax.predict.networks import Detector


class Timings:
    """Adds up how long the stages take."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: float | None = None
        self.files = self.frames = self.faces = 0
        self.work_seconds = self.waited_seconds = 0.0

    def add(self, found: FileFaces) -> None:
        """Counts a file whose faces were found."""
        self.files += 1
        self.frames += found.frames
        self.faces += len(found.faces)
        self.work_seconds += found.work_seconds

    def first_score(self) -> None:
        """Notes the time of the first score."""
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def tell(self, network: Detector, *, processes: int) -> None:
        """Prints the figures on stderr, and measures the network alone for this.

        Args:
            network: The network.
            processes: Number of processes that found faces.
        """
        total = time.perf_counter() - self._started
        batch = np.zeros((network.batch_size, network.image_size, network.image_size, 3), np.uint8)
        list(network.margin_batches_of_views(batch))  # Perhaps this compiles the program.
        started = time.perf_counter()
        list(network.margin_batches_of_views(batch))
        per_second = network.batch_size / (time.perf_counter() - started)
        per_process = self.frames / max(self.work_seconds, 1e-9)
        busy = min(1.0, self.faces / per_second / total)
        lines = {
            "first score": f"{self._first or total:.1f} s after the network was read",
            "decode and detect": f"{self.files} files, {self.frames} frames, {self.faces} faces;"
            f" {per_process:.1f} frames/s in each of {processes} processes",
            "network alone": f"{per_second:.1f} faces/s in batches of {network.batch_size}",
            "together": f"{self.faces / total:.1f} faces/s, {self.files / total:.1f} files/s;"
            f" {total:.1f} s, of which {self.waited_seconds:.1f} s waiting for faces; the network"
            f" alone would need {busy:.0%} of the time",
        }
        for name, text in lines.items():
            print(f"{name}: {text}", file=sys.stderr)
