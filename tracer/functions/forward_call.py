"""The forward of an autograd.Function on arguments of fixed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions.call import Call, Function
from remat_planner.tracer.functions.context import PLAIN_VALUES, Context, KeptContext
from remat_planner.tracer.functions.forms import TensorForm
from remat_planner.tracer.functions.surroundings import Autocast, as_in_eager, current_autocast
from remat_planner.tracer.functions.token import TOKEN, token


@dataclass(eq=False)
class ForwardCall(Call):
    """``function.apply`` on these arguments.

    Attributes:
        leaves: of the arguments, flattened, with None for tensors.
        spec: how the leaves form the arguments.
        tensors: which of the leaves are tensors.
        needs_input_grad: as autograd sets it.
        flat: whether the leaves are the arguments, without containers.
        differentiated: whether autograd records the call.
        autocast: what autocast does where it is called.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    tensors: tuple[int, ...]
    needs_input_grad: tuple[bool, ...]
    flat: bool
    differentiated: bool
    autocast: Autocast

    @classmethod
    def of(cls, function: Function, args: tuple[Any, ...]) -> tuple[ForwardCall, list[torch.Tensor]]:
        """The call ``function.apply(*args)``, and the tensors in ``args``."""
        leaves, spec = pytree.tree_flatten(args)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
        tensors = [leaves[i] for i in places]
        needs = tuple(isinstance(argument, torch.Tensor) and argument.requires_grad for argument in args)
        values = (
            function,
            tuple(map(TensorForm.of_argument, tensors)),
            tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves),
            spec,
            places,
            needs,
            len(leaves) == len(args) and all(leaf is argument for leaf, argument in zip(leaves, args, strict=True)),
            torch.is_grad_enabled() and any(needs),
            current_autocast(),
        )
        key = (*values[:2], tuple(map(_identity, values[2])), repr(spec), *values[4:])
        call = cls.by_key.get(key)
        if not isinstance(call, ForwardCall):
            call = cls.by_key[key] = cls(*values)
        return call, tensors

    @property
    def forms(self) -> tuple[TensorForm, ...]:
        """The forms of the results of a run."""
        return (*super().forms, TOKEN) if self.differentiated else super().forms

    @property
    def description(self) -> str:
        """The call in one line, the same in every process."""
        constants = [_described(leaf) for i, leaf in enumerate(self.leaves) if i not in self.tensors]
        wanted = [str(i) for i, needed in enumerate(self.needs_input_grad) if needed and self.differentiated]
        autocast = [f"{device} {dtype}" for device, dtype, _ in self.autocast]
        code = [getattr(self.function, "code", "")]
        parts = (code, constants, wanted and ["gradients of", *wanted], autocast and ["autocast", *autocast])
        return "; ".join([self.name, *(" ".join(part) for part in parts if any(part))])

    @cached_property
    def read_in_backward(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of the arguments, and of the allocated tensors, that the backward reads."""
        kept = self.sampled.kept
        return (
            tuple(sorted({place.index for place in kept if not place.own})),
            tuple(sorted({place.index for place in kept if place.own})),
        )

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the forward."""
        arguments = self.presented(tensors)
        returned, context = self.called(arguments)
        kept, in_context = KeptContext.of(context) if self.differentiated else (None, [])
        listed = self.listed(returned, in_context, arguments)
        if kept is not None:
            listed.append(token(kept))
        return listed

    def called(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, Context]:
        """What the function's ``forward`` returns on ``tensors``, and its ``ctx``."""
        leaves = list(self.leaves)
        for i, tensor in zip(self.tensors, tensors, strict=True):
            leaves[i] = tensor
        args = tuple(leaves) if self.flat else pytree.tree_unflatten(leaves, self.spec)
        context = Context(self.needs_input_grad)
        function: Any = self.function
        with as_in_eager(self.autocast):
            if function.setup_context is torch.autograd.Function.setup_context:
                return function.forward(context, *args), context
            returned = function.forward(*args)
            function.setup_context(context, args, returned)
        return returned, context


def _identity(leaf: Any) -> Any:
    """Equal for arguments that a call cannot tell apart."""
    if isinstance(leaf, PLAIN_VALUES):
        return type(leaf), repr(leaf)  # 0.0 == -0.0
    try:
        hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)
    return type(leaf), leaf


def _described(leaf: Any) -> str:
    return repr(leaf) if isinstance(leaf, PLAIN_VALUES) else type(leaf).__name__
