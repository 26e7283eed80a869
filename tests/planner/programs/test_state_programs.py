"""Random programs with Python state are trained as in eager, or refused by name."""

from __future__ import annotations

from functools import partial

import pytest

from remat_planner.planner.errors import AuditError, RegionError
from remat_planner.tracer.errors import CaptureError
from tests.planner.programs.beside_eager import differing, train
from tests.planner.programs.state_programs import state_program
from tests.sampling import some


@pytest.mark.slow(all_cases=True)
@pytest.mark.parametrize("seed", some(range(48)))
def test_a_program_with_state_leaves_what_eager_leaves(seed: int) -> None:
    program = partial(state_program, seed)
    try:
        found = train(program, "100%")
    except (CaptureError, RegionError, AuditError):
        return
    assert list(differing(train(program, None), found)) == []
