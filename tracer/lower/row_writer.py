"""Writes a program on rows from the nodes of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.lower.row_program import Kind, Row, RowAction, RowProgram, Whole

CAST = torch.ops.aten._to_copy.default


@dataclass
class RowWriter:
    """A program in the making.

    Attributes:
        inputs: the nodes whose rows it reads and does not make, numbered.
        wholes: the nodes that all rows read, numbered.
    """

    inputs: dict[fx.Node, int] = field(default_factory=dict)
    wholes: dict[fx.Node, int] = field(default_factory=dict)
    _actions: list[tuple[Kind, fx.Node, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    _made: dict[fx.Node, int] = field(default_factory=dict)

    def makes(self, node: fx.Node) -> bool:
        """Whether the program makes the rows of ``node``."""
        return node in self._made

    def whole(self, node: fx.Node, *, turned: bool = False) -> Whole:
        """What stands for ``node`` among the arguments of an action that reads it for all rows."""
        return Whole(self.wholes.setdefault(node, len(self.wholes)), turned)

    def add(self, kind: Kind, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """An action of this ``kind`` by the operator of ``node``; nodes among ``args`` stand for their rows.

        ``kwargs`` are those of ``node`` where none are given.
        """
        for argument in args:
            if isinstance(argument, fx.Node) and not self.makes(argument):
                self.inputs.setdefault(argument, len(self.inputs))
        if kwargs is None:
            kwargs = {"dtype": node.kwargs["dtype"]} if node.target is CAST else dict(node.kwargs)
        if kind in ("step", "loss"):
            self._made[node] = len(self._made)
        self._actions.append((kind, node, args, kwargs))

    def program(self) -> RowProgram:
        """The program of the actions so far."""
        number = self.inputs | {node: len(self.inputs) + k for node, k in self._made.items()}
        actions = tuple(
            RowAction(
                kind,
                node.target,
                tuple(Row(number[a]) if isinstance(a, fx.Node) else a for a in args),
                tuple(kwargs.items()),
                node.meta["val"].dtype,
            )
            for kind, node, args, kwargs in self._actions
        )
        return RowProgram(tuple(node.meta["val"].dtype for node in self.inputs), actions)
