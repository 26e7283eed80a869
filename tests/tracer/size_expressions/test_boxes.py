"""What is said of all sizes of a box is what trying each of them says."""

from __future__ import annotations

import itertools
import math

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.tracer.size_expressions import (
    SizeArithmetic,
    UndecidedError,
    function_of,
    in_words,
    merged,
    where_not,
    without,
)

BOX = ((2, 9), (3, 20))


def two_sizes(box=BOX):
    """An arithmetic with two sizes, at the largest of them."""
    arithmetic = SizeArithmetic()
    batch, tokens = (
        arithmetic.symbol(high, sympy.Symbol(name), (low, high)) for name, (low, high) in zip("bt", box, strict=True)
    )
    return arithmetic, batch, tokens


def sizes_in(boxes):
    """All sizes in some boxes."""
    return [sizes for box in boxes for sizes in itertools.product(*(range(low, high + 1) for low, high in box))]


def questions(arithmetic, batch, tokens):
    """Questions of all kinds."""
    constant, apply = arithmetic.constant, arithmetic.apply
    whole = apply("sub", apply("mul", batch, apply("mul", tokens, tokens)), apply("mul", batch, tokens))
    half = apply("int_floordiv", apply("add", tokens, constant(1)), constant(2))
    padded = apply("add", tokens, apply("mod", apply("neg", tokens), constant(8)))
    share = apply("float_truediv", apply("sym_float", tokens), constant(3.0))
    return [
        apply("gt", tokens, constant(12)),
        apply("eq", batch, tokens),
        apply("eq", apply("mul", batch, constant(2)), tokens),
        apply("le", whole, constant(1000)),
        apply("le", apply("mul", half, batch), constant(40)),
        apply("lt", padded, constant(17)),
        apply("eq", apply("mod", tokens, constant(4)), constant(0)),
        apply("le", apply("floor", share), constant(4)),
        apply("lt", apply("float_pow", apply("sym_float", tokens), constant(0.5)), constant(4.0)),
        apply("or_", apply("gt", tokens, constant(12)), apply("lt", batch, constant(4))),
    ]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("answer", [True, False])
def test_it_finds_the_sizes_with_another_answer(number, answer):
    arithmetic, batch, tokens = two_sizes()
    question = questions(arithmetic, batch, tokens)[number]
    compute = function_of(arithmetic, [question])
    found = sizes_in(where_not(arithmetic, question, answer, BOX))
    assert sorted(found) == [sizes for sizes in sizes_in([BOX]) if compute(*sizes)[0] is not answer]
    assert len(set(found)) == len(found)


def test_a_size_for_which_it_cannot_be_computed_has_another_answer():
    arithmetic, _, tokens = two_sizes()
    share = arithmetic.apply("float_truediv", arithmetic.constant(1.0), arithmetic.apply("sub", tokens, arithmetic.constant(5)))
    question = arithmetic.apply("lt", share, arithmetic.constant(math.inf))
    assert where_not(arithmetic, question, True, BOX) == [((2, 9), (5, 5))]


def test_bounds_answer_what_all_sizes_answer_alike():
    arithmetic, batch, tokens = two_sizes()
    assert arithmetic.decide(arithmetic.apply("gt", arithmetic.apply("mul", batch, tokens), arithmetic.constant(5))) is True
    assert arithmetic.decide(arithmetic.apply("eq", tokens, arithmetic.constant(21))) is False
    assert not arithmetic.conditions


def test_too_many_places_are_not_decided():
    box = ((2, 100_000), (3, 4))
    arithmetic, batch, _ = two_sizes(box)
    is_odd = arithmetic.apply("eq", arithmetic.apply("mod", batch, arithmetic.constant(2)), arithmetic.constant(1))
    with pytest.raises(UndecidedError):
        where_not(arithmetic, is_odd, True, box)


boxes = st.lists(
    st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (min(pair), max(pair)))] * 2), max_size=4
)


@given(boxes)
def test_merged_boxes_have_the_same_sizes(several):
    result = merged(several)
    assert set(sizes_in(result)) == set(sizes_in(several))
    assert len(result) <= len(several)


@given(boxes.filter(lambda several: len(several) >= 2))
def test_a_box_without_another_has_the_other_sizes(several):
    left = sizes_in(without(several[0], several[1]))
    assert sorted(left) == sorted(set(sizes_in(several[:1])) - set(sizes_in(several[1:2])))


def test_a_question_in_words():
    arithmetic, batch, tokens = two_sizes()
    asked = questions(arithmetic, batch, tokens)
    texts = [in_words(arithmetic, question, ["batch", "tokens"]) for question in asked]
    assert texts[:3] == ["tokens >= 13", "batch == tokens", "2 * batch == tokens"]
    assert texts[6] == "(tokens % 4) == 0"
