"""Random draws of a planned step: from the default generator or one of the user's own, once and repeated."""

from __future__ import annotations

import pytest
import torch

from remat_planner.planner.codegen.rng_replay import DrawnFrom

CPU = torch.device("cpu")


def default_and_own() -> list[DrawnFrom]:
    torch.manual_seed(0)
    return [DrawnFrom(CPU), DrawnFrom(CPU, torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("k", [0, 1], ids=["default", "own"])
def test_a_repeated_draw_gives_the_same_and_leaves_the_stream_alone(k: int):
    drawn_from = default_and_own()[k]
    draw, state_now, repeat = drawn_from.drawing(torch.rand), drawn_from.state(), drawn_from.repeating(torch.rand)
    draw(7)
    state = state_now()
    first = draw(5)
    draw(3)
    before = state_now()
    assert torch.equal(repeat(state, 5), first)
    assert torch.equal(repeat(state, 5), first)
    assert torch.equal(state_now(), before)


def test_a_repeated_draw_that_fails_leaves_the_stream_alone():
    def failing() -> None:
        torch.rand(3)
        raise MemoryError

    drawn_from = DrawnFrom(CPU)
    before = drawn_from.state()()
    torch.manual_seed(1)
    state = drawn_from.state()()
    torch.set_rng_state(before)
    with pytest.raises(MemoryError):
        drawn_from.repeating(failing)(state)
    assert torch.equal(drawn_from.state()(), before)


def test_a_draw_from_an_own_generator_leaves_the_default_one_alone():
    own = torch.Generator().manual_seed(5)
    before = torch.get_rng_state()
    drawn = DrawnFrom(CPU, own).drawing(torch.ops.aten.rand.generator)([4], generator=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_a_generator_among_the_positional_arguments_is_passed_in_its_place():
    own = torch.Generator().manual_seed(5)
    drawn = DrawnFrom(CPU, own).drawing(torch.ops.aten.poisson.default)(torch.full((4,), 9.0), None)
    assert torch.equal(drawn, torch.poisson(torch.full((4,), 9.0), torch.Generator().manual_seed(5)))
