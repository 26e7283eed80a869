"""What a report says about a schedule, and the two ways to say it: on a terminal and as a JSON document.

``summarize`` and ``summarize_regions`` collect the facts as a summary; ``plan_report``, ``one_line`` and ``plan_document`` show
either kind of summary, and ``report`` writes a page or a file for a viewer. ``explain`` answers for single ops and
``explain_together`` for those of a module; ``compare`` runs the usual policies at the same budget.
"""

from remat_planner.planner.reports.copies_instead import CopiesInstead, copies_instead
from remat_planner.planner.reports.curve.budget_curve import BudgetCurve
from remat_planner.planner.reports.curve.data import CurvePoint, curve_document
from remat_planner.planner.reports.curve.drawing import drawing
from remat_planner.planner.reports.curve.file import load_curve
from remat_planner.planner.reports.curve.terminal import curve_report
from remat_planner.planner.reports.explanation import explain, explain_together
from remat_planner.planner.reports.json_document import plan_document, verification_document
from remat_planner.planner.reports.peak_memory import ACTIVATIONS, GRADIENTS, memory_at_peak, storage_kinds
from remat_planner.planner.reports.policy_comparison import PolicyCost, PolicyPoint, compare, usual_policies
from remat_planner.planner.reports.region_summary import RegionSummary, summarize_regions
from remat_planner.planner.reports.report_file import ENDINGS, ReportName, report
from remat_planner.planner.reports.summary import summarize_verification
from remat_planner.planner.reports.terminal import one_line, plan_report, usage_hint, verification_report
from remat_planner.planner.reports.terminal_explanation import explanation_report
from remat_planner.planner.reports.terminal_whole import pinned_report
from remat_planner.planner.reports.terminal_widgets import fact_table, plain_table
from remat_planner.planner.reports.whole_summary import WholeSummary, summarize

__all__ = [
    "ACTIVATIONS",
    "ENDINGS",
    "GRADIENTS",
    "BudgetCurve",
    "CopiesInstead",
    "CurvePoint",
    "PolicyCost",
    "PolicyPoint",
    "RegionSummary",
    "ReportName",
    "WholeSummary",
    "compare",
    "copies_instead",
    "curve_document",
    "curve_report",
    "drawing",
    "explain",
    "explain_together",
    "explanation_report",
    "fact_table",
    "load_curve",
    "memory_at_peak",
    "one_line",
    "pinned_report",
    "plain_table",
    "plan_document",
    "plan_report",
    "report",
    "storage_kinds",
    "summarize",
    "summarize_regions",
    "summarize_verification",
    "usage_hint",
    "usual_policies",
    "verification_document",
    "verification_report",
]
