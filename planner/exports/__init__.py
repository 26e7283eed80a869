"""From a schedule to what other trainers take: one file for each form, and what the coarser form costs."""

from remat_planner.planner.exports.export import FormName, export
from remat_planner.planner.exports.result import Export

__all__ = [
    "Export",
    "FormName",
    "export",
]
