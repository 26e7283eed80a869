"""Uses of ``.grad`` of parameters, buffers and inputs in a forward, which a captured step would not repeat.

So are questions to an input for its history (``x.grad_fn``, ``x.is_leaf``): that of another call may have another. And so is a
forward that lets one of these tensors begin, or cease, to require a gradient: autograd would add to its ``.grad``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from remat_planner.tracer.python_state import caller_of, is_users_file
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.refusals import changed_flag_error, gradient_attribute_error, input_history_error

_GRAD: Any = torch.Tensor.grad
_READS, _WRITES = _GRAD.__get__, (_GRAD.__set__, _GRAD.__delete__)
_FLAGS = (torch.Tensor.requires_grad_, torch.Tensor.requires_grad.__set__)  # type: ignore[attr-defined]
_HISTORY = {getattr(torch.Tensor, name).__get__: name for name in ("grad_fn", "is_leaf")}


class GradientAttributesRefused(TorchFunctionMode):
    """Refuses them inside. Reads by code of PyTorch are let through: its conversions of modules look at gradients too.

    Args:
        tensors: those whose ``.grad`` outlives the forward.
        inputs: those of them that are inputs and require a gradient.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._tensors = frozenset(map(id, tensors))
        self._inputs = frozenset(map(id, inputs))
        self._flagged: dict[int, tuple[torch.Tensor, bool, str]] = {}  # by id: as it was, and the line

    def refuse_changed_flags(self, names: Mapping[int, str]) -> None:
        """Refuse the forward that has run inside if a tensor requires a gradient now and did not before it, or the reverse.

        Raises:
            UnsupportedOperatorError: there is one.
        """
        for tensor, before, source in self._flagged.values():
            if tensor.grad_fn is None and tensor.requires_grad is not before:
                raise changed_flag_error(names.get(id(tensor), "a parameter"), tensor.requires_grad, source)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func == _READS or func in _WRITES) and id(args[0]) in self._tensors:
            frame = caller_of(sys._getframe(1))
            code = frame.f_code
            if func in _WRITES or is_users_file(code.co_filename) or code.co_name == "zero_grad":
                raise gradient_attribute_error("reads" if func == _READS else "sets", user_line(frame))
        if func in _HISTORY and id(args[0]) in self._inputs:
            frame = caller_of(sys._getframe(1))
            if is_users_file(frame.f_code.co_filename):
                raise input_history_error(_HISTORY[func], user_line(frame))
        if func in _FLAGS and id(args[0]) in self._tensors and id(args[0]) not in self._flagged:
            self._flagged[id(args[0])] = args[0], args[0].requires_grad, user_line(sys._getframe(1))
        return func(*args, **(kwargs or {}))
