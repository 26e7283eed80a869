"""Gradients that depend on the same tangents leave together, in chains from segment to segment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from remat_planner.planner.codegen.cuts import HandedOver
from remat_planner.planner.codegen.handovers import Handover, handovers

BOTH, FIRST, SECOND = frozenset([0, 1]), frozenset([0]), frozenset([1])


def made(owners: str, *segments: list[tuple[int, frozenset[int]]]) -> list[Handover]:
    """``owners``: "p" for a parameter, "i" for an input; ``segments``: what leaves, as (gradient, tangents)."""
    kinds = {"p": "parameter", "i": "input"}
    joint: Any = SimpleNamespace(gradients=[SimpleNamespace(owner=kinds[letter]) for letter in owners])
    parts = [[HandedOver(gradient, 0, tangents) for gradient, tangents in segment] for segment in segments]
    return list(handovers(joint, parts))


def test_one_set_of_tangents_makes_one_chain():
    first, second, third = made("ppp", [(0, BOTH)], [], [(2, BOTH), (1, BOTH)], [(0, BOTH)])
    assert [one.segment for one in (first, second, third)] == [0, 2, 3]
    assert [one.following for one in (first, second, third)] == [1, 2, None]
    assert second.gradients == (2, 1)
    assert all(one.positions is None for one in (first, second, third))


def test_other_tangents_make_another_chain_that_ends_in_one_that_more_reach():
    found = made("pppp", [(0, FIRST), (1, SECOND), (2, FIRST)], [(3, BOTH)])
    assert [(one.tangents, one.positions, one.following) for one in found] == [
        (FIRST, (0,), 2),
        (SECOND, (1,), 3),
        (FIRST, (2,), 3),
        (BOTH, None, None),
    ]


def test_the_gradient_of_an_input_waits_for_the_ends_of_the_chains_on_the_way_to_it():
    found = made("ipp", [(0, BOTH), (1, SECOND)], [(2, BOTH)])
    assert [one.awaited_by for one in found] == [(), (0,), (0,)]
    assert found[2].receivers == (2, 0)
    found = made("ip", [(0, FIRST)], [(1, SECOND)])
    assert [one.awaited_by for one in found] == [(), ()]
