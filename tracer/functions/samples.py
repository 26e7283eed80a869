"""Samples of calls: one run on real tensors of the arguments' forms, which shows where the results lie.

It is the only way to learn this of code that does not run on fake tensors. The values are arbitrary: fractions within the
domain of common functions, and 0 for integers, a valid index.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from remat_planner.tracer.functions.backward_call import BackwardCall
from remat_planner.tracer.functions.call import Call, Results, in_tuple
from remat_planner.tracer.functions.context import KeptContext
from remat_planner.tracer.functions.errors import SampleError
from remat_planner.tracer.functions.forms import Place, TensorForm, UnlikePlannedError, copied, located, with_flag
from remat_planner.tracer.functions.forward_call import ForwardCall
from remat_planner.tracer.functions.token import token
from remat_planner.tracer.operators import is_collective
from remat_planner.tracer.torch_private import TorchDispatchMode, is_fake


def sample(call: Call) -> None:
    """Run ``call`` on samples and set its ``results``.

    Raises:
        SampleError: it cannot be one operator.
        Exception: what the function's own code raises.
    """
    absent = next(
        (form.device for form in call.arguments if form.device.type == "cuda" and not torch.cuda.is_available()), None
    )
    if absent is not None:
        raise SampleError(f"its form can only be learnt on {absent}, which is not at hand: plan on a machine with it")
    with _WithoutCollectives():  # type: ignore[no-untyped-call]
        try:
            if isinstance(call, ForwardCall):
                arguments = sample_arguments(call.arguments)
                kept, _ = _sample_forward(call, arguments)
                _refuse_hidden(kept, arguments)
            elif isinstance(call, BackwardCall):
                _sample_backward(call)
        except UnlikePlannedError as error:
            raise SampleError(f"it returns or keeps {error}") from None


def _refuse_hidden(kept: KeptContext, arguments: list[torch.Tensor]) -> None:
    """Refuse a ``ctx`` that keeps arguments inside of objects, where a schedule does not see them; empties ``arguments``.

    Raises:
        SampleError: it does.
    """
    seen = [weakref.ref(argument) for argument in arguments]
    arguments.clear()
    if any(reference() is not None for reference in seen):
        gc.collect()
    if any(reference() is not None for reference in seen) and kept.holds_objects:
        raise SampleError("its ctx keeps tensors inside of an object: use ctx.save_for_backward")


class _WithoutCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to communicate: other ranks would not take part in a sample."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_collective(func):
            raise SampleError(f"it communicates with other ranks ({func})")
        return func(*args, **(kwargs or {}))


def _sample_forward(call: ForwardCall, arguments: list[torch.Tensor]) -> tuple[KeptContext, list[torch.Tensor]]:
    """The ``ctx`` that the forward keeps, and its tensors in memory of their own."""
    before = [copied(argument) for argument in arguments]
    with draws_seen(arguments) as draws:
        returned, context = call.called(arguments)
    outputs = in_tuple(returned)
    kept, in_context = KeptContext.of(context)
    if not call.differentiated:
        in_context = []
    places, own = _located([*outputs, *in_context], arguments)
    n = len(outputs)
    in_own_memory = [place.index for place in places[:n] if place is not None and place.own]
    if len(in_own_memory) != len(set(in_own_memory)):
        raise SampleError("several of its results share their memory")
    call.results = Results(
        changed=_changed(before, arguments),
        own=tuple(map(TensorForm.of, own)),
        returned=tuple(places[:n]),
        draws=draws(),
        is_tuple=isinstance(returned, (tuple, list)),
        kept=tuple(place for place in places[n:] if place is not None),
        dirty=tuple(i for i, argument in enumerate(arguments) if any(argument is dirty for dirty in context.dirty_tensors)),
        not_differentiable=tuple(i for i, out in enumerate(outputs) if any(out is t for t in context.non_differentiable)),
    )
    return kept, own


def _sample_backward(call: BackwardCall) -> None:
    forward = call.forward
    arguments = sample_arguments(forward.arguments)
    kept, own = _sample_forward(forward, arguments)
    read, read_own = forward.read_in_backward
    gradients = sample_arguments(call.arguments[1 + len(read) + len(read_own) :])
    tensors = [token(kept), *(arguments[i] for i in read), *(own[i] for i in read_own), *gradients]
    before = [copied(tensor) for tensor in tensors]
    with draws_seen(tensors) as draws:
        returned = call.called(tensors)
    places, own = _located(in_tuple(returned), tensors)
    call.results = Results(_changed(before, tensors), tuple(map(TensorForm.of, own)), tuple(places), draws())
    call.sample = kept


@contextmanager
def draws_seen(tensors: Sequence[torch.Tensor]) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether random numbers were drawn inside, on the CPU or on the device of a tensor."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}

    def states() -> list[bytes]:
        return [bytes(state.numpy()) for state in (torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices))]

    before = states()
    after: list[list[bytes]] = []
    yield lambda: after[0] != before
    after.append(states())


def sample_arguments(forms: Sequence[TensorForm]) -> list[torch.Tensor]:
    """New tensors of these forms, with arbitrary values."""
    return [with_flag(_filled(form.empty()), form.requires_grad) for form in forms]


def _filled(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, a new one, with values in its whole memory."""
    memory = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
    if memory.is_complex():
        torch.view_as_real(memory).uniform_(0.25, 0.75)
    elif memory.is_floating_point():
        memory.copy_(torch.empty(memory.shape, device=memory.device).uniform_(0.25, 0.75))
    else:
        memory.zero_()
    return tensor


def _located(
    tensors: Sequence[torch.Tensor | None], arguments: Sequence[torch.Tensor]
) -> tuple[list[Place | None], list[torch.Tensor]]:
    for tensor in tensors:
        if tensor is not None and is_fake(tensor):
            raise SampleError("it reads parameters, buffers or activations that are not among its arguments")
        if tensor is not None and tensor.grad_fn is not None:
            raise SampleError("it returns or keeps a tensor with an autograd graph of its own")
        if tensor is not None and tensor.layout is not torch.strided:
            raise SampleError(f"it returns or keeps a tensor of layout {tensor.layout}")
    return located(tensors, arguments)


def _changed(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> tuple[int, ...]:
    return tuple(i for i, (old, new) in enumerate(zip(before, after, strict=True)) if not torch.equal(old, new.detach()))
