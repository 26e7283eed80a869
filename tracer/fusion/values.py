"""The values of a joint graph, without its views.

A view is free, takes no memory and is taken again wherever it is read, so a reader of a view counts as a reader of its base.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.fusion.layouts import is_converted, runs_channels_last
from remat_planner.tracer.torch_inductor import OperatorKind, kind_of, operations, storage_key, weighs


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor that the step computes, or is given.

    Attributes:
        name: of the node in the joint graph.
        operator: its name; "" for what is given.
        kind: how it comes about; "given" for parameters, inputs and incoming gradients; "part" for one of several results;
            "copy" for a given tensor in the layout that a convolution wants, which inductor makes and nobody can save.
        reads: the values that its operator reads, as indices, each once.
        bytes: of its memory; 0 for an operator of several results, whose parts have them.
        elements: iterations of the loop that computes it: those of a reduction's input.
        rows: results of a reduction; 0 for anything else.
        weight: arithmetic of an iteration, in additions.
        seconds: of a kernel of its own; 0 for what is fused.
        workspace: bytes that a kernel of its own allocates beside its results while it runs.
        parts: for each of ``reads`` the numbers of the parts of it that the operator reads, 0 for the whole; every slice has a
            number of its own. Empty where all are read as a whole.
        reorders: whether it is a copy with its elements in another order.
        down: whether it is a reduction over dimensions that come before others, as the sum of rows that is a bias' gradient.
        operations: of an iteration, as inductor counts them to decide what it computes several times.
        repeatable: whether the backward may compute it again.
        narrow: elements of one byte each, which a loop on a CPU reads and writes slowly; 0 for wider ones.
    """

    name: str
    operator: str
    kind: OperatorKind | str
    reads: tuple[int, ...]
    bytes: int
    elements: int
    rows: int
    weight: float
    seconds: float
    repeatable: bool
    narrow: int = 0
    workspace: int = 0
    parts: tuple[tuple[int, ...], ...] = ()
    operations: int = 1
    reorders: bool = False
    down: bool = False


@dataclass(frozen=True, slots=True)
class KernelCost:
    """Attributes:
    seconds: of a kernel of its own.
    workspace: bytes that it allocates beside its results while it runs.
    """

    seconds: float
    workspace: int = 0


@dataclass(frozen=True)
class Values:
    """The values of a joint graph in its order.

    Attributes:
        values: each once.
        index_of: for the name of every node the value that it is or, for a view, its base.
        forward: whether the value depends on no incoming gradient.
        forward_results: what the forward returns to its caller.
        backward_results: the gradients.
    """

    values: tuple[Value, ...]
    index_of: Mapping[str, int]
    forward: tuple[bool, ...]
    forward_results: frozenset[int]
    backward_results: frozenset[int]


_FUSED = KernelCost(0.0)


