"""What a forward reads from Python state is noticed when it changes, and nothing else is."""

from __future__ import annotations

import collections
import configparser
import contextvars
import copy
import functools
import logging
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.tracer.python_state import ExecutedCode, Place, PythonReads, Watch
from remat_planner.tracer.python_state.walk import holder_of

WEIGHT = 1.0
TABLE = {"scale": 1.0}


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * TABLE["scale"]


class Config:
    scale = 1.0


class OtherConfig(Config):
    pass


class Gate:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x


CONTEXT = contextvars.ContextVar("CONTEXT", default=1.0)
THREAD = threading.local()
GATE = Gate()
PROXY = weakref.proxy(GATE)


@dataclass
class Options:
    rate: float = 1.0
    steps: list[int] = field(default_factory=lambda: [1, 2])


class Slotted:
    __slots__ = ("gain",)

    def __init__(self) -> None:
        self.gain = 1.0


class Derived(Slotted):
    """With attributes beside the slot."""


class Rate(float):
    bonus: float


class Row(tuple[float, ...]):
    bonus: float


class Fired(Exception):  # noqa: N818 - an object with data in C
    rate = 1.0


class Meta(type):
    scale = 1.0


class Made(metaclass=Meta):
    """Of a class whose class has the attribute."""


@functools.singledispatch
def encoded(x: Any) -> Any:
    return x


@functools.lru_cache
def looked_up(n: int) -> float:
    return float(n)


def with_bonus(value: Any) -> Any:
    value.bonus = 1.0
    return value


def scaled_by(settings: dict[str, float]) -> Callable[[torch.Tensor], torch.Tensor]:
    def scale(x: torch.Tensor) -> torch.Tensor:
        return x * settings["rate"]

    return scale


def counted() -> Callable[[torch.Tensor], torch.Tensor]:
    factor = 1.0

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    def change(value: float) -> None:
        nonlocal factor
        factor = value

    scaled.change = change  # type: ignore[attr-defined]
    return scaled


class Model(nn.Module):
    coefficient = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.1)
        self.act: Any = torch.relu
        self.config, self.options, self.slotted = Config(), Options(), Slotted()
        self.weights = {"kl": {"start": 0.0}}
        self.queue = collections.deque([1, 2])
        self.names = {"x"}
        self.partial = functools.partial(torch.add, alpha=1)
        self.namespace = types.SimpleNamespace(depth=1)
        self.closure = counted()
        self.unused = 0
        self.stored: Any = None
        self.derived, self.rate, self.row, self.fired = Derived(), with_bonus(Rate(1)), with_bonus(Row((1.0,))), Fired()
        self.scales = (scaled_by({"rate": 1.0}), scaled_by({"rate": 1.0}))
        self.shift = 0.0
        self.masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
        self.things = np.array([1.0, None], dtype=object)
        self.long = np.zeros(20_000)
        self.made, self.parser = Made(), configparser.ConfigParser()
        self.parser.read_dict({"train": {"gain": "1.0"}})
        self.section = self.parser["train"]
        self.numbers, self.vocabulary, self.table = [0.0] * 20_000, dict.fromkeys(range(50_000), 1), np.ones(200_000)
        self.log = logging.getLogger(f"{__name__}.model")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.closure(helper(self.act(self.a(x)))) * self.config.scale * self.options.rate * self.options.steps[0]
        h = h * self.slotted.gain * self.weights["kl"]["start"] * len(self.queue) * len(self.names) * self.coefficient
        h = self.scales[1](self.scales[0](h)) * self.derived.gain * self.rate.bonus * self.row.bonus * self.fired.rate
        h = (h + self.shift) * float(self.masked.sum()) * self.things[0] + self.long[-1]
        h = h + self.numbers[0] * self.vocabulary[0] * self.table[0] * self.log.isEnabledFor(logging.DEBUG)
        h = encoded(h) * looked_up(1) * type(self.made).scale * float(self.section["gain"])
        h = GATE(h) * CONTEXT.get() * THREAD.value * PROXY.gain
        return self.drop(self.b(self.partial(h, h))) * WEIGHT * self.namespace.depth


def set_global(_: Model) -> None:
    global WEIGHT
    WEIGHT = 2.0


def patch_class(_: Model) -> None:
    Config.scale = 2.0


def patch_forward(model: Model) -> None:
    own = model.b.forward
    model.b.forward = lambda x: own(x) * 2  # type: ignore[method-assign]


def copy_config(model: Model) -> None:
    model.config = copy.copy(model.config)
    model.config.scale = 2.0


