"""From the actions of a checkpointing algorithm on a chain to a sequence of nodes.

The actions are those of the literature. Inputs of an action that are not in memory are recomputed before it, so any list
of actions gives a sequence that runs; a good list gives a cheap one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from remat_planner.solvers.chain.stages import Chain
from remat_planner.solvers.problem import SequenceBuilder


class Action(NamedTuple):
    """One action on one stage.

    snapshot: retain the inputs of the stage until its backward is done. forward: run the stage; retain the inputs of the next
    stage, and its own only if they are a snapshot. save: run it and retain the items that its backward reads, or the part of
    them that ``option`` selects. backward: run its backward. offload: store what entered the stage, its inputs and what the
    stage before it saved, and release it until it is needed; after the stage has run.
    """

    kind: Literal["snapshot", "forward", "save", "backward", "offload"]
    stage: int
    option: int = 0


class SweptSequence(NamedTuple):
    """A sequence of nodes with what is copied.

    Attributes:
        nodes: the nodes.
        ends: the position in them at which each action ends.
        stored: for each stored item the number of nodes before its store.
        loads: the loads in order: the number of nodes before each, and its item.
    """

    nodes: list[int]
    ends: list[int]
    stored: dict[int, int]
    loads: list[tuple[int, int]]


def sequence(chain: Chain, actions: Iterable[Action]) -> list[int]:
    """The nodes to run for ``actions`` when a save retains everything that the backward reads."""
    return sweep(chain, actions, [[stage.saved] for stage in chain.stages]).nodes


def sweep(chain: Chain, actions: Iterable[Action], options: Sequence[Sequence[Sequence[int]]]) -> SweptSequence:
    """The nodes to run for ``actions``.

    Args:
        chain: the chain.
        actions: the first visits of the stages must be in order; every stage's backward must come, last stage first.
        options: for each stage the sets of items that a save may retain.
    """
    runner = _Sweep(chain, options)
    ends = []
    for action in actions:
        runner.act(action)
        ends.append(runner.length)
    nodes = runner.finish()
    return SweptSequence(nodes, ends, runner.builder.stored, runner.builder.loads)


class _Sweep:
    def __init__(self, chain: Chain, options: Sequence[Sequence[Sequence[int]]]) -> None:
        self._options = options
        self._stages = chain.stages
        self._problem = chain.forward.problem
        self.builder = SequenceBuilder(self._problem, by_index=True)
        self._left = len(self._stages)  # stages whose backward has not run
        self._snapshots: set[int] = set()
        self._saved: dict[int, frozenset[int]] = {}
        self._visited: set[int] = set()

    @property
    def length(self) -> int:
        """Nodes run so far."""
        return len(self.builder.sequence)

    def act(self, action: Action) -> None:
        """Carry out an action."""
        if action.kind == "snapshot":
            self._snapshot(action.stage)
        elif action.kind == "forward":
            self._forward(action.stage)
        elif action.kind == "save":
            self._save(action.stage, frozenset(self._options[action.stage][action.option]))
        elif action.kind == "offload":
            self._offload(action.stage)
        else:
            self._backward(action.stage)

    def _snapshot(self, i: int) -> None:
        for item in self._stages[i].inputs:
            self.builder.fetch(item)
        self._snapshots.add(i)

    def _forward(self, i: int) -> None:
        after = self._stages[i + 1].inputs
        self._visit(i, after)
        self._forget(item for item in self._stages[i].made if item not in after)
        if i not in self._snapshots:
            self._forget_inputs(i)

    def _save(self, i: int, saved: frozenset[int]) -> None:
        # The inputs of the next stage come with it, unless the backward of that stage is done.
        kept = saved.union(self._stages[i + 1].inputs if i + 1 < self._left else ())
        self._visit(i, sorted(kept))
        self._forget(item for item in self._stages[i].made if item not in kept)
        self._saved[i] = saved

    def _backward(self, i: int) -> None:
        for node in range(*self._stages[i].backward):
            self.builder.run(node)
        self._left = i
        self._saved.pop(i, None)
        self._snapshots.discard(i)
        self._forget_inputs(i)

    def _offload(self, i: int) -> None:
        for item in sorted({*self._stages[i].inputs, *self._saved.get(i - 1, ())}):
            if self.builder.available[item]:
                self.builder.store(item)

    def finish(self) -> list[int]:
        """Run the nodes that no action has run, and return the whole sequence."""
        ran = set(self.builder.sequence)
        for node in range(self._problem.n):
            if node not in ran:
                self.builder.run(node)
        return self.builder.sequence

    def _visit(self, i: int, wanted: Iterable[int]) -> None:
        if i not in self._visited:
            self._visited.add(i)
            for node in self._stages[i].nodes:
                self.builder.run(node)
        for item in wanted:
            self.builder.fetch(item)

    def _forget_inputs(self, i: int) -> None:
        saved_before = self._saved.get(i - 1, frozenset())
        self._forget(item for item in self._stages[i].inputs if item not in saved_before)

    def _forget(self, items: Iterable[int]) -> None:
        for item in items:
            self.builder.available[item] = False