def values_of(
    graph: fx.Graph,
    forward_results: int,
    overwritten: Collection[fx.Node],
    kernel_costs: Callable[[Sequence[fx.Node]], Mapping[fx.Node, KernelCost]],
) -> Values:
    """Read the joint ``graph``, whose first ``forward_results`` results are those of the forward.

    Args:
        graph: of the operators that inductor gets.
        forward_results: their number.
        overwritten: placeholders that the caller of the forward overwrites after it, such as running statistics.
        kernel_costs: the costs of the operators that run as kernels of their own.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    results: Any = graph.output_node().args[0]
    flat = [node if isinstance(node, fx.Node) else None for node in results]
    kinds = {node: _kind(node) for node in nodes}
    for node in nodes:  # a part of several views is a view
        if node.target is operator.getitem:
            kinds[node] = "view" if kinds[node.args[0]] == "view" else "part"
    costs = kernel_costs([node for node in nodes if kinds[node] == "kernel" and isinstance(node.target, torch._ops.OpOverload)])
    changed = _sharing_memory(graph, overwritten)
    products = {node: product for node in nodes if (product := product_added(node)) is not None}
    added = set(products.values())
    images: set[int] = set()
    reads_of: dict[fx.Node, tuple[int, ...]] = {}
    part_of: dict[fx.Node, int] = {}
    values: list[Value] = []
    index_of: dict[fx.Node, int] = {}
    depends: list[bool] = []
    for node in nodes:
        found = (r for argument in node.all_input_nodes for r in reads_of.get(argument, (index_of.get(argument, -1),)))
        reads = tuple(dict.fromkeys(r for r in found if r >= 0))
        if node in added:
            reads_of[node] = reads
            continue
        product = products.get(node)
        kind, cost = (kinds[node], costs.get(node, _FUSED)) if product is None else ("kernel", costs.get(product, _FUSED))
        if kinds[node] == "view" and reads:
            viewed = node.all_input_nodes[0]
            index_of[node] = index_of[viewed]
            part_of[node] = part_of.get(viewed, 0) if _elements(node) >= _elements(viewed) > 0 else len(part_of) + 1
            continue
        if runs_channels_last(node):
            for r in [r for r in reads if r in images]:
                values.append(_copy(values[r], r))
                depends.append(depends[r])
                reads = tuple(len(values) - 1 if read == r else read for read in reads)
        index_of[node] = len(values)
        depends.append(_is_tangent(node) or any(depends[k] for k in reads))
        images.update([len(values)] if is_converted(node) else ())
        parts = tuple(
            tuple({part_of.get(a, 0): 0 for a in node.all_input_nodes if index_of.get(a) == r}) or (0,) for r in reads
        )
        values.append(_value(node, kind, reads, parts, cost, values, changed))
    return Values(
        values=tuple(values),
        index_of={node.name: v for node, v in index_of.items()},
        forward=tuple(not late for late in depends),
        forward_results=frozenset(index_of[node] for node in flat[:forward_results] if node is not None),
        backward_results=frozenset(index_of[node] for node in flat[forward_results:] if node is not None),
    )


def _copy(value: Value, of: int) -> Value:
    return replace(value, operator="copy", kind="copy", reads=(of,), weight=1.0, repeatable=True)


def _kind(node: fx.Node) -> str:
    if node.op != "call_function":
        return "given"
    if node.target is operator.getitem:
        return "part"
    kind = "reduction" if _is_small_product(node) else kind_of(node.target)
    several = not isinstance(node.meta.get("val"), torch.Tensor)
    return "loop" if kind == "pointwise" and several else kind


def _is_small_product(node: fx.Node) -> bool:
    """Whether ``node`` multiplies matrices with vectors in a batch: on a CPU inductor makes a loop of that (``tuned_bmm``)."""
    if node.target is not torch.ops.aten.bmm.default:
        return False
    result = node.meta["val"]
    return result.device.type == "cpu" and 1 in result.shape[1:]


def product_added(node: fx.Node) -> fx.Node | None:
    """The matrix product that ``node`` adds something to and nothing else reads: on a CPU inductor makes one kernel of both."""
    if node.target is not torch.ops.aten.add.Tensor or len(node.all_input_nodes) != 2 or node.kwargs:
        return None
    for k in (0, 1):
        product, other = node.args[k], node.args[1 - k]
        if (
            isinstance(product, fx.Node)
            and isinstance(other, fx.Node)
            and product.target is torch.ops.aten.mm.default
            and len(product.users) == 1
            and product.meta["val"].device.type == "cpu"
            and product.meta["val"].shape == node.meta["val"].shape
        ):
            return product
    return None


def _is_tangent(node: fx.Node) -> bool:
    return node.op == "placeholder" and "tangents" in str(node.target)


def _value(
    node: fx.Node,
    kind: str,
    reads: tuple[int, ...],
    parts: tuple[tuple[int, ...], ...],
    cost: KernelCost,
    values: list[Value],
    overwritten: set[fx.Node],
) -> Value:
    tensor = node.meta.get("val")
    elements = _elements(node)
    rows = 0
    if kind == "reduction":
        rows = elements or 1
        elements = max((_elements(argument) for argument in node.all_input_nodes), default=0)
    return Value(
        name=node.name,
        operator=str(node.target) if node.op == "call_function" else "",
        kind=kind,
        reads=reads,
        bytes=_bytes(tensor) if isinstance(tensor, torch.Tensor) else 0,
        elements=elements,
        rows=rows,
        weight=weighs(node.target) if node.op == "call_function" else 0.0,
        seconds=cost.seconds,
        workspace=cost.workspace,
        parts=parts,
        operations=operations(node) if node.op == "call_function" else 0,
        reorders=_reorders(node),
        down=kind == "reduction" and _reduces_down(node),
        repeatable=_is_repeatable(node, overwritten) and (kind != "part" or values[reads[0]].repeatable),
        narrow=_elements(node) if isinstance(tensor, torch.Tensor) and tensor.itemsize == 1 else 0,
    )


def _reorders(node: fx.Node) -> bool:
    if node.target is not torch.ops.aten.clone.default:
        return False
    source, result = node.all_input_nodes[0].meta["val"], node.meta["val"]
    return not source.is_contiguous() and result.is_contiguous()


def _reduces_down(node: fx.Node) -> bool:
    """Whether a dimension that stays comes after one that is reduced."""
    dims: Any = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or not dims or not all(isinstance(dim, int) for dim in dims):
        return False
    shape = node.all_input_nodes[0].meta["val"].shape
    reduced = {dim % len(shape) for dim in dims if shape}
    long = [dim for dim, size in enumerate(shape) if size > 1]
    first = next((k for k, dim in enumerate(long) if dim in reduced), len(long))
    return any(dim not in reduced for dim in long[first:])


def _elements(node: fx.Node) -> int:
    tensor = node.meta.get("val")
    return math.prod(tensor.shape) if isinstance(tensor, torch.Tensor) else 0


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of its memory as a result of an operator: those that its strides span."""
    if 0 in tensor.shape:
        return 0
    return (1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))) * tensor.itemsize


def _is_repeatable(node: fx.Node, overwritten: set[fx.Node]) -> bool:
    """Whether a second execution computes the same: no draw from a generator, no collective, nothing overwritten meanwhile."""
    if node.op != "call_function":
        return False
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or not target._schema.returns:
        return False
    if torch.Tag.nondeterministic_seeded in target.tags or target.namespace not in ("aten", "prims"):
        return False
    return not any(argument in overwritten for argument in node.all_input_nodes)


def _sharing_memory(graph: fx.Graph, overwritten: Collection[fx.Node]) -> set[fx.Node]:
    """What shares memory with ``overwritten``, or with what an operator of the graph overwrites."""
    written = {
        argument
        for node in graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for argument in node.all_input_nodes[:1]
    }
    tensors = {node: node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    keys = {storage_key(tensors[node]) for node in {*written, *overwritten} if node in tensors}
    return {node for node, tensor in tensors.items() if storage_key(tensor) in keys}
