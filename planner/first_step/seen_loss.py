"""The loss that a training loop computes outside of the model, seen while the loop computes it.

Between the end of a forward and its last ``backward``, a ``TorchFunctionMode`` writes down which functions of torch are
called on what. The calls that lead from the model's outputs to the loss, called once more on other outputs, are that loss as a
function. Backwards that keep the graph may have a loss each; the sum of these is the step's. It keeps no tensor of the step:
other tensors (labels, weights) are kept as sizes and dtypes, which is all that bytes and seconds depend on, and those with one
element as numbers.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from remat_planner.planner.torch_private import inside_function_mode, leave_function_mode

_BACKWARDS = (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad)
_MOST_CALLS = 10_000
"""Calls between a forward and its backward; a loop with more does something else than computing a loss."""


class LossNotSeenError(Exception):
    """What was called between forward and backward is not a function of the model's outputs that could be called again."""


_NO_NUMBER = LossNotSeenError("its backward does not start at one number that was computed from the model's output")


@dataclass(frozen=True, slots=True)
class _Made:
    """The tensor that is leaf ``leaf`` of what call ``call`` returned; call -1 is the model."""

    call: int
    leaf: int


@dataclass(frozen=True, slots=True)
class _Other:
    """A tensor from elsewhere, by its form."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def tensor(self) -> torch.Tensor:
        # Zeros are valid class numbers, and ones neither divide by zero nor mask everything.
        fill = 0 if not self.dtype.is_floating_point and self.dtype is not torch.bool else 1
        return torch.full(self.shape, fill, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    spec: pytree.TreeSpec
    autocast: tuple[str, bool, torch.dtype]


class SeenLoss:
    """The loss of a training loop as a function of the model's output: the sum of those at which its backwards start."""

    __qualname__ = "loss, as the first step of the training loop computed it"

    def __init__(self, calls: Mapping[int, _Call], losses: Sequence[_Made]) -> None:
        self._calls, self._losses = calls, losses

    def __call__(self, output: Any) -> torch.Tensor:
        """The loss of this output, on labels of the same form as those of the step that was seen."""
        made: dict[int, list[Any]] = {-1: pytree.tree_leaves(output)}

        def value(argument: Any) -> Any:
            if isinstance(argument, _Made):
                return made[argument.call][argument.leaf]
            return argument.tensor() if isinstance(argument, _Other) else argument

        for number, call in self._calls.items():
            args, kwargs = pytree.tree_unflatten([value(argument) for argument in call.arguments], call.spec)
            device, enabled, dtype = call.autocast
            with torch.autocast(device, dtype=dtype, enabled=enabled) if enabled else nullcontext():
                made[number] = pytree.tree_leaves(call.function(*args, **kwargs))
        losses: list[torch.Tensor] = [made[loss.call][loss.leaf] for loss in self._losses]
        return losses[0] if len(losses) == 1 else functools.reduce(torch.add, [loss.sum() for loss in losses])


class _Watch(TorchFunctionMode):
    """Writes down the calls after a forward, until a backward begins that is the last one, as it frees the graph."""

    def __init__(self, output: Any, seen: Callable[[SeenLoss | LossNotSeenError], None]) -> None:
        super().__init__()
        self._seen = seen
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], _Made]] = {}
        self._calls: dict[int, _Call] = {}
        self._losses: list[_Made] = []
        self._thread, self._done, self._others = 0, False, False
        self._remember(-1, pytree.tree_leaves(output))

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._done:
            return func(*args, **kwargs)
        if func in _BACKWARDS:
            self._add(args[0], is_last=not (kwargs.get("retain_graph") or kwargs.get("create_graph")))
            return func(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        touches = any(self._place(leaf) is not None for leaf in leaves)
        arguments = tuple(map(self._argument, leaves)) if touches else ()  # before an in-place call changes them
        result = func(*args, **kwargs)
        if touches and any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(result)):
            number = len(self._calls)
            if number >= _MOST_CALLS:
                self._finish(LossNotSeenError(f"more than {_MOST_CALLS:,} calls came between the forward and its backward"))
                return result
            device = next(leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor))
            autocast = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            self._calls[number] = _Call(func, arguments, spec, autocast)
            self._remember(number, pytree.tree_leaves(result))
        return result

    def stop(self) -> None:
        """Watch no longer."""
        if self._thread == threading.get_ident():  # another thread has a stack of modes of its own
            self._thread = 0
            leave_function_mode(self)
            if self._losses and not self._done:  # all backwards kept the graph
                self._finish(self._seen_loss())
            elif self._others and not self._done:
                self._finish(_NO_NUMBER)

    def start(self) -> None:
        """Watch from now on."""
        self.__enter__()  # type: ignore[no-untyped-call]
        self._thread = threading.get_ident()

    def _add(self, loss: Any, is_last: bool) -> None:
        """A backward begins at ``loss``."""
        roots = loss if isinstance(loss, (tuple, list)) else [loss]
        places = [place for place in map(self._place, roots) if place is not None]
        if not places:
            self._others = True  # of another model, as a discriminator's before the generator's
        elif len(roots) > 1 or roots[0].numel() != 1:
            self._finish(_NO_NUMBER)
        else:
            self._losses += places
            if is_last:
                self._finish(self._seen_loss())

    def _seen_loss(self) -> SeenLoss:
        needed, waiting = set(), [place.call for place in self._losses]
        while waiting:
            if (call := waiting.pop()) >= 0 and call not in needed:
                needed.add(call)
                waiting += [argument.call for argument in self._calls[call].arguments if isinstance(argument, _Made)]
        return SeenLoss({number: self._calls[number] for number in sorted(needed)}, tuple(self._losses))

    def _finish(self, result: SeenLoss | LossNotSeenError) -> None:
        # torch has taken this mode off the stack while it handles a call, and puts it back. So ``stop`` ends it.
        self._done = True
        self._made.clear()
        self._calls = {}
        self._seen(result)

    def _place(self, leaf: Any) -> _Made | None:
        if not isinstance(leaf, torch.Tensor):
            return None
        reference, place = self._made.get(id(leaf), (None, None))
        return place if reference is not None and reference() is leaf else None

    def _argument(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if (place := self._place(leaf)) is not None:
            return place
        if leaf.numel() == 1:
            return leaf.detach().clone()
        return _Other(tuple(leaf.shape), leaf.dtype, leaf.device)

    def _remember(self, call: int, leaves: list[Any]) -> None:
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:  # no gradient comes from others, such as `fake.detach()`
                self._made[id(leaf)] = (weakref.ref(leaf), _Made(call, number))


def watch_loss(output: Any, seen: Callable[[SeenLoss | LossNotSeenError], None]) -> Callable[[], None]:
    """Watch what the caller does with ``output`` until it calls its last ``backward``; then ``seen`` gets the loss.

    Returns:
        A function that ends the watch. Call it before the next forward, in any case: until then each call of a function of
        torch takes some microseconds more.
    """
    if inside_function_mode(but=_Watch):
        # Its end would take our mode off the stack of modes instead of itself.
        seen(LossNotSeenError("the model is called inside of a torch function mode, such as `with torch.device(...)`"))
        return lambda: None
    watch = _Watch(output, seen)
    watch.start()
    return watch.stop
