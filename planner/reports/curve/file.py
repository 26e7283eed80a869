"""Reads what ``plan curve --json`` wrote."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from remat_planner.planner.reports.curve.budget_curve import BudgetCurve


def load_curve(path: str | os.PathLike[str]) -> BudgetCurve:
    """The curve in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no curve.
    """
    try:
        curve = TypeAdapter(BudgetCurve).validate_json(Path(path).read_bytes())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{path} is not what `plan curve --json` writes{f': {where}' if where else ''}") from error
    shares = [share for point in curve.points for share in (point.overhead, point.bound_overhead)]
    if not shares or not all(map(math.isfinite, shares)):
        raise ValueError(f"{path} has no points, or shares that are no numbers")
    return curve
