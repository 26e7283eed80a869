"""Finding a loss over classes, the linear layer before it, and what eager computes between the two, forward and backward."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower.rows import Recipe, Row, RowStep

_aten = torch.ops.aten
_LOSS, _LOSS_BACKWARD = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_LOGARITHMS = _aten._log_softmax.default
_LOGARITHMS_BACKWARD = _aten._log_softmax_backward_data.default
_ROW_BY_ROW = {_LOGARITHMS, _LOGARITHMS_BACKWARD}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default, _aten.clone.default}
"""What only arranges the rows, whose last dimension stays."""
_SLICE, _SLICE_BACKWARD = _aten.slice.Tensor, _aten.slice_backward.default
_CAST, _TURN, _PRODUCT = _aten._to_copy.default, _aten.t.default, _aten.mm.default
_LINEAR_WITH_BIAS = _aten.addmm.default
_LINEAR = (_PRODUCT, _LINEAR_WITH_BIAS)
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
        hidden: what the layer reads, rows by inputs.
        weight: inputs by classes.
        bias: of the layer; None without one.
        logits: where something else reads them too, the node that does not go; else None.
        targets: a class for each row.
        arriving: the gradient of the loss, one number.
        in_order: the nodes that make the gradients of ``hidden``, ``weight`` and ``bias``; None where there is none.
        replaced: all nodes that go.
        computing: those of them that compute something, in the order in which eager runs them.
        rows: how many there are.
        recipe: what becomes of each row.
    """

    loss: fx.Node
    total: fx.Node
    hidden: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    logits: fx.Node | None
    targets: fx.Node
    arriving: fx.Node
    in_order: tuple[fx.Node | None, fx.Node | None, fx.Node | None]
    replaced: frozenset[fx.Node]
    computing: tuple[fx.Node, ...]
    rows: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """The name of the loss's op in eager."""
        return str(self.loss.meta["name"])

    @property
    def gradients(self) -> tuple[fx.Node, ...]:
        """Those of ``in_order`` that there are."""
        return tuple(node for node in self.in_order if node is not None)


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
    recipe = _recipe(down, up, products, given=given is not None, mean=reduction == _MEAN, ignored=ignored)
    _refuse_what_is_kept(joint, inside, products)
    bias, hidden, weight = _arguments_of_linear(linear)
    arriving: Any = backward.args[0]
    rows = hidden.meta["val"].shape[0]
    if given is not None and given.meta["val"].numel() != rows * given.meta["val"].shape[-1]:
        raise NotChunkedError("the model uses its logits elsewhere too, those of some rows")
    return Head(
        loss=loss,
        total=total,
        hidden=hidden,
        weight=weight,
        bias=bias,
        logits=given,
        targets=targets,
        arriving=arriving,
        in_order=products.in_order,
        replaced=frozenset(inside),
        computing=tuple(node for node in joint.ops if node in inside and _computes(node)),
        rows=int(rows),
        recipe=recipe,
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
    while way[0].target not in _LINEAR:
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
    def in_order(self) -> tuple[fx.Node | None, fx.Node | None, fx.Node | None]:
        return self.of_hidden, self.of_weight, self.of_bias


def _products(gradient: fx.Node, linear: fx.Node) -> _Products:
    bias, hidden, weight = _arguments_of_linear(linear)
    found: dict[str, fx.Node] = {}
    nodes: list[fx.Node] = []
    for user in gradient.users:
        turn = [user] if user.target is _TURN else []
        node = next(iter(user.users)) if turn and len(user.users) == 1 else user
        if node.target is _PRODUCT and node.args == (gradient, node.args[1]) and _is_turned(node.args[1], weight):
            kind = "hidden"
        elif node.target is _PRODUCT and turn and node.args == (user, hidden):
            kind = "weight"
        elif node.target is _PRODUCT and node.args[1] is gradient and _is_turned(node.args[0], hidden):
            kind = "turned weight"
        elif node.target is _aten.sum.dim_IntList and node.args[1:] == ([0], True) and bias is not None:
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


def _recipe(
    down: Sequence[fx.Node], up: Sequence[fx.Node], products: _Products, *, given: bool, mean: bool, ignored: Any
) -> Recipe:
    steps: list[RowStep] = []
    row_of = {down[0]: Row(0)}
    cut: list[tuple[int, int]] = []
    loss = 0
    for node in (*down[1:], *up):
        if node is up[0]:
            loss = len(steps) + 1
            steps.append(RowStep(_LOSS_BACKWARD, (), (), node.meta["val"].dtype))
        elif _arranges(node):
            arguments: tuple[Any, ...] = node.args
            source = arguments[0]
            row_of[node] = row_of[source]
            if node.target is _SLICE:
                cut.append(_cut(arguments[1:], source.meta["val"].shape))
            if node.target is _SLICE_BACKWARD and cut != [_cut(arguments[2:], arguments[1])]:
                raise NotChunkedError("it takes some rows of the logits in a way that is not known")
            continue
        else:
            if any(source not in row_of for source in node.all_input_nodes):
                raise NotChunkedError("the model uses its logits elsewhere too, and their gradient needs what lies before them")
            steps.append(_row_step(node, row_of))
        row_of[node] = Row(len(steps))
    if any(dtype == torch.float16 for dtype in (down[0].meta["val"].dtype, *(step.dtype for step in steps))):
        raise NotChunkedError(
            "its gradients are float16, and small ones would vanish before a gradient scaler enlarges them: train in bfloat16"
        )
    if len(cut) > 1:
        raise NotChunkedError("it takes some rows of the logits, and of these some again")
    return Recipe(
        logits=down[0].meta["val"].dtype,
        given=given,
        steps=tuple(steps),
        loss=loss,
        mean=mean,
        ignored=ignored,
        cut=cut[0] if cut else (0, 0),
        of_hidden=products.of_hidden is not None,
        of_weight=products.of_weight is not None,
        of_bias=products.of_bias is not None,
        turned=products.turned,
    )


def _row_step(node: fx.Node, row_of: Mapping[fx.Node, Row]) -> RowStep:
    args = fx.node.map_arg(node.args, row_of.__getitem__)
    kwargs = {"dtype": node.kwargs["dtype"]} if node.target is _CAST else dict(node.kwargs)
    return RowStep(node.target, tuple(args), tuple(kwargs.items()), node.meta["val"].dtype)


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
    if kept & (set(inside) - set(products.in_order)) or any(node.meta["pinned"] for node in inside):
        raise NotChunkedError("a gradient that the step returns is computed inside of it, or an operator that must run once")


def _arguments_of_linear(linear: fx.Node) -> tuple[fx.Node | None, fx.Node, fx.Node]:
    """Bias, inputs and weight."""
    arguments = linear.args if linear.target is _LINEAR_WITH_BIAS else (None, *linear.args)
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
    if target is _CAST:
        source: Any = node.args[0]
        return node.kwargs.get("dtype") is not None and source.meta["val"].device == node.meta["val"].device
    return target in _ROW_BY_ROW or (torch.Tag.pointwise in target.tags and not target._schema.is_mutable)


def _computes(node: fx.Node) -> bool:
    return not (_arranges(node) or node.target in (_TURN, operator.getitem))
