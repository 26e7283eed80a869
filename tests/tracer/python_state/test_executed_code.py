"""Which code counts as the forward's, and which names it uses."""

from __future__ import annotations

import cProfile
import gc
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.python_state import ExecutedCode, Place, is_users_module, unobserved
from tests.tracer.cases import Written, mean_square

SETTING = 1


def read_setting() -> int:
    return SETTING


def look_up(table: dict[str, Any]) -> Any:
    return table["key"]


def look_anywhere(thing: Any) -> Any:
    return vars(thing)


def test_names_are_those_of_the_code_that_ran() -> None:
    executed = ExecutedCode()
    with executed.observed():
        read_setting()
        look_up({"key": 1})
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert {code.co_name for code, _ in executed.calls} == {"read_setting", "look_up"}
    assert executed.names == frozenset({"SETTING", "key", "read_setting docstring"} - {"read_setting docstring"})


@dataclass
class Users:
    number: int


def test_code_made_from_a_string_belongs_to_the_module_whose_globals_it_uses() -> None:
    executed = ExecutedCode()
    with executed.observed():
        Users(1)
        Place("", None, "object")
    assert [(code.co_name, namespace["__name__"]) for code, namespace in executed.calls] == [("__init__", __name__)]


def test_names_that_are_put_together_are_found() -> None:
    def look_up_attribute(thing: Any, number: int) -> Any:
        return getattr(thing, f"numbered_{number}", None)

    executed = ExecutedCode()
    with executed.observed():
        look_up_attribute(Users(1), 7)
    assert executed.names is not None
    assert "numbered_7" in executed.names
    assert "getattr" not in globals()


def test_code_that_reads_any_name_leaves_none_out() -> None:
    executed = ExecutedCode()
    with executed.observed():
        look_anywhere(nn.Identity())
    assert executed.names is None


def test_code_is_announced_before_it_runs() -> None:
    seen: list[tuple[str, Any]] = []
    executed = ExecutedCode(lambda code, frame: seen.append((code.co_name, frame.f_globals["SETTING"])))
    with executed.observed():
        read_setting()
        read_setting()
    assert seen == [("read_setting", 1)]


@pytest.mark.slow
def test_a_profiler_and_callbacks_of_the_collector_are_set_aside_and_put_back() -> None:
    def callback(_phase: str, _info: dict[str, int]) -> None:
        read_setting()

    before = sys.getprofile()
    gc.collect()  # generators that other tests left run their last lines now, not below
    gc.callbacks.append(callback)
    try:
        executed = ExecutedCode()
        with executed.observed():
            gc.collect()
        assert executed.calls == []
        assert callback in gc.callbacks
        assert sys.getprofile() is before
    finally:
        gc.callbacks.remove(callback)


def test_a_profiler_of_the_standard_library_goes_on_afterwards() -> None:
    profiler = cProfile.Profile()
    executed = ExecutedCode()
    profiler.enable()
    with executed.observed():
        look_up({"key": 1})
    read_setting()
    profiler.disable()
    assert [code.co_name for code, _ in executed.calls] == ["look_up"]
    assert any(getattr(entry.code, "co_name", "") == "read_setting" for entry in profiler.getstats())


def test_nothing_is_observed_where_it_is_asked_not_to_be() -> None:
    executed = ExecutedCode()
    with executed.observed():
        with unobserved():
            if sys.version_info < (3, 12):
                look_up({"key": 1})
        read_setting()
    assert [code.co_name for code, _ in executed.calls] == ["read_setting"]


def test_a_profiler_that_is_not_ours_goes_on_where_nothing_is_observed() -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    with unobserved():
        read_setting()
    profiler.disable()
    assert any(getattr(entry.code, "co_name", "") == "read_setting" for entry in profiler.getstats())


def test_a_class_in_c_whose_module_is_no_text_is_not_the_users():
    kind: type = type(type(np.random.rand.__func__))  # of the functions of Cython
    assert not isinstance(kind.__module__, str)
    assert not is_users_module(kind.__module__)
    model = Written(lambda m, x: mean_square(m.a(x)) * (1.0 if m.draw is not None else 2.0), a=nn.Linear(3, 3))
    model.draw = np.random.rand
    assert capture(model, (torch.randn(2, 3),)).gradients
