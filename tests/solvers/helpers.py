"""What the tests of all solvers share: the list of solvers, the check of an answer, and graphs to try them on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from remat_planner.schedules import Graph, Op, Storage, Value, simulate
from remat_planner.solvers import Solution, registry
from tests.instances import instance_path
from tests.schedules.slow_simulator import reference
from tests.strategies import graphs

# Every solver, with the seconds that a test gives it. A new solver needs a line here.
SOLVERS = {
    "none": 10.0,
    "every-n": 10.0,
    "blocks": 10.0,
    "chen": 10.0,
    "revolve": 10.0,
    "treeverse": 10.0,
    "rotor": 10.0,
    "knapsack": 10.0,
    "greedy": 10.0,
    "ilp": 10.0,
    "checkmate": 10.0,
    "twolevel": 1.0,
    "anneal": 0.2,
    "auto": 1.0,
    "offload": 0.3,
    "pofo": 10.0,
    "offload-all": 10.0,
    "offload-inputs": 10.0,
    "offload-greedy": 10.0,
}
# A loaded machine may cut these short anywhere.
ANYTIME = tuple(name for name in SOLVERS if registry.get(name).anytime)
# The quick ones are tried on more examples.
QUICK = tuple(name for name in SOLVERS if registry.get(name).quick)


def check(graph: Graph, budget: int, solution: Solution) -> None:
    """Everything that a solution claims, by the reference simulator."""
    if solution.status == "infeasible":
        assert solution.steps == ()
        assert solution.cost == solution.gap == math.inf
        assert budget < solution.minimum == max(reference(graph, list(solution.minimum_steps))[1], default=0)
        assert solution.bottleneck in graph.by_name
        return
    seconds, memory = reference(graph, list(solution.steps))
    assert solution.cost == pytest.approx(seconds)
    assert solution.peak_bytes == max(memory) <= budget
    assert solution.bound <= solution.cost
    assert solution.bound >= graph.seconds or solution.bound == pytest.approx(graph.seconds)
    if graph.seconds:
        assert solution.gap == pytest.approx((solution.cost - solution.bound) / graph.seconds)
    assert (solution.status == "optimal") == (solution.cost - solution.bound <= 1e-6 * solution.cost)
    assert solution.bottleneck is None
    loss = [place for place, i in enumerate(solution.steps) if graph.actions[i].outside]
    assert loss == list(range(loss[0], loss[0] + len(loss))) if loss else True
    assert solution.minimum <= solution.peak_bytes


def instance(name: str) -> tuple[Graph, int]:
    """A published graph and its peak without recomputation; skips the test if its file is missing."""
    data = json.loads(instance_path(name).read_text())
    nodes = data["nodes"]
    graph = Graph.from_dag([v["cost"] for v in nodes], [v["mem"] for v in nodes], data["edges"], [v["bwd"] for v in nodes])
    return graph, data["peak_no_remat"]


def baseline_peak(graph: Graph) -> int:
    """Bytes at the peak without recomputation."""
    return simulate(graph, range(len(graph.ops))).peak_bytes


@st.composite
def training_steps(draw: st.DrawFn, max_ops: int = 8) -> Graph:
    """Random graphs with views, several outputs, in-place results, pinned and auxiliary ops, results and random state."""
    graph = draw(graphs(max_ops=max_ops))
    late = draw(st.sets(st.integers(0, len(graph.ops) - 1), max_size=2))
    ops = tuple(replace(op, auxiliary=True) if i in late and op.phase == "forward" else op for i, op in enumerate(graph.ops))
    return replace(graph, ops=ops)


@st.composite
def networks(draw: st.DrawFn, max_stages: int = 8) -> Graph:
    """Random training steps of a chain with skips and the caller's loss.

    The backward of a layer reads its inner value and sometimes its input.
    """
    length = draw(st.integers(2, max_stages))
    sizes = st.integers(1, 9)
    storages = [Storage(3, constant=True)]
    values = [Value("input", 0)]
    ops: list[Op] = []

    def write(name: str) -> int:
        storages.append(Storage(draw(sizes)))
        values.append(Value(name, len(storages) - 1))
        return len(values) - 1

    entering, inside = [0], []
    for i in range(length):
        skip = (draw(st.sampled_from(entering)),) if draw(st.booleans()) else ()
        inside.append(write(f"inside{i}"))
        entering.append(write(f"x{i + 1}"))
        reads = tuple(dict.fromkeys((entering[i], *skip)))
        pinned = "a reason" if draw(st.integers(0, 9)) == 0 else None
        module = f"layers.{i // 2}.{i % 2}"
        seconds, workspace = float(draw(st.integers(1, 5))), draw(st.sampled_from([0, 0, 2]))
        writes = (inside[i], entering[i + 1])
        ops.append(Op(f"forward{i}", reads, writes, seconds, workspace=workspace, pinned=pinned, module=module))
    loss, gradient = write("loss"), write("loss_gradient")
    ops.append(Op("loss", (entering[-1],), (loss,), 1.0, outside=True))
    ops.append(Op("loss_backward", (loss, entering[-1]), (gradient,), 1.0, phase="backward", outside=True))
    results = []
    for i in range(length - 1, -1, -1):
        parameter = write(f"parameter_gradient{i}")
        results.append(parameter)
        reads = tuple(dict.fromkeys((gradient, inside[i], *([entering[i]] if draw(st.booleans()) else []))))
        gradient = write(f"gradient{i}")
        ops.append(Op(f"backward{i}", reads, (gradient, parameter), seconds=float(draw(st.integers(1, 5))), phase="backward"))
    kept = tuple(results) if draw(st.booleans()) else ()
    return Graph(tuple(ops), tuple(values), tuple(storages), kept, {"inputs": 3})


def linear(length: int) -> Graph:
    """Checkmate's linear graph: ``length`` forward ops; backward ops read the input of theirs; all of size 1 and 1 s."""
    ops = 2 * length - 1
    edges = [(i, i + 1) for i in range(ops - 1)] + [(length - 2 - i, length + i) for i in range(1, length - 1)]
    return Graph.from_dag([1] * ops, [1] * ops, [(length - 2, length), *edges], backward=length)


def unit_chain(length: int) -> Graph:
    """The chain of the theory: step i takes state i to state i + 1 and leaves a trace for its backward; all of size 1 and 1 s.

    The initial state is an input of the step. Neither it nor the gradients count as memory.
    """
    storages = [Storage(1, constant=True)]
    values = [Value("state0", 0)]
    ops = []
    traces = []
    for i in range(length):
        storages += [Storage(1), Storage(1)]
        values += [Value(f"trace{i}", len(storages) - 2), Value(f"state{i + 1}", len(storages) - 1)]
        state = 0 if i == 0 else len(values) - 3
        traces.append(len(values) - 2)
        ops.append(Op(f"forward{i}", (state,), (traces[i], len(values) - 1), seconds=1.0))
    gradient = len(values) - 1
    for i in range(length - 1, -1, -1):
        storages.append(Storage(0))
        values.append(Value(f"gradient{i}", len(storages) - 1))
        ops.append(Op(f"backward{i}", (gradient, traces[i]), (len(values) - 1,), seconds=1.0, phase="backward"))
        gradient = len(values) - 1
    return Graph(tuple(ops), tuple(values), tuple(storages))
