"""Backwards between two linear layers in chunks of rows (``row_program``): where there are any, and the step with them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import Joint, rewritten
from remat_planner.tracer.lower.head_path import is_row_by_row
from remat_planner.tracer.lower.row_chunks import in_row_chunks
from remat_planner.tracer.lower.row_program import PRODUCT, PRODUCTS, RowProgram, Whole
from remat_planner.tracer.lower.row_writer import CAST, RowWriter

_aten = torch.ops.aten
_TURN, _SUM, _ADD = _aten.t.default, _aten.sum.dim_IntList, _aten.add.Tensor
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)
_TWO = 2


class _NoRowsError(Exception):
    """What follows a product of the backward is not done row by row."""


@dataclass(frozen=True, eq=False)
class Between:
    """The backward between two linear layers.

    Attributes:
        name: of the product that it begins with.
        nodes: all that go.
        computing: those of them that compute something, in the order in which eager runs them.
        inputs: the nodes whose rows are read.
        wholes: those that all rows read.
        results: the nodes that make what is returned, in the order of the program's results.
        program: what becomes of each row.
    """

    name: str
    nodes: frozenset[fx.Node]
    computing: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    wholes: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    program: RowProgram


def betweens(joint: Joint) -> list[Between]:
    """The backwards between linear layers that can be done in chunks; no node is in two of them."""
    position = {node: k for k, node in enumerate(joint.graph.graph.nodes)}
    kept = {node for g in joint.gradients for node in (*g.sums,) if node is not None}
    found: list[Between] = []
    used: set[fx.Node] = set()
    for node in joint.ops:
        if node.target is PRODUCT and node.meta["phase"] == "backward" and node not in used:
            try:
                between = _Search(joint, node, position).found()
            except _NoRowsError:
                continue
            if not between.nodes & used and not between.nodes & kept:
                found.append(between)
                used |= between.nodes
    return found


def with_products_in_chunks(joint: Joint, chunks: Mapping[str, int]) -> Joint:
    """``joint`` with these of its ``betweens``, by their name, in so many chunks. ``meta["wholes"]``: nodes they replace."""
    chosen = [between for between in betweens(joint) if between.name in chunks] if chunks else []
    if not chosen:
        return joint
    position = {node: k for k, node in enumerate(joint.graph.graph.nodes)}
    first = {min(between.nodes, key=position.__getitem__): between for between in chosen}
    gone = {node for between in chosen for node in between.nodes}
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    made: dict[fx.Node, list[fx.Node]] = {}
    for node in joint.graph.graph.nodes:
        if node in first:
            made[node] = _in_chunks(graph, first[node], chunks[first[node].name], node_of)
        if node not in gone:
            node_of[node] = graph.node_copy(node, node_of.__getitem__)
    ops = [call for node in joint.ops for call in made.get(node, [] if node in gone else [node_of[node]])]
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, ops)


def _in_chunks(graph: fx.Graph, between: Between, count: int, node_of: dict[fx.Node, fx.Node]) -> list[fx.Node]:
    """The op in the place of ``between`` and the nodes of its results, which ``node_of`` then has too."""
    inputs, wholes = ([node_of[node] for node in nodes] for nodes in (between.inputs, between.wholes))
    op = graph.create_node("call_function", in_row_chunks(between.program), (inputs, wholes, count))
    fakes = tuple(torch.empty_like(_in_rows(node).meta["val"]) for node in between.results)
    begin = between.computing[0]
    op.meta = {key: value for key, value in begin.meta.items() if key != "shape"} | {
        "name": f"{between.name}:{count} chunks",
        "val": fakes,
        "wholes": between.computing,
        "inexact": f"backwards of products in {count} chunks",
    }
    made = [op]
    for place, (node, fake) in enumerate(zip(between.results, fakes, strict=True)):
        result = node_of[node] = graph.create_node("call_function", operator.getitem, (op, place))
        result.meta = dict(node.meta) | {"name": f"{between.name}:result {place}", "val": fake}
        made.append(result)
        if _in_rows(node) is not node:
            made.append(_as_read(graph, node, result, node_of))
    return made


def _in_rows(node: fx.Node) -> fx.Node:
    """What has the form in which the program returns the result of ``node``."""
    return _base(_argument(node, 0)) if node.target is _ADD else node


def _as_read(graph: fx.Graph, total: fx.Node, result: fx.Node, node_of: dict[fx.Node, fx.Node]) -> fx.Node:
    """A view of ``result``, which has rows, in the form of ``total``, by which others read it."""
    view = _argument(total, 0)
    if not _is_view(view):
        return result
    seen = graph.node_copy(view, lambda node: result if node is view.args[0] else node_of[node])
    result.meta = {key: value for key, value in result.meta.items() if key != "shape"}
    seen.meta = dict(total.meta) | {
        "name": f"{result.meta['name']} seen",
        "val": result.meta["val"].view(total.meta["val"].shape),
    }
    node_of[total] = seen
    return seen


@dataclass
class _Search:
    """What follows ``seed``, the product of a gradient and a weight, up to the next products.

    Attributes:
        inside: the nodes found, with what each is: a step, one of the kinds of results, or a view.
    """

    joint: Joint
    seed: fx.Node
    position: Mapping[fx.Node, int]
    inside: dict[fx.Node, str] = field(default_factory=dict)

    def found(self) -> Between:
        """The backward that begins with ``seed``.

        Raises:
            _NoRowsError: it cannot be done row by row.
        """
        gradient = self._gradient()
        self.rows = int(gradient.meta["val"].shape[0])
        self.inside[self.seed] = "step"
        self._follow(self.seed)
        for user in gradient.users:
            if user is not self.seed:
                self._take_result(user, gradient)
        self._take_sum()
        if not any(kind == "step" and node is not self.seed and not _is_view(node) for node, kind in self.inside.items()):
            raise _NoRowsError
        if any(node.meta["pinned"] is not None or node.meta["random"] for node in self.inside):
            raise _NoRowsError
        inputs = {_base(n) for node in self.inside for n in node.all_input_nodes if n not in self.inside}
        if any(map(self._is_gradient, inputs - {_base(gradient)})):
            raise _NoRowsError  # another gradient meets this one, and may not arrive with it
        return self._between()

    def _gradient(self) -> fx.Node:
        """The gradient that ``seed`` multiplies with a weight."""
        gradient, weight = self.seed.args
        if not isinstance(gradient, fx.Node) or not isinstance(weight, fx.Node):
            raise _NoRowsError
        if not self._is_gradient(gradient) or gradient.target is _TURN or self._is_gradient(weight):
            raise _NoRowsError
        return gradient

    def _is_gradient(self, node: fx.Node) -> bool:
        return node in self.joint.tangent_nodes if node.op != "call_function" else node.meta["phase"] == "backward"

    def _follow(self, node: fx.Node) -> None:
        for user in list(node.users):
            if user in self.inside:
                continue
            if self._is_step(user):
                self.inside[user] = "step"
                self._follow(user)
            elif not self._take_result(user, node):
                raise _NoRowsError

    def _is_step(self, node: fx.Node) -> bool:
        if _is_view(node):
            return self._has_rows(node)
        if not is_row_by_row(node) or (torch.Tag.pointwise not in getattr(node.target, "tags", ()) and node.target is not CAST):
            return False
        return self._has_rows(node) and all(self._has_rows(other) for other in node.all_input_nodes)

    def _has_rows(self, node: fx.Node) -> bool:
        fake = node.meta.get("val")
        if not isinstance(fake, torch.Tensor) or fake.dim() < 2 or not fake.is_contiguous():
            return False
        return bool(fake.numel() == self.rows * fake.shape[-1])

    def _take_result(self, user: fx.Node, of: fx.Node) -> bool:
        """Take in what makes a result of the rows of ``of``, where ``user`` does or begins to."""
        if user.target is _TURN and len(user.users) == 1:
            product = next(iter(user.users))
            if product.target is PRODUCT and product.args[0] is user and self._has_rows(_argument(product, 1)):
                self.inside |= {user: "view", product: "product"}
                return True
        if user.target is PRODUCT and user.args[1] is of:
            turned = _argument(user, 0)
            if turned.target is _TURN and self._has_rows(_argument(turned, 0)):
                self.inside[user] = "product"
                return True
        if (
            user.target is PRODUCT
            and user.args[0] is of
            and of is not self.seed.args[0]
            and not self._is_gradient(_argument(user, 1))
        ):
            self.inside[user] = "rows"
            return True
        if user.target is _SUM and user.args[1:] == ([0], True) and of.meta["val"].dim() == 2:
            self.inside[user] = "sum"
            return True
        return False

    def _take_sum(self) -> None:
        """Take in the addition of two results with rows, where nothing else reads them."""
        results = [node for node, kind in self.inside.items() if kind == "rows"]
        after = {node: _only_reader(node) for node in results}
        for total in {way[-1] for way in after.values() if way}:
            added = [node for node in results if after[node] and after[node][-1] is total]
            if total.target is _ADD and len(added) == len(set(total.all_input_nodes)) == _TWO and not total.kwargs:
                for node in added:
                    self.inside |= dict.fromkeys(after[node][:-1], "view") | {node: "step"}
                self.inside[total] = "rows"

    def _between(self) -> Between:
        first = min(map(self.position.__getitem__, self.inside))
        writer = _Writer(self)
        for node in sorted(self.inside, key=self.position.__getitem__):
            writer.write(node)
        program = writer.program
        nodes = set(self.inside)
        for node in reversed(self.joint.ops):  # forward work that only these nodes asked for
            asked_for = node in writer.recomputed or node.target is _TURN
            if asked_for and node.meta["in_backward"] and node.users and set(node.users) <= nodes:
                nodes.add(node)
        if any(self.position[node] >= first for node in (*program.inputs, *program.wholes)):
            raise _NoRowsError
        return Between(
            name=str(self.seed.meta["name"]),
            nodes=frozenset(nodes),
            computing=tuple(n for n in self.joint.ops if n in nodes and not _is_view(n) and n.target is not _TURN),
            inputs=tuple(program.inputs),
            wholes=tuple(program.wholes),
            results=tuple(writer.results),
            program=program.program(),
        )


@dataclass
class _Writer:
    """Writes the program of a ``_Search``.

    Attributes:
        recomputed: forward nodes that the program computes again.
        results: the nodes that make what it returns.
    """

    search: _Search
    program: RowWriter = field(default_factory=RowWriter)
    recomputed: set[fx.Node] = field(default_factory=set)
    results: list[fx.Node] = field(default_factory=list)

    def write(self, node: fx.Node) -> None:
        kind = self.search.inside[node]
        if kind == "view" or (kind == "step" and _is_view(node)):
            return
        if kind == "step":
            self._step(node)
            return
        self.results.append(node)
        if kind == "sum":
            self.program.add("sum", node, (self._rows(_argument(node, 0)),), {})
        elif kind == "product":
            turned = _argument(node, 0)
            self.program.add("product", node, (self._rows(_argument(turned, 0)), self._rows(_argument(node, 1))))
        elif node.target is _ADD:
            self.program.add("rows", node, (self._rows(_argument(node, 0)), self._rows(_argument(node, 1))))
        else:
            self.program.add("rows", node, (self._rows(_argument(node, 0)), self._whole(_argument(node, 1))))

    def _step(self, node: fx.Node) -> None:
        if node.target is PRODUCT:
            args: tuple[Any, ...] = (self._rows(_argument(node, 0)), self._whole(_argument(node, 1)))
        else:
            args = tuple(self._rows(a) if isinstance(a, fx.Node) else a for a in node.args)
        self.program.add("step", node, args)

    def _rows(self, node: fx.Node) -> fx.Node:
        """The node whose rows ``node`` has; where they are cheap, they are computed again."""
        source = _base(node)
        if not self.program.makes(source) and source not in self.search.inside and self._is_cheap(source):
            self.recomputed.add(source)
            self._step(source)
        return source

    def _is_cheap(self, node: fx.Node) -> bool:
        """Whether rows of ``node`` follow from rows of products by operators that treat each number by itself."""
        if node.op != "call_function" or node.meta["phase"] == "backward" or node.meta["pinned"] is not None:
            return False
        if not self.search._is_step(node) or _is_view(node):
            return False
        return all(_base(n).target in PRODUCTS or self._is_cheap(_base(n)) for n in node.all_input_nodes)

    def _whole(self, node: fx.Node) -> Whole:
        turned = node.target is _TURN
        return self.program.whole(_argument(node, 0) if turned else node, turned=turned)


def _only_reader(node: fx.Node) -> list[fx.Node]:
    """The one reader of ``node`` that is no view, after the views that it reads it by; empty where there are several."""
    way: list[fx.Node] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        way.append(node)
        if not _is_view(node):
            return way
    return []


def _argument(node: fx.Node, place: int) -> fx.Node:
    argument = node.args[place]
    if not isinstance(argument, fx.Node):
        raise _NoRowsError
    return argument


def _base(node: fx.Node) -> fx.Node:
    """What ``node`` is a view of, with rows of the same length."""
    while _is_view(node):
        node = _argument(node, 0)
    return node


def _is_view(node: fx.Node) -> bool:
    if node.target not in _VIEWS:
        return False
    source: Any = node.args[0]
    return bool(source.meta["val"].shape[-1] == node.meta["val"].shape[-1])
