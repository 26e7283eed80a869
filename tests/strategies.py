"""Random training steps and random valid schedules for hypothesis: views, several outputs, in-place results, pinned ops."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from remat_planner.schedules import Graph, Op, Storage, Value


@st.composite
def graphs(draw: st.DrawFn, max_ops: int = 10) -> Graph:
    """A random step: constants, fresh outputs (one or two), free views, in-place ops, workspace, results, pinned ops."""
    n = draw(st.integers(1, max_ops))
    backward_from = draw(st.integers(0, n))
    storages = [Storage(draw(st.integers(0, 9)), constant=True)]
    values = [Value("parameter", 0, (1,), "f")]
    ops: list[Op] = []
    for i in range(n):
        reads = tuple(dict.fromkeys(draw(st.lists(st.integers(0, len(values) - 1), min_size=0, max_size=3))))
        kind = draw(st.sampled_from(["fresh", "fresh", "fresh", "two", "view", "in-place"])) if reads else "fresh"
        writes = []
        if kind in ("view", "in-place"):
            base = draw(st.sampled_from(reads))
            # An alias lives in the instance of the first read on that storage; keep one read per storage so it is unambiguous.
            reads = tuple(r for r in reads if r == base or values[r].storage != values[base].storage)
            values.append(Value(f"v{len(values)}", values[base].storage, (i,), "f"))
            writes.append(len(values) - 1)
        else:
            for _ in range(2 if kind == "two" else 1):
                storages.append(Storage(draw(st.integers(0, 9))))
                values.append(Value(f"v{len(values)}", len(storages) - 1, (i,), "f"))
                writes.append(len(values) - 1)
        free = kind == "view"
        ops.append(
            Op(
                name=f"op{i}",
                reads=(reads[0],) if free else reads,
                writes=tuple(writes),
                seconds=0.0 if free else float(draw(st.integers(0, 5))),
                workspace=0 if free else draw(st.sampled_from([0, 0, 3])),
                phase="backward" if i >= backward_from else "forward",
                pinned="a reason" if not free and draw(st.integers(0, 7)) == 0 else None,
                replay_bytes=0 if free else draw(st.sampled_from([0, 0, 0, 2])),
                kind=kind,
            )
        )
        if free:
            values[-1] = replace(values[-1], storage=values[reads[0]].storage)
    results = draw(st.lists(st.integers(0, len(values) - 1), max_size=2, unique=True))
    return Graph(tuple(ops), tuple(values), tuple(storages), tuple(results), {"parameters": storages[0].bytes})


@st.composite
def schedules(draw: st.DrawFn, graph: Graph) -> list[int]:
    """The execution order with random recomputations of what may run again and whose inputs exist."""
    steps: list[int] = []
    for i in range(len(graph.ops)):
        again = [j for j in range(i) if graph.ops[j].pinned is None]
        if again:
            steps += draw(st.lists(st.sampled_from(again), max_size=2))
        steps.append(i)
    return steps
