"""The records of PyTorch's own operators, one file for each family.

To add knowledge of an operator, add or edit its one record in the file of its family. A record is keyed by "aten::name" for
all overloads, or by "aten::name.overload" for one.
"""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts
from remat_planner.tracer.operators.tables import (
    attention,
    creation,
    indexing,
    linear_algebra,
    losses,
    normalization,
    pooling,
    random,
    recurrent,
    routing,
    selection,
    state,
)

FAMILIES: tuple[Mapping[str, OperatorFacts], ...] = (
    attention.TABLE,
    creation.TABLE,
    indexing.TABLE,
    linear_algebra.TABLE,
    losses.TABLE,
    normalization.TABLE,
    pooling.TABLE,
    random.TABLE,
    recurrent.TABLE,
    routing.TABLE,
    selection.TABLE,
    state.TABLE,
)

BUILT_IN: Mapping[str, OperatorFacts] = {name: facts for table in FAMILIES for name, facts in table.items()}
