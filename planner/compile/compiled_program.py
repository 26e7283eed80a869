"""A program whose segments run piece by piece; a compiler compiles the pieces that it may have."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from remat_planner.planner.codegen import Backward, Program
from remat_planner.planner.compile.compilers import Compiler, PieceCode
from remat_planner.planner.compile.pieces import Piece, pieces_of


@dataclass(frozen=True)
class CompiledParts:
    """What of a program is compiled.

    Attributes:
        compiler: name of the compiler.
        pieces: number of compiled pieces.
        operators: number of operator executions in these pieces.
        as_they_are: name of the operator of each execution that is not compiled.
    """

    compiler: str
    pieces: int
    operators: int
    as_they_are: tuple[str, ...]


def compiled_program(program: Program, compiler: Compiler) -> tuple[Program, CompiledParts]:
    """``program`` with its pieces compiled.

    Raises:
        CompilerError: the compiler cannot compile a piece.
    """
    forward = _PieceByPiece(program.forward, compiler)
    backwards = program.backwards.changed(lambda backward: _compiled_backward(backward, compiler))
    modules = [program.forward, *(segment.module for segment in program.segments)]
    every_piece = [piece for module in modules for piece in pieces_of(module.graph, compiler.supported)]
    compiled = [piece for piece in every_piece if piece.compilable]
    return (
        replace(program, run_forward=forward, backwards=backwards),
        CompiledParts(
            compiler=compiler.name,
            pieces=len(compiled),
            operators=sum(len(piece.operators) for piece in compiled),
            as_they_are=tuple(
                node.meta["captured"].meta["name"] for piece in every_piece if not piece.compilable for node in piece.operators
            ),
        ),
    )


def _compiled_backward(backward: Backward, compiler: Compiler) -> Backward:
    segments = tuple(replace(segment, run=_PieceByPiece(segment.module, compiler)) for segment in backward.segments)
    return replace(backward, segments=segments)


@dataclass(frozen=True)
class _Stage:
    """The code of a piece, and its positions among the values of the segment. No later piece reads ``clears``."""

    code: PieceCode
    reads: tuple[int, ...]
    clears: tuple[int, ...]
    writes: tuple[int, ...]


class _PieceByPiece:
    """The code of a segment. It runs the pieces in order and drops each value as its last reader begins."""

    def __init__(self, module: fx.GraphModule, compiler: Compiler) -> None:
        graph = module.graph
        pieces = pieces_of(graph, compiler.supported)
        box = next(iter(graph.nodes))
        arguments = [node for node in graph.nodes if node.op == "call_function" and node.args[:1] == (box,)]
        place: dict[fx.Node | None, int] = {node: k for k, node in enumerate(arguments)}
        for piece in pieces:
            for node in piece.writes:
                place.setdefault(node, len(place))
        results: Any = graph.output_node().args[0]
        if any(None in nodes for nodes in results):
            place[None] = len(place)  # of what a segment has None for: no piece writes there
        self._size = len(place)
        self._leaving, self._stored = (tuple(place[node] for node in nodes) for nodes in results)
        last_reader = {node: piece for piece in pieces for node in piece.reads}
        returned = set(graph.output_node().all_input_nodes)
        self._stages = [
            _Stage(
                code=_compiled(piece, compiler) if piece.compilable else _not_compiled(module, piece),
                reads=tuple(place[node] for node in piece.reads),
                clears=tuple(place[node] for node in piece.reads if last_reader[node] is piece and node not in returned),
                writes=tuple(place[node] for node in piece.writes),
            )
            for piece in pieces
        ]
        self._unread = tuple(place[node] for node in arguments if node not in last_reader and node not in returned)

    def __call__(self, arguments: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Run the segment; ``arguments`` is emptied."""
        values = [*arguments, *[None] * (self._size - len(arguments))]
        arguments.clear()
        for k in self._unread:
            values[k] = None
        for stage in self._stages:
            inputs = [values[k] for k in stage.reads]
            for k in stage.clears:
                values[k] = None
            results = stage.code(inputs)
            for position, k in enumerate(stage.writes):
                values[k] = results[position]
            del results
        return tuple(values[k] for k in self._leaving), tuple(values[k] for k in self._stored)


def _not_compiled(module: fx.GraphModule, piece: Piece) -> PieceCode:
    """The piece as code of torch.fx with the same calls as in the code of its segment."""
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
    # torch.fx numbers the nodes, so that equal pieces have equal code.
    for k, node in enumerate(piece.reads):
        values[node] = graph.placeholder(f"arg{k}")
        values[node].meta["val"] = node.meta["val"]
    for node in piece.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = graph.call_function(node.meta.get("operator", node.target), args, kwargs)
        values[node].meta["val"] = node.meta["val"]
    graph.output(tuple(values[node] for node in piece.writes))
    return compiler.compile(fx.GraphModule(nn.Module(), graph), [node.meta["val"] for node in piece.reads])
