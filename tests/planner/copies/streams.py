"""Streams that are none: side streams copy as late as they may, so that a missing wait changes bits.

The compute stream runs at once. A side stream runs what it was given only when something waits for it, so a copy that nothing
waits for is never made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch


class Event:
    """What a stream has run once the event is complete."""

    def __init__(self, stream: Stream, position: int) -> None:
        self.stream, self.position = stream, position

    def synchronize(self) -> None:
        """The host waits."""
        self.stream.run_to(self.position)


class Stream:
    """Runs what it is given when something waits for it; the compute stream runs everything at once."""

    def __init__(self, *_: object, lazy: bool = True) -> None:
        self.lazy, self.done = lazy, 0
        self.given: list[Callable[[], object]] = []
        self.behind: Event | None = None  # the last event that it waits for

    def give(self, work: Callable[[], object]) -> None:
        self.given.append(work)
        if not self.lazy:
            self.run_to(len(self.given))

    def run_to(self, position: int) -> None:
        while self.done < position:
            self.done += 1
            self.given[self.done - 1]()

    def record_event(self) -> Event:
        return Event(self, len(self.given))

    def wait_event(self, event: Event) -> None:
        self.behind = event
        self.give(lambda: event.stream.run_to(event.position))

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


class Streams:
    """``torch`` with streams that are none, on a CPU; each thread has its current stream.

    Attributes:
        compute: the stream on which the step computes.
        torch: what a module takes for ``torch``.
    """

    def __init__(self) -> None:
        self.compute = Stream(lazy=False)
        self._current = threading.local()
        cuda = SimpleNamespace(Stream=Stream, Event=Event, stream=self._on, current_stream=lambda _: self.current)
        self.torch = SimpleNamespace(cuda=cuda, uint8=torch.uint8, split=torch.split, Tensor=torch.Tensor, empty=torch.empty)

    @property
    def current(self) -> Stream:
        """That of this thread."""
        return getattr(self._current, "stream", self.compute)

    @contextmanager
    def _on(self, side: Stream) -> Iterator[None]:
        before, self._current.stream = self.current, side
        yield
        self._current.stream = before
