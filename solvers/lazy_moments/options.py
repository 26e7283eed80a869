"""Switches and tuning numbers of lazy moments.

Every reduction and search idea can be switched off. That leaves every answer valid and every bound true, and only costs time or
quality; ``tests/solvers/lazy_moments/test_switches.py`` shows what each is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgramOptions:
    """How the program for given moments is built.

    Attributes:
        fuse_nodes: nodes that are recomputed only together share a column (``fused_nodes``): fewer columns, same optimum.
        closure_rows: rows that cut off no integer solution, but keep the relaxation from spreading one recomputation over many
            windows (``closure_rows``): higher bounds.
    """

    fuse_nodes: bool = True
    closure_rows: bool = True


@dataclass(frozen=True)
class LazyMomentsOptions:
    """How the loop works. Fractions "of the step" are of its seconds without recomputation.

    Attributes:
        program: how programs are built.
        relax_first: take a bound from the linear relaxation of the first program, before any integer program: it is there at
            once, and certain.
        warm_starts: give HiGHS the best schedule as a starting solution where that is near the bound.
        watch_bounds: end a program as soon as its bound, or a schedule found elsewhere, settles the question.
        both_orders: recompute in execution order and depth first, and take the better sequence.
        focus: once a program's answer fits, watch memory also where the best schedule comes close to the budget.
        inside_rows: where no moment is left to add, watch memory also during single recomputations inside a window.
        exhaustive: on a tiny graph, let an exhaustive search decide where no row is left to add.
        tightenings: solves with bytes left free where an answer overflows slightly between two moments; 0: none.
        rough, fine: precision asked of a program, as a fraction of the step: rough while moments are being added, then fine.
        moments_at_a_time: moments that one overflowing answer adds. More make the program grow faster than they save programs.
        most_columns: columns of the largest program worth solving.
        step_share: share of the remaining time that a program gets while moments are being added.
        least_step: but at least so many seconds.
        slight: an overflow of at most this fraction of the budget is slight, so that margins may remove it.
        near: the best schedule is near the bound within this fraction of the step. Then margins are not worth their time, and
            the schedule helps a program as a start (a start far from the best slows it down).
        far: beyond this fraction of the step, several programs that are cut short find better schedules than a long one.
        tight: memory of the best schedule is close to the budget within this fraction of it.
        reported: a bound that has risen by less than this fraction of the step is not reported.
        close: a schedule within this fraction of the step of the bound is all but proven: it gets as much time again as it took
            to find.
        least_closing: but at least so many seconds.
    """

    program: ProgramOptions = field(default_factory=ProgramOptions)
    relax_first: bool = True
    warm_starts: bool = True
    watch_bounds: bool = True
    both_orders: bool = True
    focus: bool = True
    inside_rows: bool = True
    exhaustive: bool = True
    tightenings: int = 3
    rough: float = 2e-4
    fine: float = 2e-7
    moments_at_a_time: int = 4
    most_columns: int = 60_000
    step_share: float = 0.6
    least_step: float = 2.0
    slight: float = 0.05
    near: float = 2e-3
    far: float = 0.01
    tight: float = 0.01
    reported: float = 1e-7
    close: float = 5e-6
    least_closing: float = 2.0


@dataclass(frozen=True)
class WindowsOptions:
    """How ``solve_windows`` works.

    Attributes:
        tries: solves of a window; after each but the last, memory is also watched where the answer overflowed.
        length: first runs in the first windows.
        growth: factor of the length where no window helps.
        stride: distance between windows, as a fraction of their length: below 1 they overlap.
        near: memory is watched where the schedule comes within this fraction of the budget,
        most_moments: at so many first runs at most.
        most_columns: columns of the largest program worth building.
        seconds: time limit of one program.
        gain: least improvement, as a fraction of the step's seconds.
    """

    tries: int = 3
    length: int = 40
    growth: float = 1.6
    stride: float = 0.5
    near: float = 0.03
    most_moments: int = 32
    most_columns: int = 20_000
    seconds: float = 4.0
    gain: float = 1e-9


DEFAULT_PROGRAM = ProgramOptions()
DEFAULT_OPTIONS = LazyMomentsOptions()
DEFAULT_WINDOWS = WindowsOptions()
