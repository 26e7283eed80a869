"""Training loops that keep values in Python: the planned model follows what the forward reads, and leaves the same behind."""

from __future__ import annotations

import collections
import copy
import random
import time
import types
from typing import Any

import pytest
import torch

from remat_planner import apply_schedule, plan
from remat_planner.tracer.errors import CaptureError, DataDependentError, PythonStateError
from tests.planner.runtime.python_state_models import SETTINGS, Net, X, assert_trains_as_eager, hidden, mean_square, trained

COLLECTED: list[torch.Tensor] = []


@pytest.mark.slow
def test_an_auxiliary_loss_in_an_attribute() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    assert_trains_as_eager(lambda: Net(forward, aux=0.0), lambda: (X,), lambda m, _: mean_square(m(X)) + m.aux)


@pytest.mark.slow
def test_an_auxiliary_loss_that_only_some_steps_use() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    assert_trains_as_eager(
        lambda: Net(forward, aux=0.0), lambda: (X,), lambda m, k: mean_square(m(X)) + (m.aux if k == 1 else 0)
    )


@pytest.mark.slow
def test_a_loss_that_reads_what_the_forward_left() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, aux=0.0)
    model = copy.deepcopy(eager)
    expected = trained(eager, lambda m, _: mean_square(m(X)) + m.aux)
    schedule = plan(model, (X,), budget="100%", solver="none", loss=lambda y: mean_square(y) + model.aux)
    ours = trained(apply_schedule(model, schedule), lambda m, _: mean_square(m(X)) + m.aux)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.slow
def test_auxiliary_losses_in_a_global_list() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        COLLECTED.append(h.abs().mean())
        return m.b(h)

    def step(m: Net, _: int) -> torch.Tensor:
        COLLECTED.clear()
        return mean_square(m(X)) + sum(COLLECTED)

    COLLECTED.clear()
    assert_trains_as_eager(lambda: Net(forward), lambda: (X,), step)
    COLLECTED.clear()
    plan(Net(forward), (X,), budget="100%", solver="none", loss=mean_square)
    assert COLLECTED == []


@pytest.mark.slow
def test_auxiliary_losses_in_a_list_of_the_callers() -> None:
    def forward(m: Net, x: torch.Tensor, losses: list[torch.Tensor]) -> torch.Tensor:
        h = hidden(m, x)
        losses.append(h.abs().mean())
        return m.b(h)

    def step(m: Net, _: int) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        return mean_square(m(X, losses)) + sum(losses)

    assert_trains_as_eager(lambda: Net(forward), lambda: (X, []), step)


def test_a_dictionary_of_the_callers_that_the_forward_fills() -> None:
    def forward(m: Net, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch["h"] = hidden(m, batch["x"])
        batch["y"] = m.b(batch["h"])
        return batch

    def step(m: Net, _: int) -> torch.Tensor:
        batch = {"x": X}
        m(batch)
        return mean_square(batch["y"])

    assert_trains_as_eager(lambda: Net(forward), lambda: ({"x": X},), step)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "read", "change"),
    [
        ({"config": types.SimpleNamespace(gain=1.0)}, lambda m: m.config.gain, lambda m, k: setattr(m.config, "gain", 1.0 + k)),
        ({"table": {"gain": [1.0]}}, lambda m: m.table["gain"][0], lambda m, k: m.table["gain"].__setitem__(0, 1.0 + k)),
        ({}, lambda _: SETTINGS["gain"], lambda _, k: SETTINGS.__setitem__("gain", 1.0 + k)),
    ],
    ids=["object", "nested containers", "global"],
)
def test_numbers_that_the_training_loop_changes(attributes: dict[str, Any], read: Any, change: Any) -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        change(m, k)
        return mean_square(m(X))

    SETTINGS["gain"] = 1.0
    try:
        assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * read(m), **attributes), lambda: (X,), step)
    finally:
        SETTINGS["gain"] = 1.0


TABLES = {"table": torch.ones(4)}


def _replace_attribute(m: Net, table: torch.Tensor) -> None:
    m.table = table


def _replace_item(m: Net, table: torch.Tensor) -> None:
    m.tables[0] = table


def _replace_entry(m: Net, table: torch.Tensor) -> None:
    m.named["table"] = table


