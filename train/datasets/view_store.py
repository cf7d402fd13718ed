"""Cells' surroundings kept for a whole training, in memory or on disk.

Owns where they lie. Does not own cutting them (see ``cell_views``). Tens of thousands of
224 px cells are more than a workstation's memory; in a file the system keeps what fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.datasets.cell_views import Surroundings
from train.run_folder import storing

# Of pixels held in memory; what comes after goes to the file.
IN_MEMORY_BYTES = 4 << 30


class ViewStore:
    """A growing list of surroundings.

    Args:
        file: for what does not fit; made when it is needed, removed by ``close``.
        in_memory_bytes: pixels to hold in memory.
    """

    def __init__(self, file: Path, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._file = file
        self._left = in_memory_bytes
        self._held: list[Surroundings] = []
        # Offset in the file, side of the square, and what the crop takes of it.
        self._stored: list[tuple[int, int, float]] = []
        self._open: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._held) + len(self._stored)

    def add(self, cell: Surroundings) -> int:
        """Keeps a cell and gives its place.

        Raises:
            StoreError: the file cannot be written.
        """
        size = cell.pixels.nbytes
        if size <= self._left and not self._stored:
            self._left -= size
            self._held.append(cell)
            return len(self) - 1
        with storing(self._file.parent):
            if self._open is None:
                self._open = self._file.open("w+b")
            offset = self._open.seek(0, 2)
            self._open.write(np.ascontiguousarray(cell.pixels).tobytes())
        self._stored.append((offset, len(cell.pixels), cell.side))
        return len(self) - 1

    def __getitem__(self, place: int) -> Surroundings:
        if place < len(self._held):
            return self._held[place]
        offset, side, crop_side = self._stored[place - len(self._held)]
        if self._open is None:
            raise ValueError("the store is closed")
        self._open.seek(offset)
        pixels = np.frombuffer(self._open.read(side * side * 3), np.uint8)
        return Surroundings(pixels.reshape(side, side, 3), crop_side)

    def close(self) -> None:
        """Removes the file."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._file.unlink(missing_ok=True)
