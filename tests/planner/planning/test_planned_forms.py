"""The form of a call is found among the planned ones, or refused with both in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.planning import describe_call, planned_form
from remat_planner.schedules import Origin, Schedule, StaleScheduleError
from tests.planner.layered_step import layered_schedule


def planned_for(*rows: int, **more: Any) -> Schedule:
    forms = [
        dataclasses.replace(layered_schedule(2, recomputed=1), origin=Origin(inputs={"[0]": f"float32[{n}, 2]"}, **more))
        for n in rows
    ]
    return dataclasses.replace(forms[0], companions=tuple(forms[1:]))


def test_the_form_of_a_call_is_found():
    schedule = planned_for(4, 8)
    model = nn.Linear(2, 2)
    assert planned_form(model, schedule, (torch.ones(4, 2),), {}) is schedule
    assert planned_form(model, schedule, (torch.ones(8, 2),), {}) is schedule.companions[0]


def test_one_built_by_hand_fits_every_call():
    schedule = layered_schedule(2, recomputed=1)
    assert planned_form(nn.Linear(2, 2), schedule, (torch.ones(3, 2),), {}) is schedule


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ((4,), r"planned for \[0\]: float32\[4, 2\], and this call is \[0\]: float32\[5, 2\]"),
        ((4, 6), r"\[4, 2\]; for \[0\]: float32\[6, 2\], and"),
        ((1, 2, 3, 4, 6, 7), r"\[4, 2\] and 2 more forms, and"),
    ],
)
def test_another_one_is_refused_by_name(rows: tuple[int, ...], named: str):
    with pytest.raises(StaleScheduleError, match=named) as caught:
        planned_form(nn.Linear(2, 2), planned_for(*rows), (torch.ones(5, 2),), {})
    assert len(caught.value.differences) == 1


def test_modes_and_autocast_are_parts_of_the_form():
    x = torch.ones(4, 2)
    with pytest.raises(StaleScheduleError, match=r"this call is .* the model in evaluation mode"):
        planned_form(nn.Linear(2, 2).eval(), planned_for(4), (x,), {})
    with pytest.raises(StaleScheduleError, match=r"planned for .* autocast to bfloat16 on cpu, and"):
        planned_form(nn.Linear(2, 2), planned_for(4, autocast={"cpu": "bfloat16"}), (x,), {})


def test_a_form_in_words():
    call = Origin(inputs={}, modes={f"layers.{k}": "evaluation" for k in range(6)})
    assert describe_call(call).startswith("no inputs, layers.0 in evaluation mode, ")
    assert describe_call(call).endswith("3 more modules in another mode than the one around them")
