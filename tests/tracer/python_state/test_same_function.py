"""Functions that are made anew and do the same, told from those that do not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from remat_planner.tracer.python_state.same_function import same_function

SHARED: list[int] = []


class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def apply(self, x: float) -> float:
        return self.factor * x


def scaling(factor: Any) -> Callable[[float], float]:
    return lambda x: factor * x


def with_default(factor: Any) -> Callable[..., float]:
    return lambda x, by=factor: by * x


def with_named_default(factor: Any) -> Callable[..., float]:
    def scaled(x: float, *, by: Any = factor) -> float:
        return by * x

    return scaled


def counting() -> Callable[[], int]:
    count = 0

    def counted() -> int:
        nonlocal count
        count += 1
        return count

    return counted


def counting_inside() -> Callable[[], int]:
    count = 0

    def outer() -> int:
        def inner() -> int:
            nonlocal count
            count += 1
            return count

        return inner()

    return outer


def appending(items: list[int]) -> Callable[[int], None]:
    return lambda item: items.append(item)


@pytest.mark.parametrize("make", [scaling, with_default, with_named_default], ids=["variable", "default", "named default"])
def test_what_surrounds_a_function_is_compared(make: Callable[[Any], Any]):
    assert same_function(make(2.0), make(2.0))
    assert not same_function(make(2.0), make(3.0))
    assert not same_function(make(2.0), make(2))


def test_containers_around_a_function_must_be_the_same_ones():
    assert same_function(appending(SHARED), appending(SHARED))
    assert not same_function(appending([]), appending([]))


@pytest.mark.parametrize("make", [counting, counting_inside], ids=["itself", "a function inside"])
def test_a_function_that_sets_a_variable_around_it_is_the_same_only_with_this_variable(make: Callable[[], Any]):
    made = make()
    assert same_function(made, made)
    assert not same_function(make(), make())


def test_variables_of_the_same_call_are_the_same():
    total = 0

    def add() -> Callable[[int], None]:
        def added(x: int) -> None:
            nonlocal total
            total += x

        return added

    assert same_function(add(), add())


def test_methods_and_partial_functions():
    one, other = Scaled(2.0), Scaled(2.0)
    assert same_function(one.apply, one.apply)
    assert not same_function(one.apply, other.apply)
    assert same_function(functools.partial(scaling(2.0), 3), functools.partial(scaling(2.0), 3))
    assert not same_function(functools.partial(scaling(2.0), 3), functools.partial(scaling(2.0), 4))
    assert same_function(functools.partial(print, end=""), functools.partial(print, end=""))
    assert not same_function(functools.partial(print, end=""), functools.partial(print, sep=""))


def test_functions_of_other_code_differ():
    assert not same_function(lambda x: x, lambda x: x)
    assert not same_function(one := Scaled(1.0), other := Scaled(1.0))
    assert same_function(one, one)
    assert same_function(other, other)
