"""What a budget means, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.planner.errors import BudgetError
from remat_planner.planner.planning.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("40GB", 40 * 10**9),
        ("40 gb", 40 * 10**9),
        ("40G", 40 * 10**9),
        ("1.5GB", 1_500_000_000),
        ("0.1TB", 10**11),
        ("40GiB", 40 * 2**30),
        ("512MiB", 512 * 2**20),
        ("3kB", 3000),
        ("3KiB", 3072),
        ("123456", 123456),
        ("123,456 B", 123456),
        ("1_000", 1000),
        ("2e9", 2 * 10**9),
        (" 7 MB ", 7 * 10**6),
        (123456, 123456),
    ],
)
def test_bytes(text: int | str, count: int) -> None:
    assert parse_budget(text).resolve(10**6) == count


def test_shares_are_of_the_baseline_and_round_down() -> None:
    assert parse_budget("60%").resolve(1001) == 600
    assert parse_budget("12.5 %").resolve(1000) == 125
    assert parse_budget("100%").resolve(987654321) == 987654321
    assert parse_budget("110%").resolve(1000) == 1100


def test_a_decimal_share_is_exact() -> None:
    # 0.07 has no exact binary form: computing with floats would lose a byte here.
    assert parse_budget("7%").resolve(100 * 10**15) == 7 * 10**15


@pytest.mark.parametrize(
    "nonsense",
    [
        *(
            "40XB",
            "",
            "GB",
            "%",
            "forty",
            "nan",
            "inf",
            "-40GB",
            "0",
            "0%",
            "-1%",
            "0.0GB",
            "1.2.3GB",
            "40GBs",
            "i",
            "3iB",
        ),
        *("4 0GB", "1e999999999", 0, -1, True, 1.5, float("nan"), float("inf"), None, [4]),
    ],
)
def test_nonsense_is_refused_and_named(nonsense: object) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(nonsense)  # type: ignore[arg-type]
    assert repr(nonsense) in str(caught.value)
    assert '"40GB"' in str(caught.value)


def test_numpy_integers_are_integers() -> None:
    numpy = pytest.importorskip("numpy")
    assert parse_budget(numpy.int64(5)).resolve(1) == 5


@given(st.integers(min_value=1000, max_value=10**18))
def test_whole_numbers_mean_themselves(count: int) -> None:
    assert parse_budget(count) == parse_budget(str(count)) == parse_budget(f"{count:,} B")


@pytest.mark.parametrize(("text", "meant"), [("60", "60%"), ("0.5", "50%"), ("1", "100%")])
def test_a_small_number_without_its_unit_is_asked_about(text: str, meant: str) -> None:
    with pytest.raises(BudgetError, match=f"did you mean '{meant}'"):
        parse_budget(text)
    assert parse_budget(1).resolve(10) == 1


def test_a_budget_is_described_in_both_units() -> None:
    assert parse_budget("40GB").describe(40 * 10**9) == "40.00 GB (37.25 GiB)"
    assert parse_budget("60%").describe(240_000_000) == "240.0 MB (228.9 MiB), 60 % of the peak without recomputation"
