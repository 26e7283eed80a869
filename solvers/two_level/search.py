"""Two levels: which items to keep inside each block, and how many bytes each block may retain.

The step is cut into blocks (``blocks``), each distinct block gets its front of options once (``front``), and a dynamic program
chooses one option for each block (``block_chain``). The best of several partitions, fine to coarse, is the answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem
from remat_planner.solvers.two_level.block_chain import BlockChain
from remat_planner.solvers.two_level.blocks import partitions
from remat_planner.solvers.two_level.option import BlockOption
from remat_planner.solvers.two_level.options import DEFAULT_OPTIONS, TwoLevelOptions


class TwoLevels:
    """Partitions with the options of their blocks: made once, for any number of budgets.

    Args:
        problem: the reduced graph.
        deadline: for making the options; partitions for which it leaves no time are left out.
        options: switches and tuning numbers.

    Attributes:
        chains: one for each partition, fine to coarse.
        fronts: distinct blocks whose options were made.
        note: a description of both.
    """

    def __init__(self, problem: Problem, deadline: Deadline, options: TwoLevelOptions = DEFAULT_OPTIONS) -> None:
        self.problem = problem
        self.chains: list[BlockChain] = []
        self._options = options
        fronts: dict[Hashable, list[BlockOption]] = {}
        for partition in partitions(problem, options):
            if self.chains and deadline.elapsed > 0.5 * deadline.seconds:
                break
            self.chains.append(BlockChain(problem, partition, fronts, deadline, options))
        self.fronts = len(fronts)
        counts = " or ".join(str(len(chain.partition.blocks)) for chain in self.chains)
        self.note = f"cut into {counts} blocks, {self.fronts} distinct" if counts else "the step has no backward pass to cut"

    def best(self, budget: int) -> list[int]:
        """The cheapest sequence of nodes within the budget (bytes), or the one with the lowest peak."""
        candidates = [list(range(self.problem.n))]
        for chain in self.chains:
            candidates.extend(self._tries(chain, budget))
        judged = [(self.problem.simulate(nodes), nodes) for nodes in candidates]
        fitting = [pair for pair in judged if pair[0].peak_bytes <= budget]
        if fitting:
            return min(fitting, key=lambda pair: pair[0].seconds)[1]
        return min(judged, key=lambda pair: pair[0].peak_bytes)[1]

    def _tries(self, chain: BlockChain, budget: int) -> Iterator[list[int]]:
        """Sequences of a chain: the limit falls by the bytes over the budget until one fits; the leanest where none can."""
        limit = budget
        for _ in range(self._options.tries):
            choice = chain.choose(limit)
            if choice is None:
                yield chain.sequence(chain.leanest())
                return
            nodes = chain.sequence(choice)
            yield nodes
            excess = self.problem.simulate(nodes).peak_bytes - budget
            if excess <= 0:
                return
            limit -= excess
