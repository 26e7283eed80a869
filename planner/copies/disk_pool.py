"""Copies in a file, by a thread for each direction.

Each forward and its backwards use a file of their own, which they give back at the end. The file is allocated whole, so that a
disk cannot turn out to be full in the middle of a step. It has no name in the folder, so that a crash leaves nothing behind.

From a GPU the bytes pass through pinned memory. The thread waits for the GPU there, and the step waits for the thread where the
schedule waits for a copy: the GPU meanwhile runs what it was given before that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import torch

from remat_planner.planner.copies.file_bytes import read_bytes, write_bytes
from remat_planner.planner.copies.staging import Staging
from remat_planner.planner.copies.storage_bytes import TensorForm, bytes_to_copy, forms_of
from remat_planner.planner.errors import OffloadError


class DiskChannels:
    """The two directions between the memory of a device and files in a folder. All pools of both use one.

    Args:
        device: the CPU or a GPU.

    Raises:
        OffloadError: the system refuses pinned memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stores, self._loads = (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"copies {way} a disk") for way in ("to", "from")
        )
        self._out: Staging | None = None
        self._back: Staging | None = None
        if device.type != "cpu":
            self._out, self._back = Staging(device), Staging(device)

    @classmethod
    def between(cls, device: torch.device, folder: str | Path) -> DiskChannels:
        """Those that the pools in ``folder`` use, new ones for the first of them."""
        key = device, os.path.abspath(folder)
        if (channels := _channels.get(key)) is None:
            channels = _channels[key] = cls(device)
        return channels

    def store(self, file: IO[bytes], offset: int, memory: torch.Tensor) -> Future[None]:
        """Start to write ``memory``, uint8 of shape (bytes,), to the file at ``offset``."""
        return self._stores.submit(_write, file, offset, [memory], self._out, self._ready(memory))

    def load(self, file: IO[bytes], offset: int, memory: torch.Tensor) -> Future[None]:
        """Start to fill ``memory``, uint8 of shape (bytes,), from the file at ``offset``."""
        return self._loads.submit(_read, file, offset, [memory], self._back, self._ready(memory))

    def _ready(self, memory: torch.Tensor) -> torch.cuda.Event | None:
        """What stands for all that the compute stream was given so far: only then is ``memory`` computed, or free."""
        return None if self._out is None else torch.cuda.current_stream(memory.device).record_event()


_channels: weakref.WeakValueDictionary[tuple[torch.device, str], DiskChannels] = weakref.WeakValueDictionary()


class DiskPool:
    """Files in a folder, each with room for the copies of one step.

    Args:
        folder: where the files are.
        size: bytes that the copies of one step take.
        channels: what copies.

    Raises:
        OffloadError: the folder is not there or cannot be written, or the disk has no room for a file.
    """

    def __init__(self, folder: str | Path, size: int, channels: DiskChannels) -> None:
        self.folder, self.size, self.channels = Path(folder), size, channels
        self._unused = [self._new_file()]

    def for_step(self) -> DiskStepPool:
        """A file for one forward and its backwards.

        Raises:
            OffloadError: all files are in use, and a new one cannot be created.
        """
        try:
            file = self._unused.pop()
        except IndexError:
            file = self._new_file()
        return DiskStepPool(self, file)

    def give_back(self, file: IO[bytes]) -> None:
        """Take a file for another step."""
        self._unused.append(file)

    def _new_file(self) -> IO[bytes]:
        try:
            file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - the steps close it
            if self.size:
                os.posix_fallocate(file.fileno(), 0, self.size)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free if self.folder.is_dir() else None
            room = "" if free is None else f"; {free:,} bytes are free there"
            raise OffloadError(
                f"a file of {self.size:,} bytes for copies of activations cannot be created in {self.folder} "
                f"({error.strerror or error}){room}. Name a folder that is writable and has room, or plan with a smaller "
                "budget for the disk",
                pool="disk",
                needed=self.size,
                available=free,
            ) from error
        return file


