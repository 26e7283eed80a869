"""Calls with other sizes: captured once for all of them, with the bits of eager."""

from __future__ import annotations

import copy
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.apply import planned_call
from remat_planner.planner.planning import sized_steps

WIDTH = 8
LENGTHS = (14, 11, 13, 9, 2, 1, 8, 31, 12)


class Net(nn.Module):
    """Two layers; the rest of the step depends on the length of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout, self.norm = nn.Dropout(0.3), nn.BatchNorm1d(WIDTH)
        self.positions = nn.Parameter(torch.randn(40, WIDTH))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class Branches(Net):
    def forward(self, x):
        h = self.hidden(x)
        return (h * 2 if x.shape[1] > 12 else h.tanh()).mean()


class BranchesOnIntegers(Net):
    def forward(self, x):
        h, n = self.hidden(x), x.shape[1]
        if isinstance(n, int) and type(n) is int and n > 12:
            h = h * 2
        return h.mean()


class Numbers(Net):
    def forward(self, x):
        n = x.shape[1]
        h = self.hidden(x)[:, : (n + 1) // 2] * (1.0 / n) + n**-0.5
        return h.sum() / (n % 5 + 1)


class RoundedTwice(Net):
    def forward(self, x):
        return (self.hidden(x) * ((x.shape[1] * 0.1) * 3)).mean()


class SquareRoot(Net):
    def forward(self, x):
        return (self.hidden(x) / math.sqrt(x.shape[1])).mean()


class Positions(Net):
    def forward(self, x):
        n = x.shape[1]
        places = torch.arange(n, dtype=torch.float32)[None, :, None] / n
        return (self.hidden(x) + self.positions[:n] * places).square().mean()


class Masked(Net):
    def forward(self, x):
        h, n = self.hidden(x), x.shape[1]
        hidden = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
        weights = (h @ h.transpose(1, 2)).masked_fill(hidden, -1e9).softmax(-1)
        heads = h.view(x.shape[0], n, 2, WIDTH // 2).transpose(1, 2)
        return (weights @ h).square().mean() + F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).mean()


class Random(Net):
    def forward(self, x):
        h = self.norm(self.hidden(self.dropout(x)).transpose(1, 2))
        return (self.dropout(h) * torch.rand(x.shape[1])).square().mean()


class ReturnsLength(Net):
    def forward(self, x):
        return {"loss": self.hidden(x).square().mean(), "length": x.shape[1]}


class ReturnsObject(Net):
    def forward(self, x):
        sizes = SimpleNamespace(length=x.shape[1], more=[{"next": x.shape[1] + 1}])
        return {"loss": self.hidden(x).square().mean(), "length": sizes}


class ByText(Net):
    def forward(self, x):
        return (self.hidden(x) * len(f"{x.shape[1]}")).mean()


class ReadsMask(Net):
    def forward(self, x):
        h, is_padding = self.hidden(x), x[..., 0] > 100
        return (h * 1.5 if not is_padding.any() else h).mean()


def step(model: nn.Module, shape: tuple[int, ...], seed: int) -> list[Any]:
    """What a training step leaves: loss, gradients, buffers, random state, and the length if it is returned."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, WIDTH, generator=generator).requires_grad_()
    torch.manual_seed(seed)
    model.zero_grad()
    output = model(x)
    loss, length = (output["loss"], output["length"]) if isinstance(output, dict) else (output, None)
    loss.backward()
    return [
        loss.detach(),
        x.grad,
        *(p.grad for p in model.parameters()),
        *map(torch.clone, model.buffers()),
        torch.rand(1),
        length,
    ]


def is_same(one: list[Any], other: list[Any]) -> bool:
    """Whether two steps leave the same bits."""
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def planned_net(kind: type[Net], budget: str = "100%") -> tuple[nn.Module, nn.Module]:
    """An eager model, and a copy that is planned for 5 inputs of length 31."""
    torch.manual_seed(0)
    model = kind()
    eager = copy.deepcopy(model)
    x = torch.randn(5, 31, WIDTH).requires_grad_()
    return eager, remat_planner.apply_schedule(
        model, remat_planner.plan(model, (x,), budget=budget, verify=False, time_limit=2)
    )


