"""Numbers that are computed from the sizes of inputs, and what is asked of them while a step is recorded.

Every number has its value for the sizes of this call. A question (``n > 512``) is answered by that value, as Python does with
integers, and the answer becomes a condition: for sizes with the same answers to all questions, the same operators run. Integers
are polynomials in normal form, so equal ones are the same object however they were computed. Floating point is computed again
in the same order, so it has the same bits.

This is concolic execution (Sen, Marinov, Agha: CUTE, ESEC/FSE 2005) with the sizes as the only symbols.
"""

from remat_planner.tracer.size_expressions.arithmetic import BOUNDS, OPERATORS, SizeArithmetic
from remat_planner.tracer.size_expressions.boxes import Box, UndecidedError, merged, where_not, without
from remat_planner.tracer.size_expressions.code import function_of
from remat_planner.tracer.size_expressions.expression import MATHEMATICS, Expression
from remat_planner.tracer.size_expressions.words import in_words

__all__ = [
    "BOUNDS",
    "MATHEMATICS",
    "OPERATORS",
    "Box",
    "Expression",
    "SizeArithmetic",
    "UndecidedError",
    "function_of",
    "in_words",
    "merged",
    "where_not",
    "without",
]
