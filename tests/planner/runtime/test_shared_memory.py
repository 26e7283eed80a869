"""Outputs in one storage, changed in place by the caller: eager's gradients, or a refusal by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.errors import ChangedInBetweenError
from tests.planner.runtime.planned_net import equal, gradients, planned

Change = Callable[[dict[str, torch.Tensor]], torch.Tensor]


class Views(nn.Module):
    """A result, two views of it, the result without history, and one that is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.linear(x) * 2
        return {"all": h, "flat": h.view(-1), "some": h[:, :2], "seen": h.detach(), "other": self.other(x) * 3}


def built() -> tuple[Any, Views, torch.Tensor]:
    torch.manual_seed(0)
    model, x = Views(), torch.randn(3, 4)
    eager = copy.deepcopy(model)
    return planned(model, (x,)), eager, x


def changed(output: dict[str, torch.Tensor], name: str, *read: str) -> torch.Tensor:
    output[name].mul_(3)
    return torch.stack([output[one].square().sum() for one in read]).sum()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "read"), [("all", "flat"), ("flat", "all"), ("some", "all"), ("all", "some")])
def test_a_change_that_reaches_another_output_is_refused(name: str, read: str):
    ours, _, x = built()
    loss = changed(ours(x), name, read)
    with pytest.raises(ChangedInBetweenError, match=r"output \['all'\], output \['flat'\].*Change a clone") as caught:
        loss.backward()
    assert f"output ['{read}']" in caught.value.names
    ours, _, x = built()
    with pytest.raises(ChangedInBetweenError):
        changed(ours(x), name, name, read).backward()


@pytest.mark.parametrize(
    ("name", "read"), [("all", "all"), ("flat", "flat"), ("seen", "other"), ("other", "other"), ("all", "other")]
)
def test_other_changes_are_eagers(name: str, read: str):
    ours, eager, x = built()
    for model in (eager, ours):
        output = model(x)
        changed(output, name, read).backward()
    assert equal(gradients(ours), gradients(eager))


def test_outputs_that_nobody_changes_get_all_their_gradients():
    ours, eager, x = built()
    for model in (eager, ours):
        output = model(x)
        torch.stack([tensor.square().sum() for name, tensor in output.items() if name != "seen"]).sum().backward()
    assert equal(gradients(ours), gradients(eager))


def test_an_output_in_the_memory_of_an_input_is_not_followed_to_the_input():
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.view(-1), x.sum() * self.weight

    model = View()
    ours = planned(model, (torch.ones(2, 3, requires_grad=True),))
    x = torch.ones(2, 3, requires_grad=True) * 1
    flat, _ = ours(x)
    flat.mul_(2)
    with pytest.raises(ChangedInBetweenError, match="that of an input or parameter"):
        (flat.sum() + x.square().sum()).backward()


class SameForm(nn.Module):
    """A result and views of it in its own form, one of which the forward reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.linear(x).tanh()
        rows = h.reshape(-1, 16)
        return rows.exp(), rows, h, h.view(64, 16), h


def _squares(output: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack([one.square().mean() * (k + 1) for k, one in enumerate(output)]).sum()


def test_views_of_the_same_form_are_outputs_of_their_own():
    """Returned as one tensor, autograd would add up the gradients of both before those that the forward's own readers send."""
    torch.manual_seed(0)
    model, x = SameForm(), torch.randn(64, 16)
    eager = copy.deepcopy(model)
    step = planned(model, (x,), loss=_squares)
    output = step(x)
    assert output[1] is not output[2]
    assert output[2] is output[4]
    _squares(output).backward()
    _squares(eager(x)).backward()
    assert equal(gradients(step), gradients(eager))
