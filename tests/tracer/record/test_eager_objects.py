"""A forward sees of its tensors what eager's shows as Python objects: class, text, copies; or the step is refused by name."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import CaptureError, DataDependentError, PythonStateError, StateReassignedError
from remat_planner.tracer.errors import UnsupportedOperatorError as Unsupported
from remat_planner.tracer.record.eager_types import EagerType
from tests.tracer.cases import Written, linear, mean_square, noise

Shown = Callable[[Written, torch.Tensor, torch.Tensor], Any]

SHOWN: dict[str, Shown] = {
    "f-string": lambda m, x, h: f"{m.n} {m.k} {m.n:.2f}",
    "str and repr": lambda m, x, h: str(m.k) + repr(m.n),
    "format": lambda m, x, h: "{:>4} {}".format(m.k.sum(), m.k),  # noqa: UP032
    "percent": lambda m, x, h: "%s %r %d" % (m.n, m.k, m.n),  # noqa: UP031
    "in a list": lambda m, x, h: str([m.k, {"a": m.n}]),
    "of an input": lambda m, x, h: str(x[:1]),
    "of a plain attribute": lambda m, x, h: str(m.config["t"]),
    "class": lambda m, x, h: (type(h).__name__, type(h) is torch.Tensor, type(m.a.weight) is nn.Parameter),
    "isinstance": lambda m, x, h: (isinstance(m.a.weight, nn.Parameter), isinstance(m.k, nn.Buffer), isinstance(h, type(x))),
    "class of a class": lambda m, x, h: (isinstance(nn.Linear, type), type(nn.Linear) is type, type("A", (), {}).__name__),
}


def net(shown: Shown) -> Written:
    def forward(m: Written, x: torch.Tensor) -> Any:
        h = m.a(x)
        return {"loss": mean_square(h), "shown": shown(m, x, h)}

    return Written(forward, a=linear(), n=torch.tensor(2.5), k=torch.tensor([1, 2]), config={"t": torch.ones(2)})


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_forward_sees_what_eager_shows(name: str):
    model, x = net(SHOWN[name]), noise()
    outputs = capture(model, (x,)).outputs
    shown = model(x)["shown"]
    constants = [leaf.constant for leaf in outputs if leaf.node is None]
    assert constants == (list(shown) if isinstance(shown, tuple) else [shown])


@pytest.mark.slow
def test_a_text_is_guarded_by_the_values_in_it():
    joint = capture(net(lambda m, x, h: f"{m.n}"), (noise(),))
    (group,) = joint.guards.groups
    assert [leaf.index for leaf in group.leaves] == [0]
    assert not joint.guards.hold([torch.tensor(3.0), torch.tensor([1, 2])], [noise()])


def assigned(m: Written, x: torch.Tensor, h: torch.Tensor) -> None:
    m.config[h] = 1


REFUSED: dict[str, tuple[Shown, type[CaptureError], str]] = {
    "text": (lambda m, x, h: f"{h}", DataDependentError, "its text"),
    "text of a parameter": (lambda m, x, h: str(m.a.weight), DataDependentError, "its text"),
    "print": (lambda m, x, h: print(h.sum()), DataDependentError, "its text"),
    "pickle": (lambda m, x, h: pickle.dumps(m.k), Unsupported, "pickles"),
    "copy": (lambda m, x, h: copy.copy(h), Unsupported, r"copies it by copy\.copy"),
    "deep copy of a module": (lambda m, x, h: copy.deepcopy(m.a), Unsupported, r"copy\.deepcopy"),
    "deep copy of a part": (lambda m, x, h: copy.deepcopy(m.k[:1]), Unsupported, r"copy\.deepcopy"),
    "conversion": (lambda m, x, h: m.a.double(), StateReassignedError, r"parameter a\.weight becomes another"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_fake_cannot_show_is_refused_at_its_line(name: str):
    shown, kind, message = REFUSED[name]
    with pytest.raises(kind, match=rf"test_eager_objects\.py:\d+: .*{message}"):
        capture(net(shown), (noise(),))


def test_a_tensor_as_a_key_of_state_is_refused_by_name():
    with pytest.raises(PythonStateError, match=r"config\[tensor 0x"):
        capture(net(assigned), (noise(),))


def test_a_text_that_nobody_reads_is_not_written():
    capture(net(lambda m, x, h: logging.getLogger("nobody").debug("%s", h)), (noise(),))


def test_copies_and_conversions_that_change_nothing_are_recorded():
    def shown(m: Written, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        m.a = m.a.to(x.dtype).float()
        m.a.weight = m.a.weight
        return copy.deepcopy([x, x])[0] + copy.deepcopy(h.detach())

    model, x = net(shown), noise()
    weight = model.a.weight
    outputs = capture(model, (x,)).outputs
    assert model.a.weight is weight
    copied = outputs[1].node
    assert copied is not None
    assert sum("clone" in str(node.target) for node in copied.graph.nodes) == 2  # one for both entries of the list


def test_the_class_of_classes_is_that_of_python():
    assert {EagerType: 1} == {type: 1}
    assert hash(EagerType) == hash(type)
    assert EagerType[int] == type[int]
    assert issubclass(type, EagerType)
    assert EagerType(3) is int