def larger(planned: nn.Module) -> int:
    """Number of programs that run the schedule of a larger step."""
    return sum(program.is_larger for program in planned_call(planned).programs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "for_all_sizes"),
    [
        (Branches, True),
        (BranchesOnIntegers, True),
        (Numbers, True),
        (Positions, True),
        (Masked, True),
        (Random, True),
        (ReturnsLength, True),
        (ReadsMask, True),
        (RoundedTwice, True),
        (SquareRoot, True),
        (ReturnsObject, False),
        (ByText, False),
    ],
)
def test_every_length_has_eagers_bits(kind, for_all_sizes, caplog):
    eager, planned = planned_net(kind)
    with caplog.at_level(logging.WARNING, "remat_planner"):
        for length in LENGTHS:
            assert is_same(step(eager, (5, length), length), step(planned, (5, length), length)), length
    assert (larger(planned) >= len(LENGTHS) - 4) is for_all_sizes  # 1, 31 and lengths that equal other sizes by chance
    assert caplog.text.count("anew for each size") == (not for_all_sizes)
    assert caplog.text.count("captured once for all sizes") == for_all_sizes * (2 if "Branches" in kind.__name__ else 1)


@pytest.mark.slow
def test_two_sizes_change_independently():
    eager, planned = planned_net(Random)
    for shape in ((5, 20), (5, 18), (3, 17), (2, 31), (4, 9), (1, 9), (3, 1), (3, 5)):
        assert is_same(step(eager, shape, sum(shape)), step(planned, shape, sum(shape))), shape
    assert larger(planned) >= 6


@pytest.mark.slow
def test_smaller_sizes_run_a_larger_schedule_within_the_budget_and_a_larger_size_is_refused():
    eager, planned = planned_net(Branches, "min")
    call = planned_call(planned)
    for length in (20, 17, 29):
        assert is_same(step(eager, (5, length), length), step(planned, (5, length), length))
    (schedule,) = {id(program.schedule): program.schedule for program in call.programs if program.is_larger}.values()
    assert schedule.peak_bytes <= schedule.budget == call.schedule.budget
    with pytest.raises(remat_planner.InfeasibleBudgetError, match=r"float32\[5, 60, 8\]"):
        planned(torch.randn(5, 60, WIDTH).requires_grad_())


@pytest.mark.slow
def test_a_changed_number_of_the_model_is_seen_for_every_size():
    class Scaled(Net):
        factor = 1.0

        def forward(self, x):
            return (self.hidden(x) * self.factor).mean()

    eager, planned = planned_net(Scaled)
    for length, factor in ((20, 1.0), (17, 1.0), (16, 2.0), (17, 2.0), (20, 3.0)):
        eager.factor = planned.factor = factor
        assert is_same(step(eager, (5, length), length), step(planned, (5, length), length)), (length, factor)


@pytest.mark.slow
def test_a_copy_has_programs_of_its_own():
    eager, planned = planned_net(Branches)
    step(planned, (5, 20), 0)
    copied = copy.deepcopy(planned)
    for length in (20, 31, 19):
        assert is_same(step(eager, (5, length), length), step(copied, (5, length), length)), length


def test_a_length_that_equals_the_width_is_no_reason_for_another_capture(monkeypatch: pytest.MonkeyPatch):
    class Attends(Net):
        def forward(self, x):
            h = self.hidden(x)
            return (h @ h.transpose(1, 2)).softmax(-1).bmm(h).mean()

    torch.manual_seed(0)
    eager = Attends()
    model, x = copy.deepcopy(eager), torch.randn(5, WIDTH, WIDTH).requires_grad_()
    schedule = remat_planner.plan(model, (x,), budget="100%", verify=False, time_limit=2)
    planned = remat_planner.apply_schedule(model, schedule)
    step(planned, (5, WIDTH), 0)
    monkeypatch.setattr(sized_steps, "capture", lambda *_, **__: pytest.fail("captured once more"))
    for length in (WIDTH - 1, WIDTH - 2, WIDTH, WIDTH - 3):
        assert is_same(step(eager, (5, length), length), step(planned, (5, length), length)), length
    assert larger(planned) == 3
    assert {program.schedule is schedule for program in planned_call(planned).programs} == {True}
