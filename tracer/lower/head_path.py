"""Finding a loss over classes, the linear layer before it, and what eager computes between the two, forward and backward."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower.row_program import PRODUCT, PRODUCT_AND_BIAS, PRODUCTS, RowProgram
from remat_planner.tracer.lower.row_writer import CAST, RowWriter

_aten = torch.ops.aten
_LOSS, _LOSS_BACKWARD = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_LOGARITHMS = _aten._log_softmax.default
_LOGARITHMS_BACKWARD = _aten._log_softmax_backward_data.default
_ROW_BY_ROW = {_LOGARITHMS, _LOGARITHMS_BACKWARD}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default, _aten.clone.default}
"""What only arranges the rows, whose last dimension stays."""
_SLICE, _SLICE_BACKWARD = _aten.slice.Tensor, _aten.slice_backward.default
_TURN, _BIAS_SUM = _aten.t.default, _aten.sum.dim_IntList
_MEAN, _SUM = 1, 2
"""Reductions."""
_ROWS_BY_CLASSES, _SEQUENCES = 2, 3
"""Dimensions of the logits."""


class NotChunkedError(Exception):
    """The head stays whole; the message says why."""


@dataclass(frozen=True, eq=False)
class Head:
    """A loss over classes, from the inputs of its linear layer to their gradients.

    Attributes:
        loss: the node of the loss, of which ``total`` is the result.
        inputs: the nodes whose rows are read: the layer's inputs and, where something else reads them too, the logits.
        wholes: those that all rows read: the layer's weight, inputs by classes, its bias, and the targets.
        arriving: the gradient of the loss, one number.
        gradients: the nodes that make those of the layer's inputs, weight and bias, where there are any.
        replaced: all nodes that go.
        computing: those of them that compute something, in the order in which eager runs them.
        program: what becomes of each row; its results are the loss and, for a gradient of 1 that arrives, ``gradients``.
    """

    loss: fx.Node
    total: fx.Node
    inputs: tuple[fx.Node, ...]
    wholes: tuple[fx.Node, ...]
    arriving: fx.Node
    gradients: tuple[fx.Node, ...]
    replaced: frozenset[fx.Node]
    computing: tuple[fx.Node, ...]
    program: RowProgram

    @property
    def name(self) -> str:
        """The name of the loss's op in eager."""
        return str(self.loss.meta["name"])


def is_loss(node: fx.Node) -> bool:
    """Whether ``node`` is a loss over classes."""
    return node.target in (_LOSS, _aten.nll_loss2d_forward.default) and not node.meta["in_backward"]


def found_at(loss: fx.Node, joint: Joint) -> Head:
    """The head of ``loss``.

    Raises:
        NotChunkedError: it cannot be computed in chunks.
    """
    arguments: tuple[Any, ...] = loss.args
    log_probabilities, targets, weights, reduction, ignored = arguments
    if loss.target is not _LOSS:
        raise NotChunkedError("it reads classes in another dimension than the last: give it rows by classes")
    if weights is not None:
        raise NotChunkedError("its classes have weights")
    if reduction not in (_MEAN, _SUM):
        raise NotChunkedError("it is a loss for each row, not their mean or sum")
    total, count, backward = _around(loss)
    readers = {user.target for user in log_probabilities.users} - {_LOSS, _LOSS_BACKWARD, _LOGARITHMS_BACKWARD}
    if readers:
        raise NotChunkedError("the model uses the logarithms of its probabilities elsewhere too")
    down = _way_down(log_probabilities)
    linear = down[0]
    up = _way_up(backward, set(down))
    products = _products(up[-1], linear)
    inside = {*down, *up, loss, total, *count, *products.all}
    given = next((node for node in reversed(down) if not set(node.users) <= inside), None)
    if given is not None:
        inside -= set(down[: down.index(given) + 1])
        down = down[down.index(given) :]
    _refuse_what_is_kept(joint, inside, products)
    _refuse_lost_precision((*down, *up))
    _, hidden, _ = _arguments_of_linear(linear)
    if given is not None and given.meta["val"].numel() != hidden.meta["val"].shape[0] * given.meta["val"].shape[-1]:
        raise NotChunkedError("the model uses its logits elsewhere too, those of some rows")
    writer = RowWriter()
    gradient = _write_way(writer, down, up, {"mean": reduction == _MEAN, "ignored": ignored}, targets, given=given is not None)
    _write_products(writer, products, linear, gradient)
    arriving: Any = backward.args[0]
    return Head(
        loss=loss,
        total=total,
        inputs=tuple(writer.inputs),
        wholes=tuple(writer.wholes),
        arriving=arriving,
        gradients=products.found,
        replaced=frozenset(inside),
        computing=tuple(node for node in joint.ops if node in inside and _computes(node)),
        program=writer.program(),
    )


