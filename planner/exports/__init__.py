"""A schedule in the forms that other trainers take, each in a file of its own, and the predicted cost of the coarser form."""

from remat_planner.planner.exports.export import FormName, export
from remat_planner.planner.exports.result import Export

__all__ = [
    "Export",
    "FormName",
    "export",
]
