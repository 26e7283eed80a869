"""Several forwards before the first backward: bytes known by hand."""

from __future__ import annotations

from dataclasses import replace

from remat_planner.schedules import Channel, Graph, Op, Pool, Schedule, Storage, Value


def _schedule(*, loss: bool) -> Schedule:
    """Input (7), f -> a (100), g -> output (8); a loss (1) or a gradient that arrives; b reads a -> a gradient (40)."""
    sizes = {"weight": 40, "input": 7, "a": 100, "output": 8, "tangent": 8, "loss": 1, "gradient": 40}
    storages = tuple(Storage(size, constant=name in ("weight", "input")) for name, size in sizes.items())
    at = {name: k for k, name in enumerate(sizes)}
    between = Op(
        "loss",
        reads=(at["output"],),
        writes=(at["tangent"], at["loss"]) if loss else (at["tangent"],),
        workspace=20 if loss else 0,
        phase="backward",
        outside=True,
    )
    ops = (
        Op("f", reads=(at["input"],), writes=(at["a"],)),
        Op("g", reads=(at["weight"], at["a"]), writes=(at["output"],)),
        between,
        Op("b", reads=(at["a"], at["tangent"]), writes=(at["gradient"],), phase="backward"),
    )
    graph = Graph(
        ops=ops,
        values=tuple(Value(name, k) for name, k in at.items()),
        storages=storages,
        results=tuple(at[name] for name in ("output", "gradient", "loss" if loss else "tangent")),
        constants={"parameters": 40, "inputs": 7},
    )
    return Schedule(graph=graph, steps=tuple(range(4)), budget=1000, solver="none", status="feasible", bound_seconds=0.0)


def test_what_a_forward_holds() -> None:
    assert _schedule(loss=False).held_bytes == 100 + 8 + 8  # with the gradient that its backward is given, which stays
    assert _schedule(loss=True).held_bytes == 100 + 8 + 1


def test_every_forward_holds_its_own_and_gradients_are_there_from_the_second_backward_on() -> None:
    schedule = _schedule(loss=False)
    assert schedule.peak_in_flight(1) == schedule.peak_bytes == 47 + 100 + 8 + 8 + 40
    each = 100 + 8 + 8 + 7
    assert schedule.peak_in_flight(2) == schedule.peak_bytes + each
    assert schedule.peak_in_flight(4) == schedule.peak_bytes + 3 * each


def test_what_is_on_the_host_is_not_held() -> None:
    plain = _schedule(loss=True)
    graph = plain.graph.with_transfers([Pool("host", 100, Channel(1.0), Channel(1.0))])
    store, release, load = graph.copy_steps(graph.ops[0].writes[0])
    copied = replace(plain, graph=graph, steps=(0, 1, store, release, 2, load, 3))
    assert copied.held_bytes == plain.held_bytes - 100
    assert copied.peak_bytes == plain.peak_bytes  # that of the last step
    each = 8 + 1 + 7 + (20 + 8)
    assert copied.peak_in_flight(3) == copied.peak_bytes + each + (8 + 1 + 40)  # gradients take more than one forward holds


def test_what_a_loss_keeps_is_not_more_than_it_takes() -> None:
    schedule = _schedule(loss=True)
    assert schedule.peak_bytes == 47 + 100 + 8 + 8 + 1 + 40
    each = 100 + 8 + 1 + 7 + (20 + 8)
    assert schedule.peak_in_flight(3) == schedule.peak_bytes + 2 * each
