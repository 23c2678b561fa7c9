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
        self.files = self.faces = 0
        self.work_seconds = self.waited_seconds = 0.0

    def add(self, found: FileFaces) -> None:
        """Counts a file whose faces were found."""
        self.files += 1
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
        network.margins(batch)
        started = time.perf_counter()
        network.margins(batch)
        per_second = network.batch_size / (time.perf_counter() - started)
        lines = {
            "first score": f"after {self._first or total:.1f} s",
            "decode and detect": f"{self.files} files, {self.faces} faces;"
            f" {self.files / max(self.work_seconds, 1e-9):.1f} files/s in each of {processes}"
            " processes",
            "network alone": f"{per_second:.1f} faces/s in batches of {network.batch_size}",
            "together": f"{self.faces / total:.1f} faces/s, {self.files / total:.1f} files/s in"
            f" {total:.1f} s; waited {self.waited_seconds:.1f} s for faces; the network was busy"
            f" {min(1.0, self.faces / per_second / total):.0%} of the time",
        }
        for name, text in lines.items():
            print(f"{name}: {text}", file=sys.stderr)
