"""A compiled training step as a model: which operators inductor fuses, what then takes memory, and what a kernel costs.

``values_of`` reads a joint graph of AOTAutograd. ``FusedStep.evaluate`` judges a set of values that the forward saves for the
backward: seconds and peak of the two compiled graphs.
"""

from remat_planner.tracer.fusion.least import least_seconds, seconds_again
from remat_planner.tracer.fusion.rates import Rates, measured_rates
from remat_planner.tracer.fusion.step import FusedStep, Judged
from remat_planner.tracer.fusion.values import Value, Values, is_converted, product_added, values_of

__all__ = [
    "FusedStep",
    "Judged",
    "Rates",
    "Value",
    "Values",
    "is_converted",
    "least_seconds",
    "measured_rates",
    "product_added",
    "seconds_again",
    "values_of",
]
