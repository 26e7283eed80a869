"""Which lines are conditions of branches that only raise."""

from __future__ import annotations

from pathlib import Path

from remat_planner.tracer.record.raising_branches import condition_before_raise

_CODE = """
def check(x, names):
    if (x < 0).any():
        raise ValueError
    elif not bool(
        x.isfinite().all()
    ):
        raise ValueError
    if (x > 0).any() and names:
        raise ValueError
    if (x > 0).all().item() == False:
        raise ValueError
    if (x > 0).any():
        x = x + 1
        raise ValueError
    assert not (x > 1).any()
"""


def test_the_condition_of_a_branch_that_only_raises_is_known(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(_CODE)
    found = {line: value for line in range(20) if (value := condition_before_raise(str(file), line)) is not None}
    assert found == {3: False, 5: True, 6: True, 7: True}


def test_there_are_none_in_code_that_is_no_file() -> None:
    assert condition_before_raise("<string>", 1) is None
