"""The planner: plan a training step within a number of bytes, apply the schedule to the model, verify it.

Its public names are those of ``remat_planner``. This file imports nothing, so that the command can show its help before torch
is imported.
"""

__all__: list[str] = []
