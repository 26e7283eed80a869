"""The backward of an autograd.Function for gradients of fixed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from remat_planner.tracer.functions.call import Call
from remat_planner.tracer.functions.context import KeptContext
from remat_planner.tracer.functions.forms import Place, TensorForm
from remat_planner.tracer.functions.forward_call import ForwardCall
from remat_planner.tracer.functions.surroundings import as_in_eager
from remat_planner.tracer.functions.token import TOKEN, kept_in


@dataclass(eq=False)
class BackwardCall(Call):
    """The backward of ``forward`` for gradients of these forms.

    Its arguments are the token, then what ``forward.read_in_backward`` names, then the gradients that arrive.

    Attributes:
        forward: the forward.
        arriving: for each of its results whether a gradient arrives.
        sample: what the forward's sample kept in ``ctx``: the ``ctx`` of a run that gets an empty token without one.
    """

    forward: ForwardCall
    arriving: tuple[bool, ...]
    sample: KeptContext | None = field(init=False, default=None)

    @classmethod
    def of(cls, forward: ForwardCall, gradients: Sequence[torch.Tensor | None]) -> BackwardCall:
        """The backward for ``gradients``."""
        results = forward.sampled
        arguments, own = forward.read_in_backward
        forms = [
            TOKEN,
            *(forward.arguments[i] for i in arguments),
            *(results.own[i] for i in own),
            *(TensorForm.of_argument(gradient.detach()) for gradient in gradients if gradient is not None),
        ]
        arriving = tuple(gradient is not None for gradient in gradients)
        key = (forward.number, tuple(forms), arriving)
        call = cls.by_key.get(key)
        if not isinstance(call, BackwardCall):
            call = cls.by_key[key] = cls(forward.function, tuple(forms), forward, arriving)
        return call

    @property
    def short_name(self) -> str:
        """A short name."""
        return f"{super().short_name}_backward"

    @property
    def description(self) -> str:
        """The call in one line, the same in every process."""
        return f"backward of {self.forward.description}"

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the backward."""
        arguments = self.presented(tensors)
        return self.listed(self.called(arguments), (), arguments)

    def called(self, tensors: Sequence[torch.Tensor]) -> Any:
        """What the function's ``backward`` returns on ``tensors``."""
        forward = self.forward
        kept = kept_in(tensors[0]) or self.sample
        if kept is None:
            raise RuntimeError(f"the backward of {self.name} runs without its forward; please report this")
        arguments, own = forward.read_in_backward
        first_gradient = 1 + len(arguments) + len(own)
        of_argument = dict(zip(arguments, tensors[1 : 1 + len(arguments)], strict=True))
        of_own = dict(zip(own, tensors[1 + len(arguments) : first_gradient], strict=True))
        context = kept.context([place.of(of_argument, of_own) for place in forward.sampled.kept])
        arriving = iter(tensors[first_gradient:])
        gradients = [
            next(arriving) if arrives else self._materialized(place) if context.materialize_grads else None
            for arrives, place in zip(self.arriving, forward.sampled.returned, strict=True)
        ]
        function: Any = self.function
        backward = function.backward if function.vjp is torch.autograd.Function.vjp else function.vjp
        with as_in_eager(()):
            if getattr(function, "boxed_grads_call", False):
                return backward(context, gradients)
            return backward(context, *gradients)

    def _materialized(self, place: Place | None) -> torch.Tensor | None:
        """The zeros for a result without a gradient."""
        if place is None:
            return None
        form = (self.forward.sampled.own if place.own else self.forward.arguments)[place.index]
        size = form.size if place.view is None else place.view[0]
        return torch.zeros(size, dtype=form.dtype, device=form.device)
