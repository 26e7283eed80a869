"""A place of Python state can be read quickly each time, and something else can be put there for a while."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from remat_planner.tracer.python_state import Place, Roots

Pair = namedtuple("Pair", ["left", "right"])


class Slotted:
    __slots__ = ("value",)


@dataclass(frozen=True)
class Frozen:
    value: int


def with_default(value: int = 1) -> int:
    return value


def around(value: int) -> types.CellType:
    return (lambda: value).__closure__[0]  # type: ignore[index]


def slotted() -> Slotted:
    made = Slotted()
    made.value = 1
    return made


def module(value: Any) -> nn.Module:
    made = nn.Module()
    made.held = value
    return made


HELD = Place("", "", "module").attribute("held")
# What the attribute "held" of a module is, and where in it the number 1 is.
PLACES: dict[str, tuple[Any, Place]] = {
    "an attribute": (1, HELD),
    "a list": ([0, 1], HELD.item(1)),
    "a deque": (deque([1]), HELD.item(0)),
    "a dictionary": (OrderedDict(a={"b": 1}), HELD.item("a").item("b")),
    "a tuple": ((0, (1, 2)), HELD.item(1).item(0)),
    "a named tuple": (Pair(0, 1), HELD.item(1)),
    "a list in a tuple": (([1],), HELD.item(0).item(0)),
    "an object": (types.SimpleNamespace(value=1), HELD.attribute("value")),
    "a frozen object": (Frozen(1), HELD.attribute("value")),
    "slots": (slotted(), HELD.attribute("value")),
    "a default of a function": (None, Place("", with_default, "object").attribute("__defaults__").item(0)),
    "a variable": (None, Place("", around(1), "object", (("cell", None),))),
    "a namespace": (None, Place("", {"value": 1}, "object").global_name("value", "file", "item")),
    "a module of Python": (types.SimpleNamespace(value=1), HELD.global_name("value", "file", "attribute")),
    "a class": (None, Place("", type("Owner", (), {"value": 1}), "object").attribute("value")),
}


@pytest.mark.parametrize("what", PLACES)
def test_another_object_is_put_there_for_a_while(what: str) -> None:
    held, place = PLACES[what]
    roots = Roots.of(module(held))
    owner, key = place.entry(roots)
    assert owner[key] == owner.get(key) == place.find(roots) == 1
    undo = place.put(roots, 5)
    assert owner[key] == owner.get(key) == place.find(roots) == 5
    undo()
    assert owner[key] == place.find(roots) == 1
    assert getattr(roots.modules[""], "held", None) is held


def test_where_nothing_else_can_be_put() -> None:
    place = HELD.attribute("args").item(0)
    with pytest.raises((TypeError, AttributeError)):
        place.put(Roots.of(module(functools.partial(print, 1))), 2)


def test_an_entry_that_goes() -> None:
    model = module([1])
    owner, key = HELD.item(0).entry(Roots.of(model))
    model.held = None
    assert owner.get(key) is None
    with pytest.raises(KeyError):
        owner[key]


def test_another_container_in_its_place_is_read() -> None:
    model = module([1])
    owner, key = HELD.item(0).entry(Roots.of(model))
    model.held = [2]
    assert owner[key] == 2


def test_which_places_are_the_same() -> None:
    first, second = {"value": 1}, {"value": 1}
    place = Place("", first, "object").item("value")
    assert place.is_same(Place("other words", first, "object").item("value"))
    assert not place.is_same(Place("", second, "object").item("value"))
    assert not HELD.is_same(HELD.item(0))