class DiskStepPool:
    """The file of one forward and its backwards. It goes back to the pool when nothing of that step refers to it any more."""

    def __init__(self, pool: DiskPool, file: IO[bytes]) -> None:
        self._pool, self._file = pool, file
        self._end: int | None = None
        self._failed = False

    def __del__(self) -> None:
        if not self._failed:
            self._pool.give_back(self._file)

    def keep_copies(self) -> None:
        """Let no later store take the place of a copy: the backward that runs is not the last."""
        self._end = self._pool.size if self._end is None else self._end

    def store(self, offset: int, size: int, tensors: Sequence[torch.Tensor]) -> DiskCopy:
        """Start a copy of the storage of ``tensors`` to the ``size`` bytes at ``offset``.

        Raises:
            OffloadError: the storage is larger.
        """
        memory = bytes_to_copy(tensors, size, "disk")
        if self._end is not None:
            offset, self._end = self._end, self._end + size
        under_way = self._pool.channels.store(self._file, offset, memory)
        return DiskCopy(self, offset, memory.nbytes, forms_of(tensors), under_way)

    def load(self, offset: int, size: int, forms: tuple[TensorForm, ...]) -> DiskLoad:
        """Allocate a storage and start to fill it with the ``size`` bytes at ``offset``."""
        memory = torch.empty(size, dtype=torch.uint8, device=self._pool.channels.device)
        return DiskLoad(self, memory, forms, self._pool.channels.load(self._file, offset, memory))

    def finish(self, under_way: Future[None], size: int) -> None:
        """Wait for a copy of ``size`` bytes.

        Raises:
            OffloadError: it has failed.
        """
        try:
            under_way.result()
        except OSError as error:
            self._failed = True
            raise OffloadError(
                f"a copy of {size:,} bytes to or from the file in {self._pool.folder} failed ({error.strerror or error}). The "
                "step is lost, and the next one takes another file",
                pool="disk",
                needed=size,
                available=None,
            ) from error


class DiskCopy:
    """A copy of a storage in the file of a step."""

    def __init__(
        self, step: DiskStepPool, offset: int, size: int, forms: tuple[TensorForm, ...], under_way: Future[None]
    ) -> None:
        self._step, self._offset, self._size, self._forms = step, offset, size, forms
        self._under_way: Future[None] | None = under_way

    def wait(self) -> None:
        """Wait until the copy is complete.

        Raises:
            OffloadError: it has failed.
        """
        if self._under_way is not None:
            self._step.finish(self._under_way, self._size)
            self._under_way = None

    def load(self) -> DiskLoad:
        """Allocate the storage again and start to fill it."""
        return self._step.load(self._offset, self._size, self._forms)


class DiskLoad:
    """A storage that is being filled from the file."""

    def __init__(
        self, step: DiskStepPool, memory: torch.Tensor, forms: tuple[TensorForm, ...], under_way: Future[None]
    ) -> None:
        self._step, self._memory, self._forms, self._under_way = step, memory, forms, under_way

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, once they are filled.

        Raises:
            OffloadError: the copy has failed.
        """
        self._step.finish(self._under_way, self._memory.nbytes)
        return tuple(form.on(self._memory) for form in self._forms)


def _write(
    file: IO[bytes], offset: int, box: list[torch.Tensor], staging: Staging | None, ready: torch.cuda.Event | None
) -> None:
    """Write the bytes in ``box``, and empty it, so that no reference to them is left when the copy counts as complete."""
    if staging is None or ready is None:
        write_bytes(file, offset, box.pop())
    else:
        staging.write(file, offset, box.pop(), ready)


def _read(
    file: IO[bytes], offset: int, box: list[torch.Tensor], staging: Staging | None, ready: torch.cuda.Event | None
) -> None:
    """Fill the bytes in ``box``, and empty it, as ``_write`` does."""
    if staging is None or ready is None:
        read_bytes(file, offset, box.pop())
    else:
        staging.read(file, offset, box.pop(), ready)
