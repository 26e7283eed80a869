"""What a call can reach: modules, classes of the user's, arguments."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.python_state import Snapshot, argument_starts, starts_of


class Shared(nn.Module):
    """Keeps a list on the class."""

    losses: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = self.linear(x).square().mean()
        self.losses.append(loss.detach())
        return loss


def test_modules_classes_and_arguments_are_there():
    model, given = nn.Sequential(Shared()), {"scale": [1]}
    snapshot = Snapshot(starts_of(model, (given,), {"more": [2]}))
    given["scale"].append(3)
    Shared.losses.append(4)
    model[0].new = 5
    assert {name for change in snapshot.changes() for name in change.names} == {
        "args[0]['scale'][1]",
        "class Shared.losses[0]",
        "0.new",
    }
    snapshot.put_back()
    assert (given, Shared.losses) == ({"scale": [1]}, [])
    assert not hasattr(model[0], "new")


def test_arguments_alone():
    given = [1]
    snapshot = Snapshot(argument_starts((), {"more": given}))
    given.clear()
    assert [change.names for change in snapshot.changes()] == [["kwargs['more']"]]


def test_planning_leaves_nothing_in_a_list_of_the_class():
    joint = capture(Shared(), (torch.ones(1, 2),))
    assert Shared.losses == []
    assert [effect.label for effect in joint.effects.made] == ["class Shared.losses"], "each planned call appends again"
