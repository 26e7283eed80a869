"""What a loss changes besides what it returns, put back after it ran on fakes: the training loop calls it itself."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.tracer.operators import written_arguments
from remat_planner.tracer.python_state import ExecutedCode, Place, Snapshot
from remat_planner.tracer.refusals import optimizer_in_loss_error
from remat_planner.tracer.torch_private import is_fake, without_modes


@contextmanager
def loss_state_kept(loss: Callable[..., Any]) -> Iterator[TorchDispatchMode]:
    """Run ``loss`` inside; then its Python state (a list of losses, a module of its own) and gradients are what they were.

    Yields a mode, inside of which its operators have to run: of tensors alone that are real, fakes run them for real.

    Raises:
        LossError: the loss steps an optimizer, whose state nobody could put back.
    """
    function = inspect.unwrap(loss)
    state, caller = Snapshot([(Place("the loss", function, "object"), function)]), sys._getframe(2)
    kept = _Kept()

    def first_call(code: Any, frame: Any) -> None:
        state.add_names_of(code, frame, caller)
        kept.keep_gradients(state)

    kept.keep_gradients(state)
    thread = threading.get_ident()

    def refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if threading.get_ident() == thread:  # another one may train meanwhile
            raise optimizer_in_loss_error(type(optimizer).__name__)

    watched = register_optimizer_step_pre_hook(refuse)
    try:
        with ExecutedCode(first_call).observed():
            yield kept
    finally:
        watched.remove()
        state.put_back()
        kept.put_back()


class _Kept(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the gradients of tensors in Python state, and the content of real tensors that operators write to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gradients: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._contents: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._looked_through = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in written_arguments(func, args, kwargs or {}):
            if not is_fake(tensor):
                with without_modes():
                    self._contents.append((tensor, tensor.clone()))
        return func(*args, **(kwargs or {}))

    def keep_gradients(self, state: Snapshot) -> None:
        """Keep those of the tensors that ``state`` has come to know since the last call."""
        for _, entries in state.kept[self._looked_through :]:
            tensors = (value for value in entries.values() if isinstance(value, torch.Tensor))
            self._gradients += [(tensor, tensor.grad) for tensor in tensors if tensor.is_leaf]
        self._looked_through = len(state.kept)

    def put_back(self) -> None:
        """Make them what they were."""
        for tensor, gradient in self._gradients:
            if tensor.grad is not gradient:
                tensor.grad = gradient
        with torch.no_grad():
            for tensor, content in reversed(self._contents):
                tensor.copy_(content)
