"""In-place operators on tensors with gaps, and on complex tensors, as pure functions with eager's bits.

Out of place, ``sigmoid`` of a slice makes a dense tensor; in place, the kernel walks over the slice as it lies in memory. A
vectorised kernel then takes other paths at the row ends, and its exponentials differ in the last bits. So where eager writes in
place to a tensor that is not dense, the pure form copies it into fresh memory with the same layout and runs the in-place
operator there: rows of the same length, separated like eager's, though the gaps need not be as wide. Complex numbers are
divided and multiplied by other instructions in place than out of place, so all of their in-place operators take this form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import is_dense
from remat_planner.tracer.operators import (
    OpCall,
    OperatorFacts,
    TensorSpec,
    Values,
    facts_of,
    graph_function,
    with_facts,
)
from remat_planner.tracer.torch_private import FakeTensorMode

aten = torch.ops.aten
_MARK = "in_place"

# Exactly rounded on every path, and by far the most common on slices: their functional forms have eager's bits.
_EXACT = {"add_", "sub_", "mul_", "div_", "neg_", "abs_", "relu_", "masked_fill_", "clamp_", "clamp_min_", "clamp_max_"}
# Of these a complex one rounds, in place by another sequence of operations.
_ROUND_COMPLEX = {"mul_", "div_"}
# These only move values.
_MOVES = {"copy_", "fill_", "zero_", "set_", "resize_", "detach_", "requires_grad_"}
# Bytes of the widest vector and of a cache line: vectorised code may depend on where in a line a row starts.
_ALIGNMENT = 64


def mark_in_place(written: fx.Node, functional_nodes: Sequence[fx.Node]) -> None:
    """Note eager's layout on the functional form of ``written``, which is among ``functional_nodes``."""
    target = written.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return
    if not isinstance(written.args[0], fx.Node):
        return
    name = target._overloadpacket.__name__
    tensor = written.args[0].meta.get("val")
    if not name.endswith("_") or name in _MOVES or not isinstance(tensor, torch.Tensor):
        return
    rounds = tensor.is_complex() and name not in _EXACT - _ROUND_COMPLEX
    if is_dense(tensor) and not rounds and pure_form_of_permuted(target, tensor) is None:
        return
    if name in _EXACT and not rounds and _is_view(written.args[0]):
        return  # its base keeps the layout for later readers
    functional = (target._schema.name.removesuffix("_"), target._overloadname)
    for node in functional_nodes:
        form = node.target
        if isinstance(form, torch._ops.OpOverload) and (form._schema.name, form._overloadname) == functional:
            node.meta[_MARK] = (target, tuple(tensor.size()), with_narrow_gaps(tensor, target))


def pure_form_of_permuted(target: Any, tensor: Any) -> torch._ops.OpOverload | None:
    """The out-of-place form of an in-place operator that may lay out its result otherwise than ``tensor``, to which it writes.

    Elementwise operators follow the layout of a permuted tensor without gaps; others (``cumsum``, ``index_add``) need not, and
    what reads the result then sums it in another order.
    """
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable or not isinstance(tensor, torch.Tensor):
        return None
    name = target._overloadpacket.__name__
    if not name.endswith("_") or name in _MOVES or torch.Tag.pointwise in target.tags:
        return None
    if tensor.layout is not torch.strided or tensor.is_contiguous() or not is_dense(tensor):
        return None
    packet = getattr(getattr(torch.ops, target.namespace), name.removesuffix("_"), None)
    form: torch._ops.OpOverload | None = getattr(packet, target._overloadname, None)
    return form


def run_in_place_layouts(graph: fx.Graph, mode: FakeTensorMode) -> list[fx.Node]:
    """Replace the marked nodes of ``graph``, and return them: the fakes of their readers are stale."""
    marked = [node for node in graph.nodes if _MARK in node.meta]
    for node in marked:
        target, size, stride = node.meta.pop(_MARK)
        dtype = node.args[0].meta["val"].dtype
        node.target = in_layout(target)
        node.args = (node.args[0], size, stride, *node.args[1:])
        with mode:
            node.meta["val"] = torch.empty_strided(size, stride, dtype=dtype, device=node.meta["val"].device)
    return marked


@cache
def in_layout(operator: torch._ops.OpOverload) -> Callable[..., torch.Tensor]:
    """The pure form of an in-place operator: ``f(source, size, stride, *args)``; ``stride`` in elements."""
    name = f"{operator._overloadpacket.__name__}in_layout"

    def sample_inputs(call: OpCall) -> dict[str | TensorSpec, Values]:
        """Those that the operator itself needs."""
        source, _, _, *args = call.args
        itself = replace(call, target=operator, args=(source, *args))
        rule = facts_of(operator).sample_inputs
        needed = {} if rule is None else rule(itself)
        return {itself.argument(key) if isinstance(key, str) else key: values for key, values in needed.items()}

    @with_facts(OperatorFacts(sample_inputs=sample_inputs))
    @graph_function(f"tracer.in_place_layouts.{name}")
    def run(source: torch.Tensor, size: Sequence[int], stride: Sequence[int], *args: Any, **kwargs: Any) -> torch.Tensor:
        laid_out = torch.empty_strided(size, stride, dtype=source.dtype, device=source.device).copy_(source)
        return operator(laid_out, *args, **kwargs)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"``{operator}`` on a copy of ``source`` laid out by ``stride``."
    return run


def with_narrow_gaps(tensor: torch.Tensor, operator: torch._ops.OpOverload) -> tuple[int, ...]:
    """Strides (elements) in less memory for which an elementwise operator takes the same path as for those of ``tensor``.

    Dimensions keep their order, gaps stay gaps, and rows start at the same place in a cache line.
    """
    if torch.Tag.pointwise not in operator.tags:
        return tensor.stride()
    line = max(1, _ALIGNMENT // tensor.itemsize)
    narrow, end, old_end = list(tensor.stride()), 1, 1
    for stride, size, dim in sorted(zip(tensor.stride(), tensor.size(), range(tensor.dim()), strict=True)):
        if size == 1:
            continue
        if stride < old_end:  # the elements of two dimensions interleave
            return tensor.stride()
        gap = 0 if stride == old_end else 1 + (stride - end - 1) % line
        narrow[dim] = end + gap
        end, old_end = narrow[dim] * size, stride * size
    return tuple(narrow)


def _is_view(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(r.alias_info is not None for r in target._schema.returns)
