"""A sequence of nodes together with its simulation."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules import Simulation


@dataclass(frozen=True)
class SimulatedSequence:
    """A sequence of nodes and what ``Problem.simulate`` says about it."""

    nodes: list[int]
    simulation: Simulation
