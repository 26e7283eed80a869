"""Training within a budget in other trainers: ``TrainerBudget`` (transformers), ``LightningBudget``, ``prepare`` (Accelerate).

Each name imports its trainer when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remat_planner.planner.integrations.accelerate import prepare as prepare
    from remat_planner.planner.integrations.lightning import LightningBudget as LightningBudget
    from remat_planner.planner.integrations.transformers import TrainerBudget as TrainerBudget

_MODULE_OF = {"LightningBudget": "lightning", "TrainerBudget": "transformers", "prepare": "accelerate"}

__all__ = ["LightningBudget", "TrainerBudget", "prepare"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"remat_planner.planner.integrations.{_MODULE_OF[name]}"), name)