def _around(loss: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...], fx.Node]:
    """The results of the loss: itself, the number of rows that count (nodes), and the loss's backward."""
    results = {user.args[1]: user for user in loss.users}
    count = (results[1],) if 1 in results else ()
    backwards = [user for node in count for user in node.users]
    if 0 not in results or len(results) < len(loss.users) or [user.target for user in backwards] != [_LOSS_BACKWARD]:
        raise NotChunkedError("it has no gradient, or several")
    return results[0], count, backwards[0]


def _way_down(log_probabilities: Any) -> list[fx.Node]:
    """From the linear layer to the logarithms of probabilities, in order."""
    classes = log_probabilities.meta["val"].shape[-1]
    way = [log_probabilities]
    if log_probabilities.target is not _LOGARITHMS or log_probabilities.meta["val"].dim() != _ROWS_BY_CLASSES:
        raise NotChunkedError("what it reads is no log_softmax of rows by classes")
    while way[0].target not in PRODUCTS:
        node, inputs = way[0], way[0].all_input_nodes
        if len(inputs) != 1 or node.meta["val"].shape[-1] != classes or not (_arranges(node) or is_row_by_row(node)):
            raise NotChunkedError(f"{node.meta.get('name', node.name)} stands between a linear layer and the loss")
        way.insert(0, inputs[0])
    return way


def _way_up(backward: fx.Node, down: Collection[fx.Node]) -> list[fx.Node]:
    """From the loss's backward to the gradient of the logits, in order."""
    way = [backward]
    while len(way[-1].users) == 1:
        node = next(iter(way[-1].users))
        if not (_arranges(node) or is_row_by_row(node)) or not set(node.all_input_nodes) <= {way[-1], *down}:
            break
        way.append(node)
    return way


@dataclass(frozen=True)
class _Products:
    """The nodes that make the gradients of the layer's inputs, weight and bias, and all nodes behind the logits' gradient."""

    of_hidden: fx.Node | None
    of_weight: fx.Node | None
    of_bias: fx.Node | None
    turned: bool
    all: tuple[fx.Node, ...]

    @property
    def found(self) -> tuple[fx.Node, ...]:
        return tuple(node for node in (self.of_hidden, self.of_weight, self.of_bias) if node is not None)


def _products(gradient: fx.Node, linear: fx.Node) -> _Products:
    bias, hidden, weight = _arguments_of_linear(linear)
    found: dict[str, fx.Node] = {}
    nodes: list[fx.Node] = []
    for user in gradient.users:
        turn = [user] if user.target is _TURN else []
        node = next(iter(user.users)) if turn and len(user.users) == 1 else user
        if node.target is PRODUCT and node.args == (gradient, node.args[1]) and _is_turned(node.args[1], weight):
            kind = "hidden"
        elif node.target is PRODUCT and turn and node.args == (user, hidden):
            kind = "weight"
        elif node.target is PRODUCT and node.args[1] is gradient and _is_turned(node.args[0], hidden):
            kind = "turned weight"
        elif node.target is _BIAS_SUM and node.args[1:] == ([0], True) and bias is not None:
            kind = "bias"
        else:
            raise NotChunkedError(f"{node.meta.get('name', node.name)} reads the gradient of the logits")
        if kind in found:
            raise NotChunkedError(f"{node.meta['name']} and {found[kind].meta['name']} compute the same gradient")
        found[kind] = node
        nodes += [*turn, node]
    if not found or {"weight", "turned weight"} <= found.keys():
        raise NotChunkedError("no product reads the gradient of the logits")
    of_weight = found.get("weight", found.get("turned weight"))
    return _Products(found.get("hidden"), of_weight, found.get("bias"), "turned weight" in found, tuple(nodes))