CHANGES: dict[str, tuple[Callable[[Model], Any], str]] = {
    "a function": (lambda m: setattr(m, "act", torch.sigmoid), "act"),
    "a function by a module": (lambda m: (delattr(m, "act"), setattr(m, "act", nn.ReLU())), "act"),
    "an object's attribute": (lambda m: setattr(m.config, "scale", 2.0), "config.scale"),
    "a copied object": (copy_config, "config.scale"),
    "a class attribute": (patch_class, "class Config.scale"),
    "a class attribute hidden by an instance": (lambda m: setattr(m, "coefficient", 2.0), "coefficient"),
    "a dataclass": (lambda m: setattr(m.options, "rate", 2.0), "options.rate"),
    "a list": (lambda m: m.options.steps.__setitem__(0, 5), "options.steps[0]"),
    "a slot": (lambda m: setattr(m.slotted, "gain", 2.0), "slotted.gain"),
    "a slot beside attributes": (lambda m: setattr(m.derived, "gain", 2.0), "derived.gain"),
    "an attribute of a number": (lambda m: setattr(m.rate, "bonus", 2.0), "rate.__dict__['bonus']"),
    "an attribute of a tuple": (lambda m: setattr(m.row, "bonus", 2.0), "row.__dict__['bonus']"),
    "an object with data in C": (lambda m: setattr(m, "fired", Fired()), "fired"),
    "a variable of one of two functions": (
        lambda m: m.scales[0].__closure__[0].cell_contents.update(rate=2.0),
        "settings (variable of scaled_by.<locals>.scale)['rate']",
    ),
    "the sign of a zero": (lambda m: setattr(m, "shift", -0.0), "shift"),
    "the mask of an array": (lambda m: m.masked.mask.__setitem__(0, True), "masked.__dict__['_mask']"),
    "an array of objects": (lambda m: m.things.__setitem__(0, 2.0), "things[(0,)]"),
    "a long array": (lambda m: m.long.__setitem__(-1, 2.0), "long"),
    "an item of a long list": (lambda m: m.numbers.__setitem__(15_000, 2.0), "numbers[15000]"),
    "an item of a long dictionary": (lambda m: m.vocabulary.__setitem__(5, 2), "vocabulary[5]"),
    "a very long array": (lambda m: m.table.__setitem__(slice(None), 2.0), "table"),
    "a logger's level": (lambda m: m.log.setLevel(logging.DEBUG), "log"),
    "a nested dictionary": (lambda m: m.weights["kl"].__setitem__("start", 0.5), "weights['kl']['start']"),
    "a deque": (lambda m: m.queue.append(3), "queue[2]"),
    "a set": (lambda m: m.names.add("y"), "names"),
    "a partial function": (lambda m: setattr(m, "partial", functools.partial(torch.add, alpha=2)), "partial"),
    "a namespace": (lambda m: setattr(m.namespace, "depth", 2), "namespace.depth"),
    "a variable of a closure": (lambda m: m.closure.change(2.0), "factor (variable of counted.<locals>.scaled)"),
    "a global": (set_global, f"WEIGHT (global of {__name__})"),
    "a global dictionary": (lambda _: TABLE.__setitem__("scale", 2.0), f"TABLE (global of {__name__})['scale']"),
    "a forward": (patch_forward, "b.forward"),
    "a context variable": (lambda _: CONTEXT.set(2.0), f"CONTEXT (global of {__name__})()"),
    "a value of the thread": (lambda _: setattr(THREAD, "value", 2.0), f"THREAD (global of {__name__}).value"),
    "what a weak proxy refers to": (lambda _: setattr(GATE, "gain", 2.0), f"GATE (global of {__name__}).gain"),
    "an attribute in the place of another": (lambda m: (delattr(m, "unused"), setattr(m, "coefficient", 2.0)), "coefficient"),
    "the class of an object": (lambda m: setattr(m.config, "__class__", OtherConfig), "config.__class__"),
    "a method without a name": (lambda _: setattr(Gate, "__call__", lambda _, x: x * 2), "class Gate.__call__"),
    "code that was reloaded": (
        lambda _: setattr(helper, "__code__", (lambda x: x * 2).__code__),
        f"helper (global of {__name__}).__code__",
    ),
    "a function of PyTorch": (lambda _: setattr(nn.functional, "linear", torch.mul), "torch.nn.functional.linear"),
    "a class of PyTorch": (lambda _: setattr(nn.Linear, "forward", lambda _, x: x), "torch.nn.Linear.forward"),
    "an attribute of a metaclass": (lambda _: setattr(Meta, "scale", 2.0), "class Meta.scale"),
    "a function for another class": (
        lambda _: encoded.register(torch.Tensor, lambda x: x * 2),
        f"encoded (global of {__name__}).registry[<class 'torch.Tensor'>]",
    ),
    "a cache that is cleared": (lambda _: looked_up.cache_clear(), f"looked_up (global of {__name__}).cache_clear"),
    "a cache that is cleared and filled again": (
        lambda _: (looked_up.cache_clear(), looked_up(1)),
        f"looked_up (global of {__name__}).cache_clear",
    ),
    "a configuration file": (lambda m: m.parser.set("train", "gain", "2.0"), "section._parser._sections['train']['gain']"),
    "a dropout's probability": (lambda m: setattr(m.drop, "p", 0.5), "drop.p"),
}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Model, Watch]:
    monkeypatch.setitem(TABLE, "scale", 1.0)
    monkeypatch.setattr(f"{__name__}.WEIGHT", 1.0)
    monkeypatch.setattr(Config, "scale", 1.0)
    monkeypatch.setattr(Meta, "scale", 1.0)
    for owner, name in ((Gate, "__call__"), (helper, "__code__"), (nn.functional, "linear"), (nn.Linear, "forward")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(THREAD, "value", 1.0, raising=False)
    monkeypatch.setattr(GATE, "gain", 1.0, raising=False)
    CONTEXT.set(1.0)
    monkeypatch.setattr(logging.getLogger(f"{__name__}.model"), "level", logging.WARNING)
    model, executed = Model(), ExecutedCode()
    with executed.observed():
        model(torch.ones(2, 4))
    watch = Watch(PythonReads.of_code(executed).found_in(model, {}), model)
    assert watch.changed() == ()
    return model, watch


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named_until_it_is_accepted(watched: tuple[Model, Watch], what: str) -> None:
    model, watch = watched
    change, name = CHANGES[what]
    change(model)
    assert name in watch.changed()
    assert name in watch.changed()
    watch.accept()
    assert watch.changed() == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "unused", 5),
        lambda m: setattr(m, "another", 5),
        lambda m: setattr(m.config, "name", "x"),
        lambda m: setattr(m.options, "rate", float("1.0")),
        lambda m: m.weights.__setitem__("kl", {"start": 0.0}),
    ],
    ids=["unused", "new and unused", "unused of an object", "an equal number", "an equal dictionary"],
)
def test_what_makes_no_difference_is_no_change(watched: tuple[Model, Watch], change: Callable[[Model], None]) -> None:
    model, watch = watched
    change(model)
    assert watch.changed() == ()