def _replace_global(_: Net, table: torch.Tensor) -> None:
    TABLES["table"] = table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "read", "replace"),
    [
        ({"table": torch.ones(4)}, lambda m: m.table, _replace_attribute),
        ({"tables": [torch.ones(4)]}, lambda m: m.tables[0], _replace_item),
        ({"named": collections.UserDict(table=torch.ones(4))}, lambda m: m.named["table"], _replace_entry),
        ({}, lambda _: TABLES["table"], _replace_global),
    ],
)
def test_a_tensor_that_is_no_buffer_is_replaced(attributes: dict[str, Any], read: Any, replace: Any) -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        replace(m, torch.full((4,), 1.0 + k))
        return mean_square(m(X))

    assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * read(m), **attributes), lambda: (X,), step)


@pytest.mark.slow
def test_a_tensor_that_is_replaced_by_an_equal_one_and_then_changed() -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        if k == 0:
            m.table = torch.ones(4)
        else:
            m.table.mul_(2)
        return mean_square(m(X))

    assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * m.table, table=torch.ones(4)), lambda: (X,), step)


def test_a_copy_reads_its_own_tensors() -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: m.b(hidden(m, x)) * m.table, table=torch.ones(4))
    copied = copy.deepcopy(apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square)))
    copied.table.mul_(3)
    assert torch.equal(copied(X), model(X) * 3)


def test_nan_among_the_constants_is_no_difference() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        return m.b(hidden(m, x)) + torch.tensor([float("nan"), 1.0, 2.0, 3.0]).nan_to_num()

    assert_trains_as_eager(lambda: Net(forward), lambda: (X,), lambda m, _: mean_square(m(X)))


@pytest.mark.slow
def test_a_number_in_an_object_that_is_an_argument() -> None:
    options = types.SimpleNamespace(gain=1.0)

    def step(m: Net, k: int) -> torch.Tensor:
        options.gain = 1.0 + k
        return mean_square(m(X, options))

    assert_trains_as_eager(lambda: Net(lambda m, x, o: m.b(hidden(m, x)) * o.gain), lambda: (X, options), step)


def test_statistics_in_containers_are_there_after_a_planned_step() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.stats = {"mean": h.detach().mean(), "shape": tuple(h.shape), "parts": [h.detach().amax(), 1]}
        m.space.last = h.detach()
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, stats=None, space=types.SimpleNamespace(last=None))
    model = copy.deepcopy(eager)
    planned = apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square))
    eager(X), planned(X)
    assert torch.equal(planned.stats["mean"], eager.stats["mean"])
    assert planned.stats["shape"] == eager.stats["shape"]
    assert torch.equal(planned.stats["parts"][0], eager.stats["parts"][0])
    assert torch.equal(planned.space.last, eager.space.last)


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_ring_of_recent_outputs_grows_and_turns_as_in_eager(seen: int) -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.recent.append(h.detach().mean())
        m.recent.append(h.detach().amax())
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, recent=collections.deque(maxlen=3))
    for _ in range(seen):
        eager(X)
    model = copy.deepcopy(eager)
    planned = apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square))
    for _ in range(3):
        eager(X), planned(X)
    assert len(planned.recent) == planned.recent.maxlen == 3
    assert all(torch.equal(a, b) for a, b in zip(planned.recent, eager.recent, strict=True))


def _counts(m: Net, x: torch.Tensor) -> torch.Tensor:
    m.counts["steps"] += 1
    return m.b(hidden(m, x)) * m.counts["steps"]


def _reads_the_last(m: Net, x: torch.Tensor) -> torch.Tensor:
    h = hidden(m, x)
    y = m.b(h) + (m.last[-1] if m.last else 0)
    m.last.append(y.detach())
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "attributes", "name"),
    [
        (_counts, {"counts": collections.Counter()}, r"counts\['steps'\]"),
        (_reads_the_last, {"last": []}, "last"),
    ],
)
def test_state_that_the_next_step_reads_is_refused_by_name(forward: Any, attributes: dict[str, Any], name: str) -> None:
    model = Net(forward, **attributes)
    with pytest.raises(PythonStateError, match=name):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)
    assert not model.counts if "counts" in attributes else model.last == []


def test_a_generator_of_the_models_own_is_refused() -> None:

    model = Net(lambda m, x: m.b(hidden(m, x)) * m.random.random(), random=random.Random(0))
    state = model.random.getstate()
    with pytest.raises(CaptureError, match=r"random"):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)
    assert model.random.getstate() == state


def test_a_forward_that_varies_by_itself_is_refused() -> None:
    model = Net(lambda m, x: m.b(hidden(m, x)) * time.monotonic())
    with pytest.raises(DataDependentError, match="recorded twice"):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)
