"""Runs cases in processes of their own, so that one that hangs or crashes ends alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch


def run_each(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, limit: float, processes: int = 1, fresh: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield (index, ``function(task)``) as they come; a string says what became of a task without a result.

    Args:
        function: returns something that can be pickled.
        tasks: need not be picklable.
        limit: seconds that one task may take.
        processes: how many tasks run at once.
        fresh: whether each task gets a process of its own; else one that failed ends its process, and others share it.
    """
    waiting = iter(range(len(tasks)))
    workers: list[_Worker] = []
    for _ in range(processes):
        index = next(waiting, None)
        if index is not None:
            workers.append(_Worker(function, tasks))
            workers[-1].give(index)
    while workers:
        soonest = min(worker.started for worker in workers) + limit - time.monotonic()
        ready = wait([worker.connection for worker in workers], timeout=max(0.0, soonest))
        for worker in list(workers):
            if worker.connection in ready:
                result = worker.take()
            elif time.monotonic() - worker.started > limit:
                worker.end()
                result = f"took more than {limit:.0f} s"
            else:
                continue
            yield worker.index, result
            index = next(waiting, None)
            if fresh or not worker.process.is_alive() or isinstance(result, str):
                worker.end()
                workers.remove(worker)
                if index is not None:
                    workers.append(_Worker(function, tasks))
                    workers[-1].give(index)
            elif index is None:
                worker.end()
                workers.remove(worker)
            else:
                worker.give(index)


class _Worker:
    """A forked process that takes indices of tasks and returns results."""

    def __init__(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, function, tasks), daemon=True)
        self.process.start()
        other.close()
        self.index, self.started = -1, 0.0

    def give(self, index: int) -> None:
        self.index, self.started = index, time.monotonic()
        self.connection.send(index)

    def take(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            return f"the process ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            index = connection.recv()
        except EOFError:
            return
        connection.send(function(tasks[index]))
