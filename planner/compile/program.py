"""A program whose segments run in pieces, those that a compiler may have compiled by it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from remat_planner.planner.codegen import Program
from remat_planner.planner.compile.pieces import Piece, Supported, pieces_of

PieceCode = Callable[[list[Any]], Sequence[Any]]
"""Takes a list of values, which it empties; returns what the piece hands on."""


@dataclass(frozen=True)
class Compiler:
    """What turns pieces into code.

    Attributes:
        name: what it is called.
        supported: whether it has code for an operator.
        compile: the code of a graph, whose placeholders are the fakes given.
    """

    name: str
    supported: Supported
    compile: Callable[[fx.GraphModule, list[torch.Tensor]], PieceCode]


@dataclass(frozen=True)
class CompiledParts:
    """What of a program is compiled.

    Attributes:
        compiler: by what.
        pieces: number of stretches that are.
        operators: executions of operators in them.
        as_they_are: names of the operators that are executed as without a compiler, once for each execution.
    """

    compiler: str
    pieces: int
    operators: int
    as_they_are: tuple[str, ...]


def compiled_program(program: Program, compiler: Compiler) -> tuple[Program, CompiledParts]:
    """``program`` with its segments in pieces, compiled.

    Raises:
        CompilerError: the compiler cannot compile a piece.
    """
    segments = [(segment.module, pieces_of(segment.module.graph, compiler.supported)) for segment in program.segments]
    segments.insert(0, (program.forward, pieces_of(program.forward.graph, compiler.supported)))
    codes = [_PieceByPiece(module, pieces, compiler) for module, pieces in segments]
    compiled = [piece for _, pieces in segments for piece in pieces if piece.compilable]
    return (
        replace(
            program,
            run_forward=codes[0],
            segments=tuple(replace(segment, run=code) for segment, code in zip(program.segments, codes[1:], strict=True)),
        ),
        CompiledParts(
            compiler=compiler.name,
            pieces=len(compiled),
            operators=sum(len(piece.operators) for piece in compiled),
            as_they_are=tuple(
                node.meta["captured"].meta["name"]
                for _, pieces in segments
                for piece in pieces
                if not piece.compilable
                for node in piece.operators
            ),
        ),
    )


@dataclass(frozen=True)
class _Stage:
    """A piece's code, and where in the segment's values it reads and writes; nothing reads ``clears`` afterwards."""

    code: PieceCode
    reads: tuple[int, ...]
    clears: tuple[int, ...]
    writes: tuple[int, ...]


class _PieceByPiece:
    """The code of a segment: its pieces in order, each value dropped before the last piece that reads it begins."""

    def __init__(self, module: fx.GraphModule, pieces: Sequence[Piece], compiler: Compiler) -> None:
        graph = module.graph
        box = next(iter(graph.nodes))
        given = [node for node in graph.nodes if node.op == "call_function" and node.args[:1] == (box,)]
        place = {node: k for k, node in enumerate(given)}
        for piece in pieces:
            for node in piece.writes:
                place.setdefault(node, len(place))
        returned: Any = graph.output_node().args[0]
        self._size = len(place)
        self._leaving, self._stored = (tuple(place[node] for node in nodes) for nodes in returned)
        last_reader = {node: piece for piece in pieces for node in piece.reads}
        kept = set(graph.output_node().all_input_nodes)
        self._stages = [
            _Stage(
                code=_compiled(piece, compiler) if piece.compilable else _as_it_is(module, piece),
                reads=tuple(place[node] for node in piece.reads),
                clears=tuple(place[node] for node in piece.reads if last_reader[node] is piece and node not in kept),
                writes=tuple(place[node] for node in piece.writes),
            )
            for piece in pieces
        ]
        # What no piece reads goes at once.
        self._unread = tuple(place[node] for node in given if node not in last_reader and node not in kept)

    def __call__(self, values: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Run the segment; ``values`` is emptied."""
        held = [*values, *[None] * (self._size - len(values))]
        values.clear()
        for k in self._unread:
            held[k] = None
        for stage in self._stages:
            inputs = [held[k] for k in stage.reads]
            for k in stage.clears:
                held[k] = None
            made = stage.code(inputs)
            for position, k in enumerate(stage.writes):
                held[k] = made[position]
            del made
        return tuple(held[k] for k in self._leaving), tuple(held[k] for k in self._stored)


def _as_it_is(module: fx.GraphModule, piece: Piece) -> PieceCode:
    """The piece as code that torch.fx generates, calling what the segment's own code calls."""
    graph = fx.Graph()
    box = graph.placeholder("box")
    values = {node: graph.call_function(operator.getitem, (box, k)) for k, node in enumerate(piece.reads)}
    graph.call_method("clear", (box,))
    for node in piece.nodes:
        values[node] = graph.node_copy(node, values.__getitem__)
    graph.output(tuple(values[node] for node in piece.writes))
    return fx.GraphModule(module, graph).forward


def _compiled(piece: Piece, compiler: Compiler) -> PieceCode:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    # Nodes get the names that torch.fx numbers them by, so that equal pieces are equal.
    for k, node in enumerate(piece.reads):
        values[node] = graph.placeholder(f"arg{k}")
        values[node].meta["val"] = node.meta["val"]
    for node in piece.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = graph.call_function(node.meta.get("operator", node.target), args, kwargs)
        values[node].meta["val"] = node.meta["val"]
    graph.output(tuple(values[node] for node in piece.writes))
    return compiler.compile(fx.GraphModule(nn.Module(), graph), [node.meta["val"] for node in piece.reads])
