"""Objects of one structure are read and compared in bulk as a walk reads and compares them."""

from __future__ import annotations

import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from remat_planner.tracer.joint import InputReader, flatten_inputs
from remat_planner.tracer.python_state import ObjectContent, described_value


class Store(dict):  # type: ignore[type-arg]
    """Not compared in bulk: a class may give other items than it holds."""


class Batch:
    """As a loader makes it: tensors in a dictionary of an object inside, which refers back to it."""

    def __init__(self, **more: Any) -> None:
        self.inner = SimpleNamespace(tensors={"x": torch.randn(3, 2), "sizes": [torch.ones(2), (4, "mean")]}, graphs=3)
        self.parent = weakref.ref(self)
        self.same = self.inner.tensors
        vars(self.inner).update(more)


def _variants() -> list[Batch]:
    apart, other_key, other_type, other_form, gone = Batch(), Batch(), Batch(), Batch(), Batch()
    apart.same = dict(apart.inner.tensors)
    other_key.inner.tensors["y"] = other_key.inner.tensors.pop("x")
    other_type.inner.tensors["sizes"][1] = (4.0, "mean")
    other_form.inner.tensors["x"] = torch.randn(3, 2, dtype=torch.float64)
    del gone.inner.graphs
    more = [Batch(graphs=4), Batch(graphs=True), Batch(graphs=torch.ones(())), Batch(extra=None), Batch(extra=Store(k=1))]
    return [Batch(), Batch(), apart, other_key, other_type, other_form, gone, *more, Batch(extra=object()), Batch(extra={1, 2})]


@pytest.mark.parametrize("names", [None, frozenset({"inner", "tensors", "same", "extra", "parent"})])
def test_objects_hold_the_same_as_a_walk_says(names: frozenset[str] | None):
    alike = 0
    for one, other in itertools.product(_variants(), _variants()):
        try:
            content = ObjectContent(one, names)
        except LookupError:
            assert isinstance(getattr(one.inner, "extra", None), (Store, set))
            continue
        holds = content.holds(other)
        alike += holds
        assert not holds or described_value(one, names) == described_value(other, names)
        assert content.holds(one)
    assert alike > 10  # of 14 variants, two of which are alike


def test_a_reader_finds_the_leaves_that_a_walk_finds():
    reader = InputReader()
    scale = torch.ones(())
    for batch in [*_variants(), *_variants()]:
        for args, kwargs in (((batch, scale), {}), ((), {"batch": batch, "mode": "sum"}), ((batch, batch), {"k": object})):
            leaves, tree = reader.flatten(args, kwargs)
            expected, expected_tree = flatten_inputs(args, kwargs)
            assert list(map(id, leaves)) == list(map(id, expected))
            assert tree == expected_tree


def test_a_reader_walks_once_for_objects_of_one_structure(monkeypatch: pytest.MonkeyPatch):
    reader = InputReader()
    _, tree = reader.flatten((Batch(),), {})
    monkeypatch.setattr("remat_planner.tracer.joint.input_reader.flatten_inputs", None)
    assert all(reader.flatten((Batch(),), {})[1] is tree for _ in range(3))
