"""Running a chain stage by stage: from the actions of a checkpointing algorithm to a sequence of nodes.

The four actions are those of the literature. What must be in memory for an action is computed before it if it is not there,
so any list of actions gives a sequence that runs; a good one gives a cheap one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from remat_planner.solvers.chain.stages import Chain
from remat_planner.solvers.problem import Emitter


class Action(NamedTuple):
    """What to do with a stage.

    snapshot: hold what enters it until its backward is done. forward: run it; keep what enters the next stage, and what enters
    this one only where it is a snapshot. save: run it and keep what its backward reads, or the part that ``option`` says.
    backward: run its backward.
    """

    kind: Literal["snapshot", "forward", "save", "backward"]
    stage: int
    option: int = 0


class Run(NamedTuple):
    """A sequence of nodes, and where in it each action ends."""

    nodes: list[int]
    ends: list[int]


def sequence(chain: Chain, actions: Iterable[Action]) -> list[int]:
    """The nodes to run for ``actions``, as ``sweep`` finds them when everything that the backward reads is saved."""
    return sweep(chain, actions, [[stage.saved] for stage in chain.stages]).nodes


def sweep(chain: Chain, actions: Iterable[Action], options: Sequence[Sequence[Sequence[int]]]) -> Run:
    """The nodes to run. The first visits of the stages must be in order; every stage's backward must come, last stage first.

    ``options`` lists, for each stage, sets of items that a save may keep.
    """
    runner = _Sweep(chain, options)
    ends = []
    for action in actions:
        runner.act(action)
        ends.append(runner.length)
    return Run(runner.finish(), ends)


class _Sweep:
    def __init__(self, chain: Chain, options: Sequence[Sequence[Sequence[int]]]) -> None:
        self._options = options
        self._stages = chain.stages
        self._problem = chain.forward.problem
        self._emitter = Emitter(self._problem, by_index=True)
        self._left = len(self._stages)  # stages whose backward is to come
        self._snapshots: set[int] = set()
        self._saved: dict[int, frozenset[int]] = {}
        self._visited: set[int] = set()

    @property
    def length(self) -> int:
        """Nodes run so far."""
        return len(self._emitter.sequence)

    def act(self, action: Action) -> None:
        """Carry out an action."""
        if action.kind == "snapshot":
            self._snapshot(action.stage)
        elif action.kind == "forward":
            self._forward(action.stage)
        elif action.kind == "save":
            self._save(action.stage, frozenset(self._options[action.stage][action.option]))
        else:
            self._backward(action.stage)

    def _snapshot(self, i: int) -> None:
        for item in self._stages[i].inputs:
            self._emitter.fetch(item)
        self._snapshots.add(i)

    def _forward(self, i: int) -> None:
        after = self._stages[i + 1].inputs
        self._visit(i, after)
        self._forget(item for item in self._stages[i].made if item not in after)
        if i not in self._snapshots:
            self._forget_inputs(i)

    def _save(self, i: int, saved: frozenset[int]) -> None:
        # What enters the next stage comes with it, unless that stage is done with.
        keep = saved.union(self._stages[i + 1].inputs if i + 1 < self._left else ())
        self._visit(i, sorted(keep))
        self._forget(item for item in self._stages[i].made if item not in keep)
        self._saved[i] = saved

    def _backward(self, i: int) -> None:
        for node in range(*self._stages[i].backward):
            self._emitter.run(node)
        self._left = i
        self._saved.pop(i, None)
        self._snapshots.discard(i)
        self._forget_inputs(i)

    def finish(self) -> list[int]:
        """Run what no action asked for."""
        ran = set(self._emitter.sequence)
        for node in range(self._problem.n):
            if node not in ran:
                self._emitter.run(node)
        return self._emitter.sequence

    def _visit(self, i: int, wanted: Iterable[int]) -> None:
        if i not in self._visited:
            self._visited.add(i)
            for node in self._stages[i].nodes:
                self._emitter.run(node)
        for item in wanted:
            self._emitter.fetch(item)

    def _forget_inputs(self, i: int) -> None:
        saved_before = self._saved.get(i - 1, frozenset())
        self._forget(item for item in self._stages[i].inputs if item not in saved_before)

    def _forget(self, items: Iterable[int]) -> None:
        for item in items:
            self._emitter.there[item] = False
