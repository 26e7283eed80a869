"""Copies in pinned host memory, on a CUDA stream for each direction.

A block of device memory belongs to the stream on which it was allocated, the one that computes. So the copies need no
``record_stream``: the compute stream itself waits for a store before the block is freed, and a load begins only after what the
compute stream ran when the block was allocated. Nothing waits on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from remat_planner.planner.copies.storage_bytes import TensorForm, bytes_of, forms_of
from remat_planner.planner.errors import OffloadError


class HostPool:
    """Pinned buffers, each with room for the copies of one step.

    Args:
        device: the GPU.
        size: bytes that the copies of one step take.

    Raises:
        OffloadError: the system refuses that much pinned memory.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self.device, self.size = device, size
        self.stores, self.loads = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._unused = [self._new_buffer(size)]

    def for_step(self) -> HostStepPool:
        """A buffer for one forward and its backwards.

        Raises:
            OffloadError: all buffers are in use, and the system refuses another one.
        """
        try:
            buffer = self._unused.pop()
        except IndexError:
            buffer = self._new_buffer(self.size)
        return HostStepPool(self, buffer)

    def give_back(self, buffer: torch.Tensor) -> None:
        """Take a buffer for another step."""
        self._unused.append(buffer)

    def _new_buffer(self, size: int) -> torch.Tensor:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            raise OffloadError(
                f"the system refuses {size:,} bytes of pinned host memory ({error}). Raise the limit (`ulimit -l`, or the "
                "memory of the container), or plan with a smaller budget for the host",
                pool="host",
                needed=size,
                available=None,
            ) from error


class HostStepPool:
    """The buffer of one forward and its backwards. It goes back to the pool when nothing of that step refers to it any more."""

    def __init__(self, pool: HostPool, buffer: torch.Tensor) -> None:
        self._pool, self._buffer = pool, buffer
        self._keeps_copies = False
        # Loads that the compute stream has not waited for, with the memory that they fill. After an error it must not be freed
        # before they are over.
        self._pending: dict[int, tuple[torch.cuda.Event, torch.Tensor]] = {}

    def __del__(self) -> None:
        compute = torch.cuda.current_stream(self._pool.device) if self._pending else None
        for event, _ in self._pending.values():
            assert compute is not None
            compute.wait_event(event)
        self._pool.give_back(self._buffer)

    def keep_copies(self) -> None:
        """Let no later store take the place of a copy: the backward that runs is not the last."""
        self._keeps_copies = True

    def store(self, offset: int, size: int, tensors: Sequence[torch.Tensor]) -> HostCopy:
        """Start a copy of the storage of ``tensors`` to the ``size`` bytes at ``offset``.

        Raises:
            OffloadError: the storage is larger.
        """
        memory = bytes_of(tensors[0])
        if memory.nbytes > size:
            raise OffloadError(
                f"an activation has {memory.nbytes:,} bytes where the plan has {size:,} on the host: plan again on this device",
                pool="host",
                needed=memory.nbytes,
                available=size,
            )
        if self._keeps_copies:
            place = torch.empty(memory.nbytes, dtype=torch.uint8, pin_memory=True)
        else:
            place = self._buffer[offset : offset + memory.nbytes]
        return HostCopy(self, place, forms_of(tensors), self._copy(self._pool.stores, place, memory))

    def load(self, place: torch.Tensor, memory: torch.Tensor) -> None:
        """Start to fill ``memory`` with the copy at ``place``."""
        self._pending[id(memory)] = (self._copy(self._pool.loads, memory, place), memory)

    def finish_load(self, memory: torch.Tensor) -> None:
        """Let the compute stream wait until ``memory`` is filled."""
        event, _ = self._pending.pop(id(memory))
        torch.cuda.current_stream(self._pool.device).wait_event(event)

    def finish_store(self, event: torch.cuda.Event) -> None:
        """Let the compute stream wait for a store."""
        torch.cuda.current_stream(self._pool.device).wait_event(event)

    def _copy(self, stream: torch.cuda.Stream, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        stream.wait_stream(torch.cuda.current_stream(self._pool.device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            return stream.record_event()


class HostCopy:
    """A copy of a storage in the buffer of a step."""

    def __init__(self, step: HostStepPool, place: torch.Tensor, forms: tuple[TensorForm, ...], event: torch.cuda.Event) -> None:
        self._step, self._place, self._forms = step, place, forms
        self._event = event

    def wait(self) -> None:
        """Let the compute stream wait until the copy is complete."""
        self._step.finish_store(self._event)

    def load(self) -> HostLoad:
        """Allocate the storage again and start to fill it."""
        memory = torch.empty(self._place.nbytes, dtype=torch.uint8, device=self._step._pool.device)
        self._step.load(self._place, memory)
        return HostLoad(self._step, memory, self._forms)


class HostLoad:
    """A storage that is being filled from the buffer."""

    def __init__(self, step: HostStepPool, memory: torch.Tensor, forms: tuple[TensorForm, ...]) -> None:
        self._step, self._memory, self._forms = step, memory, forms

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, which the compute stream sees once they are filled."""
        self._step.finish_load(self._memory)
        return tuple(form.on(self._memory) for form in self._forms)
