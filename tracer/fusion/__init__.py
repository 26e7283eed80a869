"""A compiled training step as a model: which operators inductor fuses, what then takes memory, and what a kernel costs.

``values_of`` reads a joint graph of AOTAutograd. ``FusedStep.evaluate`` judges a set of values that the forward saves for the
backward: seconds and peak of the two compiled graphs.
"""

from remat_planner.tracer.fusion.layouts import as_called, is_converted, runs_channels_last
from remat_planner.tracer.fusion.least import least_seconds, seconds_again
from remat_planner.tracer.fusion.rates import Rates, measured_rates
from remat_planner.tracer.fusion.step import AtPeak, FusedStep, Judged
from remat_planner.tracer.fusion.values import KernelCost, Value, Values, product_added, values_of

__all__ = [
    "AtPeak",
    "FusedStep",
    "Judged",
    "KernelCost",
    "Rates",
    "Value",
    "Values",
    "as_called",
    "is_converted",
    "least_seconds",
    "measured_rates",
    "product_added",
    "runs_channels_last",
    "seconds_again",
    "values_of",
]
