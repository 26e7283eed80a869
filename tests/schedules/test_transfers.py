"""Transfers: memory in every pool by position and time by queues, against a slow simulator and against figures by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Channel, Graph, GraphError, InvalidScheduleError, Op, Pool, Storage, Value, simulate
from tests.sampling import examples
from tests.schedules.slow_simulator import SlowRun
from tests.strategies import graphs, schedules
from tests.transfers import FREE, transfer_schedules, with_pools


def _chain(outgoing: Channel = FREE, incoming: Channel = FREE, budget: int = 1000, block: int = 1) -> Graph:
    """a (10 bytes) -> b (20) -> c (30) -> d, which reads c and a; 1, 2, 3 and 4 seconds."""
    graph = Graph.from_dag([1, 2, 3, 4], [10, 20, 30, 40], [(0, 1), (1, 2), (2, 3), (0, 3)], backward=3)
    return graph.with_transfers([Pool("host", budget, outgoing, incoming, block)])


@pytest.mark.slow
@examples(400)
@given(st.data())
def test_agrees_with_the_slow_simulator(data: st.DataObject) -> None:
    graph = data.draw(with_pools(data.draw(graphs())))
    steps = data.draw(transfer_schedules(graph, data.draw(schedules(graph))))
    simulation, run = simulate(graph, steps), SlowRun(graph, steps)
    assert simulation.bytes.tolist() == run.memory()
    assert simulation.seconds == pytest.approx(run.seconds)
    assert (simulation.traffic is None) == all(i < len(graph.ops) for i in steps)
    if simulation.traffic is None:
        return
    for name, copies in simulation.traffic.pools.items():
        assert copies.live_bytes(len(steps)).tolist() == run.pool_memory(name)
        assert copies.offset.tolist() == run.offsets(name)
        assert max(run.pool_memory(name)) <= copies.peak_bytes
    timing = simulation.traffic.timing
    for step, i in enumerate(steps):
        begin, end = run.span(step)
        assert timing.end[step] == pytest.approx(end)
        if getattr(graph.actions[i], "kind", "") in ("store", "load"):
            assert timing.begin[step] == pytest.approx(begin)
            # What is issued after an op begins after it, so that it cannot slow it.
            assert begin >= max((run.span(s)[1] for s in range(step) if steps[s] < len(graph.ops)), default=0.0)


@examples(50)
@given(st.data())
def test_infinite_rates_add_no_time(data: st.DataObject) -> None:
    graph = data.draw(with_pools(data.draw(graphs()), st.just(FREE)))
    steps = data.draw(transfer_schedules(graph, data.draw(schedules(graph))))
    assert simulate(graph, steps).seconds == math.fsum(graph.ops[i].seconds for i in steps if i < len(graph.ops))


@pytest.mark.slow
@examples(50)
@given(st.data())
def test_pools_that_nothing_uses_change_nothing(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    steps = data.draw(schedules(graph))
    pooled = data.draw(with_pools(graph))
    plain, unused = simulate(graph, steps), simulate(pooled, steps)
    assert (unused.seconds, unused.peak_bytes, unused.bytes.tolist()) == (plain.seconds, plain.peak_bytes, plain.bytes.tolist())
    assert unused.traffic is None
    assert (pooled.fingerprint, pooled.structure) == (graph.fingerprint, graph.structure)
    assert pooled.without_transfers == graph


def test_a_copy_by_hand() -> None:
    graph = _chain(Channel(5.0, latency=0.5), Channel(2.0), block=8)
    store, release, load = graph.copy_steps(0)
    steps = [0, store, 1, release, 2, load, 3]
    simulation = simulate(graph, steps)
    # a's 10 bytes leave the device after the release, and are back from the load on.
    assert simulation.bytes.tolist() == [10, 10, 30, 30, 50, 40, 80]
    assert simulation.pool_peaks == {"host": 16}
    assert simulation.traffic is not None
    copies, timing = simulation.traffic.pools["host"], simulation.traffic.timing
    # The copy stays until the first reader of what was loaded has waited for the load.
    assert (copies.store.tolist(), copies.release.tolist(), copies.last.tolist()) == ([1], [3], [6])
    assert copies.live_bytes(7).tolist() == [0, *[16] * 6]
    # a 0-1, the store 1-3.5, b 1-3, the release waits half a second, c 3.5-6.5, the load 6.5-11.5, d waits five seconds.
    assert timing.begin.tolist() == [0, 1, 1, 3, 3.5, 6.5, 11.5]
    assert timing.end.tolist() == [1, 3.5, 3, 3.5, 6.5, 11.5, 15.5]
    assert timing.stall.tolist() == [0, 0, 0, 0.5, 0, 0, 5]
    assert simulation.seconds == 15.5
    # Issued before c instead, the load runs beside it.
    assert simulate(graph, [0, store, 1, release, load, 2, 3]).seconds == 1 + 2.5 + 5 + 4


def test_copies_slow_the_ops_beside_them() -> None:
    graph = _chain(Channel(5.0, slowdown=2.0), Channel(10.0, slowdown=1.5))
    store, release, load = graph.copy_steps(0)
    # The store takes 2 seconds, in which b does one second's work of its two; the load takes 1, in which c does 2/3 of 3.
    simulation = simulate(graph, [0, store, 1, release, load, 2, 3])
    assert simulation.traffic is not None
    assert simulation.traffic.timing.stall.tolist() == [0] * 7
    assert simulation.seconds == pytest.approx(1 + 2 + 1 + (1 + 3 - 2 / 3) + 4)


def test_a_copy_may_be_loaded_twice_and_views_run_again() -> None:
    values = (Value("a", 0), Value("view of a", 0), Value("b", 1), Value("c", 2), Value("d", 3))
    ops = (Op("a", (), (0,)), Op("view", (0,), (1,)), Op("b", (), (2,)), Op("c", (1, 2), (3,)), Op("d", (1, 3), (4,)))
    graph = Graph(ops, values, (Storage(8), Storage(4), Storage(2), Storage(1)))
    graph = graph.with_transfers([Pool("disk", 8, FREE, FREE)], [0])
    store, release, load = graph.copy_steps(0, "disk")
    steps = [0, store, release, 2, load, 1, 3, load, 1, 4]
    assert simulate(graph, steps).bytes.tolist() == [8, 8, 8, 4, 12, 12, 14, 10, 10, 11]
    with pytest.raises(InvalidScheduleError, match="'view of a': not computed by then"):
        simulate(graph, [0, store, release, 2, load, 3])
    with pytest.raises(InvalidScheduleError, match="'view of a': released before"):
        simulate(graph, [0, 1, store, release, 2, load, 3])


def _steps(words: str) -> list[int]:
    """Steps of ``_chain``: ops by number, transfers of a by their kind."""
    copy = _chain().copy_steps(0)
    return [int(word) if word.isdigit() else getattr(copy, word) for word in words.split()]


@pytest.mark.parametrize(
    ("steps", "step", "message"),
    [
        ("0 store release 1 2 3", 3, "reads 'v0': released before, and neither loaded nor computed again"),
        ("store 0 release 1 2 3", 0, "reads 'v0': not computed by then"),
        ("0 release 1 2 3", 1, "which no step before it has stored since it was last released"),
        ("0 store 1 release release 2 load 3", 4, "which no step before it has stored since"),
        ("0 1 load 2 3", 2, "which no step before it has stored"),
        ("0 store 1 load release 2 3", 3, "which no step before it has released"),
        ("0 store 1 store release 2 load 3", 3, "step 1 stored it and no step released that"),
        ("0 store 1 2 3", 1, "which no step releases: its memory could be reused"),
        ("0 store 1 release load 2 0 3", 4, "which no step reads before it is computed or loaded again"),
        ("0 1 2 3 17", 4, "but the graph has 16 ops"),
    ],
)
def test_sequences_that_cannot_run(steps: str, step: int, message: str) -> None:
    with pytest.raises(InvalidScheduleError, match=message) as caught:
        simulate(_chain(), _steps(steps))
    assert caught.value.step == step


def test_the_budget_of_a_pool_covers_its_buffer() -> None:
    steps = _steps("0 store 1 release 2 load 3")
    assert simulate(_chain(budget=16, block=8), steps).pool_peaks == {"host": 16}
    with pytest.raises(InvalidScheduleError, match="take 16 bytes, above the host budget of 15") as caught:
        simulate(_chain(budget=15, block=8), steps)
    assert (caught.value.step, caught.value.op) == (1, "store op0 to host")
    with pytest.raises(InvalidScheduleError, match="above the host budget of 0"):
        simulate(_chain(budget=0), steps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Channel(0.0), "cannot copy 0.0 bytes per second"),
        (lambda: Channel(-1.0), "cannot copy -1.0 bytes"),
        (lambda: Channel(math.nan), "cannot copy nan bytes"),
        (lambda: Channel(1.0, latency=-1.0), "latency of -1.0"),
        (lambda: Channel(1.0, latency=math.inf), "latency of inf"),
        (lambda: Channel(1.0, slowdown=0.5), "factor of 0.5"),
        (lambda: Channel(1.0, slowdown=math.nan), "factor of nan"),
        (lambda: Pool("host", -1, FREE, FREE), "the host budget is -1 bytes"),
        (lambda: Pool("tape", 1, FREE, FREE), "'tape' is not a pool"),  # type: ignore[arg-type]
        (lambda: Pool("disk", 1, FREE, FREE, block=0), "rounded up to 0 bytes"),
        (lambda: _chain().with_transfers([Pool("host", 1, FREE, FREE)] * 2), "two pools are named 'host'"),
        (lambda: _chain().with_transfers([Pool("host", 1, FREE, FREE)], [4]), "storage 4 cannot be copied"),
        (lambda: _chain().with_transfers([Pool("host", 1, FREE, FREE)], [0, 0]), "named twice"),
    ],
)
def test_malformed_pools(make: object, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()  # type: ignore[operator]


def test_what_can_be_copied() -> None:
    values = (Value("x", 0), Value("a", 1), Value("view", 1), Value("b", 2), Value("b+", 2), Value("loss", 3), Value("g", 4))
    ops = (
        Op("a", (0,), (1,), 1.0),
        Op("view", (1,), (2,)),
        Op("b", (2,), (3,), 1.0),
        Op("in place", (3,), (4,), 1.0),
        Op("loss", (4,), (5,), 1.0, outside=True),
        Op("g", (5,), (6,), 1.0),
    )
    graph = Graph(ops, values, (Storage(4, constant=True), *[Storage(1)] * 4), results=(6,))
    assert graph.copyable == (1,)
    assert replace(graph, results=()).copyable == (1, 4)
