"""The token of a forward: an empty tensor that takes the rest of ``ctx`` along, as a Python attribute, to the backward.

So what is no tensor travels and ends as the tensors of the call do.
"""

from __future__ import annotations

import torch

from remat_planner.tracer.functions.context import KeptContext
from remat_planner.tracer.functions.forms import TensorForm

TOKEN = TensorForm((0,), (1,), 0, torch.uint8, torch.device("cpu"), 0)
"""The form of a token."""


def token(kept: KeptContext) -> torch.Tensor:
    """An empty tensor that takes ``kept`` to the backward."""
    empty = torch.empty(0, dtype=TOKEN.dtype)
    empty.kept = kept  # type: ignore[attr-defined]
    return empty


def kept_in(empty: torch.Tensor) -> KeptContext | None:
    """What a token has with it; None for an empty tensor that is none."""
    kept: KeptContext | None = getattr(empty, "kept", None)
    return kept
