"""Long compiled work that Ctrl-C ends at once.

Python handles a signal only between two of its own instructions, and a mixed-integer program may run for many seconds within
one. So such work runs in its own thread, and the main thread, which receives the signals, only waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

from remat_planner.planner.cli.exit_codes import ExitCode

_T = TypeVar("_T")
_NAME = "plan-work"


def interruptibly(work: Callable[[], _T]) -> _T:
    """The result of ``work()``, or the exception that it raises.

    Raises:
        KeyboardInterrupt: Ctrl-C; ``work`` goes on in its thread until ``leave`` ends the process.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=_NAME, daemon=True).start()
    return outcome.result()


@contextlib.contextmanager
def a_second_interrupt_ends_the_process() -> Iterator[None]:
    """Let a second Ctrl-C end the process at once: the user's code may have swallowed the first, as a bare ``except:`` does."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(ExitCode.INTERRUPTED))
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave(code: int) -> None:
    """End the process with ``code`` without waiting for abandoned work, as an ordinary exit would.

    Raises:
        SystemExit: no work was abandoned.
    """
    if any(thread.name == _NAME for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
