"""For a model that cannot be captured whole: tells the user which of its blocks can be planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.planning import repeated_blocks
from remat_planner.planner.regions.discover import discover
from remat_planner.tracer import CaptureError
from remat_planner.tracer.errors import (
    DataDependentError,
    ModelNotSupportedError,
    StateReassignedError,
    UnsupportedOperatorError,
)
from remat_planner.tracer.torch_private import fake_mode_of

_BETWEEN_BLOCKS = (DataDependentError, StateReassignedError, UnsupportedOperatorError, ModelNotSupportedError)
"""Errors whose cause may lie between the blocks, where a plan by regions does not look."""


def suggest_regions(error: CaptureError, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Add to the message of ``error`` which blocks of the model can be captured by themselves.

    This runs the model's forward, so it does nothing for a model on paper, or if the forward fails.
    """
    if not isinstance(error, _BETWEEN_BLOCKS) or fake_mode_of([*model.parameters()]) is not None:
        return
    blocks = repeated_blocks(model)
    try:
        regions = discover(model, args, kwargs, blocks).regions if blocks else ()
    except Exception:  # the user needs the error of the capture, not this one
        return
    if regions:
        names = merged_names([region.name for region in regions])
        error.args = (
            f'{error}. By itself each of {names} can be captured: regions="auto" (--regions auto) plans those',
            *error.args[1:],
        )
