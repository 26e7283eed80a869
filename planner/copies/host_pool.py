"""Copies in pinned host memory, on a CUDA stream for each direction.

A block of device memory belongs to the stream on which it was allocated, the one that computes. So the copies need no
``record_stream``: the compute stream itself waits for a store before the block is freed, and a load begins only after what the
compute stream ran when the block was allocated. Nothing waits on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from remat_planner.planner.copies.pinned_buffer import PinnedBuffer, pinned, start_copy
from remat_planner.planner.copies.storage_bytes import TensorForm, bytes_to_copy, forms_of


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
        self._unused = [PinnedBuffer(size, _pinned)]

    def for_step(self) -> HostStepPool:
        """A buffer for one forward and its backwards.

        Raises:
            OffloadError: all buffers are in use, and the system refuses another one.
        """
        try:
            buffer = self._unused.pop()
        except IndexError:
            return HostStepPool(self, PinnedBuffer(self.size, _pinned))
        # The step before may have run on another compute stream, for which the stores of this step do not wait. Its loads may
        # still read the buffer; its stores come first anyway.
        self.stores.wait_stream(self.loads)
        return HostStepPool(self, buffer)

    def give_back(self, buffer: PinnedBuffer) -> None:
        """Take a buffer for another step."""
        self._unused.append(buffer)


class HostStepPool:
    """The buffer of one forward and its backwards. It goes back to the pool when nothing of that step refers to it any more."""

    def __init__(self, pool: HostPool, buffer: PinnedBuffer) -> None:
        self._pool, self._buffer = pool, buffer
        self._keeps_copies = False

    def __del__(self) -> None:
        self._pool.give_back(self._buffer)

    def keep_copies(self) -> None:
        """Let no later store take the place of a copy: the backward that runs is not the last."""
        self._keeps_copies = True

    def store(self, offset: int, size: int, tensors: Sequence[torch.Tensor]) -> HostCopy:
        """Start a copy of the storage of ``tensors`` to the ``size`` bytes at ``offset``.

        Raises:
            OffloadError: the storage is larger.
        """
        memory = bytes_to_copy(tensors, size, "host")
        if self._keeps_copies:
            places = PinnedBuffer(memory.nbytes, _pinned).parts(0, memory.nbytes)
        else:
            places = self._buffer.parts(offset, memory.nbytes)
        under_way = _UnderWay.start(self._pool.stores, memory, places, to_host=True)
        return HostCopy(self, places, forms_of(tensors), under_way)

    def load(self, places: Sequence[torch.Tensor], forms: tuple[TensorForm, ...]) -> HostLoad:
        """Allocate a storage and start to fill it with the copy at ``places``."""
        memory = torch.empty(sum(place.nbytes for place in places), dtype=torch.uint8, device=self._pool.device)
        under_way = _UnderWay.start(self._pool.loads, memory, places, to_host=False)
        return HostLoad(self, memory, forms, under_way)


class HostCopy:
    """A copy of a storage in the buffer of a step."""

    def __init__(
        self, step: HostStepPool, places: Sequence[torch.Tensor], forms: tuple[TensorForm, ...], under_way: _UnderWay
    ) -> None:
        self._step, self._places, self._forms, self._under_way = step, places, forms, under_way

    def wait(self) -> None:
        """Let the compute stream wait until the copy is complete."""
        self._under_way.wait()

    def load(self) -> HostLoad:
        """Allocate the storage again and start to fill it."""
        return self._step.load(self._places, self._forms)


class HostLoad:
    """A storage that is being filled from the buffer."""

    def __init__(self, step: HostStepPool, memory: torch.Tensor, forms: tuple[TensorForm, ...], under_way: _UnderWay) -> None:
        self._step, self._memory, self._forms, self._under_way = step, memory, forms, under_way

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, which the compute stream sees once they are filled."""
        self._under_way.wait()
        return tuple(form.on(self._memory) for form in self._forms)


class _UnderWay:
    """A copy between device memory and the host that the compute stream may not have waited for.

    It keeps the device memory until then. If nothing waits, because an error ended the step, the compute stream waits when this
    object goes: the block goes back to that stream's memory, and must not be given out during the copy.
    """

    def __init__(self, memory: torch.Tensor, compute: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        self._memory: torch.Tensor | None = memory
        self._compute, self._event = compute, event

    @classmethod
    def start(
        cls, stream: torch.cuda.Stream, memory: torch.Tensor, places: Sequence[torch.Tensor], *, to_host: bool
    ) -> _UnderWay:
        """Copy ``memory`` to ``places`` or back on ``stream``, after what the compute stream was given so far."""
        compute = torch.cuda.current_stream(memory.device)
        stream.wait_stream(compute)
        with torch.cuda.stream(stream):
            for part, place in zip(torch.split(memory, [place.nbytes for place in places]), places, strict=True):
                if to_host:
                    start_copy(place, part)
                else:
                    start_copy(part, place)
            return cls(memory, compute, stream.record_event())

    def wait(self) -> None:
        """Let the current stream, which computes, wait for the copy."""
        if self._memory is not None:
            torch.cuda.current_stream(self._memory.device).wait_event(self._event)
            self._memory = None

    def __del__(self) -> None:
        if self._memory is not None:
            self._compute.wait_event(self._event)


def _pinned(size: int) -> torch.Tensor:
    """``size`` bytes of pinned memory.

    Raises:
        OffloadError: the system refuses them.
    """
    return pinned(size, "host")
