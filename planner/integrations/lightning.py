"""Lightning: ``Trainer(callbacks=[LightningBudget("net", "8GB")])``."""

from __future__ import annotations

from typing import Any

import lightning

from remat_planner.planner.apply import is_applied, remove_schedule
from remat_planner.planner.first_step import budgeted


class LightningBudget(lightning.Callback):
    """Trains one module of the LightningModule within ``budget`` bytes.

    It is planned at its first training step, with the batch, the precision and the loss of that step, and is itself again
    when fitting ends.

    Args:
        name: of the module that ``training_step`` calls: "net" for ``self.net``.
        budget: bytes at the peak of one training step, as in ``remat_planner.plan``.
        options: as for ``remat_planner.budgeted``.
    """

    def __init__(self, name: str, budget: int | str, **options: Any) -> None:
        self.name, self.budget, self.options = name, budget, options

    def on_fit_start(self, trainer: Any, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Put the budgeted module in the place of the module."""
        pl_module.set_submodule(self.name, budgeted(pl_module.get_submodule(self.name), self.budget, **self.options))

    def on_fit_end(self, trainer: Any, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Put the module back."""
        module = pl_module.get_submodule(self.name)
        if is_applied(module):
            pl_module.set_submodule(self.name, remove_schedule(module))
