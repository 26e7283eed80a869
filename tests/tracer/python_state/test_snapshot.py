"""What a forward changes in Python state is named, and put back."""

from __future__ import annotations

import collections
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.tracer.python_state import ExecutedCode, Place, Snapshot

SEEN: list[Any] = []
REGISTRY: collections.defaultdict[str, list[Any]] = collections.defaultdict(list)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = [1]
        self.table = {"a": {"b": 1}}
        self.ordered = collections.OrderedDict(x=1, y=2)
        self.counts = collections.Counter(a=1)
        self.ring = collections.deque([1, 2], maxlen=2)
        self.names = {"a"}
        self.space = types.SimpleNamespace(h=None)
        self.array = np.zeros(3)
        self.own = random.Random(0)
        self.generator = np.random.default_rng(0)
        self.old = np.random.RandomState(0)
        self.flag = False


CHANGES: dict[str, tuple[Callable[[Holder], Any], str]] = {
    "attribute": (lambda m: setattr(m, "flag", True), "flag"),
    "new attribute": (lambda m: setattr(m, "fresh", 1), "fresh"),
    "list": (lambda m: m.items.append(2), "items[1]"),
    "list that is emptied": (lambda m: m.items.clear(), "items"),
    "nested dictionary": (lambda m: m.table["a"].__setitem__("b", 2), "table['a']['b']"),
    "ordered dictionary": (lambda m: m.ordered.pop("x"), "ordered['x']"),
    "counter": (lambda m: m.counts.update("a"), "counts"),
    "deque": (lambda m: m.ring.append(3), "ring"),
    "set": (lambda m: m.names.add("b"), "names"),
    "namespace": (lambda m: setattr(m.space, "h", 1), "space.h"),
    "array": (lambda m: m.array.__setitem__(0, 1.0), "array"),
    "own generator": (lambda m: m.own.random(), "own"),
    "numpy's generator": (lambda m: m.generator.random(), "generator"),
    "numpy's old generator": (lambda m: m.old.rand(), "old"),
    "global list": (lambda _: SEEN.append(1), f"SEEN (global of {__name__})"),
    "global default dictionary": (lambda _: REGISTRY["a"].append(1), f"REGISTRY (global of {__name__})"),
}


def rendered(model: Holder) -> str:
    state = {key: value for key, value in vars(model).items() if key not in ("own", "generator", "old")}
    draws = (model.own.getstate(), str(model.generator.bit_generator.state), str(model.old.get_state()))
    return repr((state, draws, SEEN, dict(REGISTRY), list(model.ordered)))


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named_and_put_back(what: str) -> None:
    change, name = CHANGES[what]
    model = Holder()
    before = rendered(model)
    snapshot = Snapshot([(Place("", "", "module"), model)])
    here = sys._getframe()
    executed = ExecutedCode(lambda code, frame: snapshot.add_names_of(code, frame, here))
    with executed.observed():
        change(model)
    names = [label for found in snapshot.changes() for label in found.names]
    assert any(label.startswith(name) for label in names), names
    snapshot.put_back()
    assert rendered(model) == before
    assert snapshot.changes() == []


def test_nothing_changes_where_nothing_is_changed() -> None:
    model = Holder()
    snapshot = Snapshot([(Place("", "", "module"), model)])
    model.flag = False
    model.own.getstate()
    assert snapshot.changes() == []


def test_arguments_are_looked_into() -> None:
    args: tuple[Any, ...] = ([1], {"a": torch.ones(1)})
    snapshot = Snapshot([(Place("args", "args", "arguments"), args)])
    args[0].append(2)
    args[1]["a"] = torch.zeros(1)
    assert [label for change in snapshot.changes() for label in change.names] == ["args[0][1]", "args[1]['a']"]


def test_attributes_of_modules_and_classes_are_included():
    settings, counted = types.ModuleType("settings_of_a_user"), type("Counted", (), {"calls": 0})
    settings.calls = 0  # type: ignore[attr-defined]
    namespace = {"__name__": "user", "settings": settings, "Counted": counted}
    code = compile("settings.calls += 1\nCounted.calls += 1", "user.py", "exec")
    snapshot = Snapshot([])
    snapshot.add_names_of(code, types.SimpleNamespace(f_globals=namespace, f_locals={}), sys._getframe())  # type: ignore[arg-type]
    exec(code, namespace)
    names = {name for change in snapshot.changes() for name in change.names}
    assert names == {"calls (global of settings_of_a_user)", "Counted (global of user).calls"}
    snapshot.put_back()
    assert settings.calls == counted.calls == 0  # type: ignore[attr-defined]
