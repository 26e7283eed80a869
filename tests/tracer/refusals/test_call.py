"""Arguments that are refused before the model runs."""

from __future__ import annotations

import pytest

from remat_planner.tracer import capture
from remat_planner.tracer.errors import InputsDoNotFitError
from tests.tracer.cases import linear, noise


def test_arguments_must_be_a_tuple_and_a_dictionary():
    with pytest.raises(InputsDoNotFitError, match=r"\(x,\)"):
        capture(linear(), noise())  # type: ignore[arg-type]
    with pytest.raises(InputsDoNotFitError, match="dictionary"):
        capture(linear(), (), [noise()])  # type: ignore[arg-type]