def _write_way(
    writer: RowWriter, down: Sequence[fx.Node], up: Sequence[fx.Node], loss: dict[str, Any], targets: fx.Node, *, given: bool
) -> fx.Node:
    """Write what becomes of each row from the logits to their gradient, and return the node of the latter.

    Args:
        loss: its options, but for what is cut.
        given: the logits are there already, and stay.
    """
    first = down[0]
    if not given:
        bias, hidden, weight = _arguments_of_linear(first)
        before = () if bias is None else (writer.whole(bias),)
        writer.add("step", first, (*before, hidden, writer.whole(weight)))
    cuts = [_cut(node.args[1:], node.args[0].meta["val"].shape) for node in down[1:] if node.target is _SLICE]  # type: ignore[union-attr]
    if len(cuts) > 1:
        raise NotChunkedError("it takes some rows of the logits, and of these some again")
    rows_of = {first: first}
    for node in (*down[1:], *up):
        if node is up[0]:
            log_probabilities = rows_of[down[-1]]
            writer.add("loss", node, (log_probabilities, writer.whole(targets)), loss | {"cut": cuts[0] if cuts else (0, 0)})
        elif _arranges(node):
            arguments: tuple[Any, ...] = node.args
            rows_of[node] = rows_of[arguments[0]]
            if node.target is _SLICE_BACKWARD and cuts != [_cut(arguments[2:], arguments[1])]:
                raise NotChunkedError("it takes some rows of the logits in a way that is not known")
            continue
        else:
            if any(source not in rows_of for source in node.all_input_nodes):
                raise NotChunkedError("the model uses its logits elsewhere too, and their gradient needs what lies before them")
            writer.add("step", node, tuple(fx.node.map_arg(node.args, rows_of.__getitem__)))
        rows_of[node] = node
    return rows_of[up[-1]]


def _write_products(writer: RowWriter, products: _Products, linear: fx.Node, gradient: fx.Node) -> None:
    """Write what makes the gradients of the layer's inputs, weight and bias from that of its logits."""
    _, hidden, weight = _arguments_of_linear(linear)
    if products.of_hidden is not None:
        writer.add("rows", products.of_hidden, (gradient, writer.whole(weight, turned=True)))
    if products.of_weight is not None:
        writer.add("product", products.of_weight, (hidden, gradient) if products.turned else (gradient, hidden))
    if products.of_bias is not None:
        writer.add("sum", products.of_bias, (gradient,), {})


def _refuse_lost_precision(way: Collection[fx.Node]) -> None:
    if any(node.meta["val"].dtype == torch.float16 for node in way):
        raise NotChunkedError(
            "its gradients are float16, and small ones would vanish before a gradient scaler enlarges them: train in bfloat16"
        )


def _cut(arguments: Sequence[Any], shape: Sequence[Any]) -> tuple[int, int]:
    """Rows at the beginning and the end of each sequence that a slice leaves out; its arguments after the first."""
    dim, begin, end = (*arguments[:3], None)[:3]
    length = shape[1]
    after = -end if isinstance(end, int) and end < 0 else max(0, length - end) if end is not None else 0
    if dim != 1 or len(shape) != _SEQUENCES or not all(isinstance(n, int) and n >= 0 for n in (begin or 0, after)):
        raise NotChunkedError("it takes some rows of the logits in a way that is not known")
    return begin or 0, after


def _refuse_what_is_kept(joint: Joint, inside: Collection[fx.Node], products: _Products) -> None:
    kept = {node for g in joint.gradients for node in (g.node, *g.contributions, *g.sums) if node is not None}
    if kept & (set(inside) - set(products.found)) or any(node.meta["pinned"] for node in inside):
        raise NotChunkedError("a gradient that the step returns is computed inside of it, or an operator that must run once")


def _arguments_of_linear(linear: fx.Node) -> tuple[fx.Node | None, fx.Node, fx.Node]:
    """Bias, inputs and weight."""
    arguments = linear.args if linear.target is PRODUCT_AND_BIAS else (None, *linear.args)
    bias, hidden, weight = arguments
    if linear.kwargs or not isinstance(hidden, fx.Node) or not isinstance(weight, fx.Node) or bias is weight:
        raise NotChunkedError(f"{linear.meta['name']} is no linear layer")
    assert bias is None or isinstance(bias, fx.Node)
    return bias, hidden, weight


def _is_turned(node: Any, of: fx.Node) -> bool:
    """Whether ``node`` is ``of`` with its two dimensions exchanged."""
    return isinstance(node, fx.Node) and any(a.target is _TURN and a.args == (b,) for a, b in ((node, of), (of, node)))


def _arranges(node: fx.Node) -> bool:
    """Whether ``node`` only arranges the rows."""
    if node.target in (_SLICE, _SLICE_BACKWARD):
        return True
    source: Any = node.args[0] if node.args else None
    return node.target in _VIEWS and source.meta["val"].shape[-1] == node.meta["val"].shape[-1]


def is_row_by_row(node: fx.Node) -> bool:
    """Whether ``node`` treats each row by itself."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload) or node.meta["random"]:
        return False
    if target is CAST:
        source: Any = node.args[0]
        return node.kwargs.get("dtype") is not None and source.meta["val"].device == node.meta["val"].device
    return target in _ROW_BY_ROW or (torch.Tag.pointwise in target.tags and not target._schema.is_mutable)


def _computes(node: fx.Node) -> bool:
    return not (_arranges(node) or node.target in (_TURN, operator.getitem))
