"""Which operators can leave their result in the memory of an argument, with the same bits, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.costs import same_bits_in_parts
from remat_planner.tracer.joint import is_dense, operator_name, tensors_of
from remat_planner.tracer.operators import is_random
from remat_planner.tracer.torch_kernel_table import has_kernel
from remat_planner.tracer.torch_private import storage_key

PREVIOUS = ...
"""Stands among the arguments of an operator for the tensor that it writes over."""

TOGETHER = "+"
"""Between the names of ops that run as one, in the name of that one."""

_ROW_BY_ROW = {
    "_softmax",
    "_log_softmax",
    "_softmax_backward_data",
    "_log_softmax_backward_data",
    "hardtanh_backward",
    "leaky_relu_backward",
    "elu_backward",
}
"""Operators besides those that PyTorch tags as pointwise that read each row, or element, before they write it."""

Step = Callable[[torch.Tensor, Sequence[Any], dict[str, Any]], torch.Tensor]
"""``step(previous, args, kwargs)``, with ``PREVIOUS`` among the args."""


@cache
def written_over(target: Any) -> Step | None:
    """Runs ``target`` so that its result takes the place of the previous one; None where it cannot."""
    if not isinstance(target, torch._ops.OpOverload) or is_random(target, (), {}):
        return None
    if torch.Tag.pointwise not in target.tags and operator_name(target) not in _ROW_BY_ROW:
        return None
    out = out_form(target)
    if out is not None:
        form, name = out
        return lambda value, args, kwargs: form(*with_previous(args, value), **kwargs, **{name: value})
    in_place = getattr(getattr(torch.ops.aten, operator_name(target) + "_", None), target._overloadname, None)
    if in_place is None:
        return None
    return lambda value, args, kwargs: in_place(*with_previous(args, value), **kwargs)


@cache
def out_form(target: Any) -> tuple[Callable[..., torch.Tensor], str] | None:
    """The overload of ``target`` whose kernel writes into a tensor that is given, and the name of that argument."""
    packet = target.overloadpacket
    names = [argument.name for argument in target._schema.arguments]
    for overload in packet.overloads():
        schema = getattr(packet, overload)._schema
        outs = [argument.name for argument in schema.arguments if argument.is_out]
        same = [argument.name for argument in schema.arguments if not argument.is_out] == names
        types = [str(a.type) for a in schema.arguments if not a.is_out] == [str(a.type) for a in target._schema.arguments]
        if len(outs) == 1 and same and types and has_kernel(f"{packet._qualified_op_name}.{overload}"):
            return getattr(packet, overload), outs[0]
    return None


def with_previous(args: Sequence[Any], value: torch.Tensor) -> Iterator[Any]:
    return (value if argument is PREVIOUS else argument for argument in args)


def place_written_over(node: fx.Node, previous: fx.Node) -> int | None:
    """The position of the argument ``previous`` of ``node``, if the result can take its memory; else None.

    That nothing else reads ``previous`` is for the caller to see to.
    """
    meta = node.meta
    if not _is_atens(node) or adds_gradients(node) or meta["pinned"] is not None or meta["random"]:
        return None
    places = [k for k, argument in enumerate(node.args) if argument is previous]
    if "factor" in meta or len(places) != 1 or written_over(node.target) is None or (places[0] and not out_form(node.target)):
        return None
    one, other = previous.meta["val"], meta["val"]
    fits = (
        isinstance(other, torch.Tensor)
        and (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        and one.untyped_storage().nbytes() == other.untyped_storage().nbytes() == other.nbytes
        and not any(t.is_conj() or t.is_neg() for t in (one, other))
    )
    return places[0] if fits else None


def has_same_bits_written_over(node: fx.Node, place: int) -> bool:
    """Whether ``node`` has the same bits where it writes over its argument at ``place``, on this device, which runs it.

    Raises:
        tracer.costs.DeviceNotAtHandError: its device is not here.
    """
    step = written_over(node.target)
    assert step is not None

    def in_place(*args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        rest = [PREVIOUS if k == place else argument for k, argument in enumerate(args)]
        return (step(args[place].clone(), rest, kwargs),)

    return same_bits_in_parts(node, f"over argument {place}", in_place)


def is_fresh(first: fx.Node, made: fx.Node) -> bool:
    """Whether ``first`` allocates the tensor ``made``, itself or its first element, for itself alone."""
    value = made.meta["val"]
    if not isinstance(value, torch.Tensor) or not is_dense(value):
        return False
    key = storage_key(value)
    others = [tensor for argument in first.all_input_nodes for tensor in tensors_of(argument)]
    others += [] if made is first else tensors_of(first)[1:]
    return value.untyped_storage().nbytes() == value.nbytes and all(storage_key(other) != key for other in others)


def adds_gradients(node: fx.Node) -> bool:
    """Whether the addition may be autograd's own: where a term does not arrive, the other one passes through."""
    return node.target is torch.ops.aten.add.Tensor and bool(node.meta["in_backward"])


def is_view(node: fx.Node) -> bool:
    """Whether the node's operator returns views of its arguments, and writes nothing."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    returns = target._schema.returns
    return bool(returns) and all(result.alias_info is not None for result in returns)


def _is_atens(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
