"""Bytes between a GPU's memory and a file: through pinned memory, a chunk at a time, on a stream of its own.

The thread that copies waits for the GPU, so a copy that it has finished is finished on the GPU too: nothing on the compute
stream need wait for it any more.
"""

from __future__ import annotations

from typing import IO

import torch

from remat_planner.planner.copies.file_bytes import read_bytes, write_bytes
from remat_planner.planner.copies.pinned_buffer import pinned, start_copy

_CHUNK = 16 * 2**20
"""Bytes: large enough for the rate of a disk, and two of them in each direction are little memory."""


class Staging:
    """One direction between ``device`` and files. One thread uses it.

    Raises:
        OffloadError: the system refuses the pinned memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._chunks = [pinned(_CHUNK, "disk") for _ in range(2)]

    def write(self, file: IO[bytes], offset: int, memory: torch.Tensor, ready: torch.cuda.Event) -> None:
        """Write ``memory`` to the file at ``offset``, after what ``ready`` stands for.

        Raises:
            OSError: it cannot be written.
        """
        self._stream.wait_event(ready)
        pieces = torch.split(memory, _CHUNK)
        arrived = self._copy(self._chunks[0][: pieces[0].nbytes], pieces[0])
        for k, piece in enumerate(pieces):
            here = arrived
            if k + 1 < len(pieces):  # the other chunk, whose bytes are in the file by now
                arrived = self._copy(self._chunks[(k + 1) % 2][: pieces[k + 1].nbytes], pieces[k + 1])
            here.synchronize()
            write_bytes(file, offset + k * _CHUNK, self._chunks[k % 2][: piece.nbytes])

    def read(self, file: IO[bytes], offset: int, memory: torch.Tensor, ready: torch.cuda.Event) -> None:
        """Fill ``memory`` with the bytes of the file at ``offset``, after what ``ready`` stands for.

        Raises:
            OSError: they cannot be read.
        """
        self._stream.wait_event(ready)
        under_way: list[torch.cuda.Event] = []
        try:
            for k, piece in enumerate(torch.split(memory, _CHUNK)):
                if k > 1:
                    under_way[k - 2].synchronize()  # its chunk is free again
                chunk = self._chunks[k % 2][: piece.nbytes]
                read_bytes(file, offset + k * _CHUNK, chunk)
                under_way.append(self._copy(piece, chunk))
        finally:
            if under_way:
                under_way[-1].synchronize()

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        """Start a copy; return what is complete with it."""
        with torch.cuda.stream(self._stream):
            start_copy(target, source)
            return self._stream.record_event()
