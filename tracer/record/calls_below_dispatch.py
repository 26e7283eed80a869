"""Calls that change torch's state below the dispatcher, where no dispatch mode sees them.

On fake tensors nothing draws, so what a seed or a saved state of a random generator does to later draws would be lost. A fake
whose memory is exchanged (``x.data = y``, methods of its storage) keeps its old place in the graph. Both are refused by name,
unless PyTorch's own code does so, as ``torch.utils.checkpoint`` does, which puts back what it changes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import torch
from torch.autograd.function import BackwardCFunction

from remat_planner.tracer.python_state import ExecutedCode, is_users_file
from remat_planner.tracer.record.gradient_arrivals import nodes_behind
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.record.random_state import default_generators
from remat_planner.tracer.refusals import (
    converted_error,
    data_assigned_error,
    random_state_error,
    refuse_moved_state,
    retained_gradient_error,
    storage_changed_error,
)
from remat_planner.tracer.torch_modules import conversions_watched
from remat_planner.tracer.torch_private import storage_key, without_modes

_TORCH = str(Path(torch.__file__).parent) + os.sep
_NAMED = {
    os.path.join(_TORCH, "random.py"): "torch.random",
    os.path.join(_TORCH, "cuda", "random.py"): "torch.cuda",
    os.path.join(_TORCH, "xpu", "random.py"): "torch.xpu",
    os.path.join(_TORCH, "storage.py"): "torch.TypedStorage",
}
"""Files whose functions users call for this, and where they find these functions."""
_CHECKPOINT = os.path.join(_TORCH, "utils", "checkpoint.py")
_OF_GENERATORS = frozenset(
    {"get_state", "set_state", "manual_seed", "seed", "initial_seed", "get_offset", "set_offset", "clone_state"}
    | {"graphsafe_get_state", "graphsafe_set_state"}
)
_OF_STORAGES = frozenset(
    {"resize_", "copy_", "fill_", "byteswap", "_byteswap", "_set_from_file", "_swap_data_ptr_", "_set_cdata"}
)
# Without a GPU these only wait for one.
_OF_GPUS = (torch.cuda.manual_seed, torch.cuda.manual_seed_all, torch.cuda.seed, torch.cuda.seed_all)
# After these the backward runs code of the user's.
_FOR_BACKWARD = frozenset({"register_hook", "register_prehook", "_push_saved_tensors_default_hooks"})
_READS_OF_VALUES = frozenset({"numpy", "tolist"})
_WATCHED = frozenset(
    {
        "swap_tensors",
        "retain_grad",
        *_READS_OF_VALUES,
        *_OF_GENERATORS,
        *_OF_STORAGES,
        *_FOR_BACKWARD,
        *(f.__name__ for f in _OF_GPUS),
    }
)


class CallsBelowDispatch:
    """Refuses the calls of a recorded step that a graph would lose.

    Args:
        stand_ins: the fakes of parameters, buffers and inputs.
        names: what each of them stands for in words, by its id.
        outside: is told of other tensors whose values are read.
    """

    def __init__(self, stand_ins: Sequence[torch.Tensor], names: Mapping[int, str], outside: OutsideTensors) -> None:
        self._geometries = [(tensor, _geometry(tensor)) for tensor in stand_ins]
        self._names = names
        self._outside = outside
        self._part = ""
        self._backward_runs_code = False
        self._refused: Exception | None = None

    @contextmanager
    def forward(self, code: ExecutedCode) -> Iterator[None]:
        """Watch the forward inside, which ``code`` observes.

        Raises:
            RandomStateError: it reads or sets the state of a random generator of torch.
            StateReassignedError: it assigns to ``.data``, or converts a module to another dtype or device.
            UnsupportedOperatorError: it changes the memory of a tensor without an operator.
        """
        with self._watched("forward", code):
            yield

    @contextmanager
    def backward(
        self, outputs: Iterable[torch.Tensor], observed: Callable[[], AbstractContextManager[ExecutedCode]]
    ) -> Iterator[None]:
        """Watch the backward from ``outputs`` inside, by ``observed`` where it can run code of the user's.

        Raises:
            CaptureError: as in ``forward``.
        """
        runs_code = self._backward_runs_code or any(isinstance(node, BackwardCFunction) for node in nodes_behind(outputs))
        with observed() if runs_code else nullcontext(ExecutedCode()) as code, self._watched("backward", code):
            yield

    @contextmanager
    def _watched(self, part: Literal["forward", "backward"], code: ExecutedCode) -> Iterator[None]:
        self._part = part
        states = _generator_states()
        with (
            _data_watched(self._refuse_data),
            conversions_watched(self._refuse_conversion),
            code.calls_watched(_WATCHED, self._called),
        ):
            yield
        if self._refused is not None:  # the code has caught it
            raise self._refused
        if _generator_states() != states:
            raise random_state_error(part, "a function", "")

    def refuse_moved_state(self, moves: Mapping[int, str]) -> None:
        """Refuse a stand-in that has another memory or form by now; ``moves`` are the lines of operators, by id of the tensor.

        Raises:
            StateReassignedError: there is one.
        """
        moved = [tensor for tensor, before in self._geometries if _geometry(tensor) != before]
        refuse_moved_state({self._names[id(tensor)]: moves.get(id(tensor), "") for tensor in moved})

    def _called(self, function: Any, frame: FrameType) -> None:
        if isinstance(function, CodeType):
            if function is torch.utils.swap_tensors.__code__ and frame.f_back is not None:
                self._refuse_storage("torch.utils.swap_tensors", frame.f_back)
            elif any(function is on_gpu.__code__ for on_gpu in _OF_GPUS):
                self._refuse_generator(function.co_name, frame)
            elif function.co_name in _FOR_BACKWARD:
                self._backward_runs_code = True
            return
        owner, name = getattr(function, "__self__", None), function.__name__
        if name in _FOR_BACKWARD:
            self._backward_runs_code = True
        elif isinstance(owner, torch.Generator):
            self._refuse_generator(name, frame)
        elif isinstance(owner, torch.UntypedStorage) and name in _OF_STORAGES:
            self._refuse_storage(f"UntypedStorage.{name}", frame)
        elif name in _READS_OF_VALUES:
            self._outside.note([owner])
        elif name == "retain_grad" and isinstance(owner, torch.Tensor) and not owner.is_leaf:
            source, _ = _asked_by(frame)
            if source is not None:
                self._refuse(retained_gradient_error(source))

    def _refuse_generator(self, method: str, frame: FrameType) -> None:
        source, through = _asked_by(frame)
        if source is not None:
            self._refuse(random_state_error(self._part, through or f"torch.Generator.{method}", source))

    def _refuse_storage(self, call: str, frame: FrameType) -> None:
        source, through = _asked_by(frame)
        if source is not None and (through or is_users_file(frame.f_code.co_filename)):  # torch makes constants so
            self._refuse(storage_changed_error(self._part, through or call, source))

    def _refuse_data(self, tensor: torch.Tensor, value: Any, frame: FrameType) -> None:
        if not (isinstance(value, torch.Tensor) and _geometry(tensor) == _geometry(value)):
            name = self._names.get(id(tensor), "a tensor")
            source, _ = _asked_by(frame)
            self._refuse(data_assigned_error(name, source or ""))

    def _refuse_conversion(self, parameter: torch.Tensor, frame: FrameType) -> None:
        source, _ = _asked_by(frame)
        self._refuse(converted_error(self._names.get(id(parameter), "a parameter"), source or ""))

    def _refuse(self, error: Exception) -> None:
        self._refused = self._refused or error
        raise error


def _asked_by(frame: FrameType) -> tuple[str | None, str]:
    """The user's line that makes a call ("" for none), and the function of torch through which it does.

    The line is None where ``torch.utils.checkpoint`` makes it.
    """
    asking: FrameType | None = frame
    through = ""
    while asking is not None:
        name = asking.f_code.co_filename
        if name == _CHECKPOINT:
            return None, ""
        if is_users_file(name):
            return user_line(asking), through
        if name in _NAMED and not asking.f_code.co_name.startswith("_"):
            through = f"{_NAMED[name]}.{asking.f_code.co_name}"
        asking = asking.f_back
    return "", through


@contextmanager
def _data_watched(refuse: Callable[[torch.Tensor, Any, FrameType], None]) -> Iterator[None]:
    """Call ``refuse(tensor, value, frame)`` before this thread assigns to ``tensor.data``."""
    original: Any = torch.Tensor.data
    thread = threading.get_ident()

    def assign(tensor: torch.Tensor, value: Any) -> None:
        if threading.get_ident() == thread:
            refuse(tensor, value, sys._getframe(1))
        original.__set__(tensor, value)

    torch.Tensor.data = property(original.__get__, assign)  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch.Tensor.data  # the one of its base class is in its place again


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:
        return tensor.layout, tuple(tensor.shape)
    return storage_key(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _generator_states() -> list[bytes]:
    with without_modes():
        return [bytes(generator.get_state().numpy()) for generator in default_generators()]