def test_a_copy_of_the_model_is_watched_for_itself(watched: tuple[Model, Watch]) -> None:
    model, watch = watched
    copied = copy.deepcopy(model)
    watch_of_copy = Watch(watch._reads, copied)
    watch_of_copy.accept()
    copied.config.scale = 2.0
    assert watch.changed() == ()
    assert watch_of_copy.changed() == ("config.scale",)


def test_keys_that_the_forward_sets_are_left_out(watched: tuple[Model, Watch]) -> None:
    model, executed = watched[0], ExecutedCode()
    with executed.observed():
        model(torch.ones(2, 4))
    watch = Watch(PythonReads.of_code(executed).found_in(model, {"": frozenset({"act"})}), model)
    model.act = torch.sigmoid
    assert watch.changed() == ()


def test_a_thread_has_values_of_its_own(watched: tuple[Model, Watch]) -> None:
    _, watch = watched
    seen: list[tuple[str, ...]] = []

    def other_thread() -> None:
        THREAD.value, THREAD.unused = 2.0, 1
        seen.append(watch.changed())

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert seen == [(f"THREAD (global of {__name__}).value",)]
    assert watch.changed() == ()


def test_classes_are_watched_where_code_may_read_any_name() -> None:
    model = Model()
    holders = {id(holder.target) for holder in PythonReads(None).holders(model)}
    assert {id(Config), id(Model)} <= holders


@pytest.mark.parametrize("items", [dict.fromkeys(range(70_000), 1), np.ones(400_000)], ids=["dictionary", "array"])
def test_a_change_far_behind_is_seen_within_some_comparisons_and_in_each_one_then(items: Any) -> None:
    holder = holder_of(Place("it", items, "object"), items, None)
    assert holder is not None
    check = holder.check()
    assert check is not None
    assert all(check() for _ in range(30))
    items[50_001] = 2
    assert not all(check() for _ in range(13))
    assert not any(check() for _ in range(13))
    items[50_001] = 1
    assert all(check() for _ in range(30))
