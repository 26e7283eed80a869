"""How a call of an operator behaves: whether it draws, updates state, must run exactly once, needs other ranks.

Answers combine the operator's record (``facts_of``) with what PyTorch declares and with what is true of its whole namespace.
Each function also takes the target of any other graph node, such as a Python function, and works on nodes as on tensors.
"""

from __future__ import annotations

from typing import Any

import torch

from remat_planner.tracer.operators.declared import argument_of
from remat_planner.tracer.operators.graph_functions import is_random_fill
from remat_planner.tracer.operators.registry import facts_of

_COLLECTIVE_NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional", "_dtensor", "symm_mem")
_PURE_NAMESPACES = ("aten", "prims")


def is_random(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether this call draws from a random generator."""
    if is_random_fill(func) or facts_of(func).draws:
        return True
    if not isinstance(func, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    switch = facts_of(func).draws_if
    if switch is None:
        return True
    value = argument_of(func, args, kwargs, switch)
    return value is None or bool(value)


def hidden_updates(func: Any, args: Any, kwargs: Any) -> tuple[int, ...]:
    """Positions of the running statistics that this call updates although its schema does not say so.

    A recomputation passes None there: the result is the same, and the statistics are updated once.
    """
    names = facts_of(func).hidden_updates
    if not names or not argument_of(func, args, kwargs, "training"):
        return ()
    positions = {declared.name: i for i, declared in enumerate(func._schema.arguments)}
    return tuple(positions[name] for name in names if argument_of(func, args, kwargs, name) is not None)


def batch_norm_statistics(func: Any, args: Any, kwargs: Any) -> tuple[torch.Tensor, ...]:
    """The running statistics themselves (tensors or nodes) at the positions of ``hidden_updates``."""
    positions = hidden_updates(func, args, kwargs)
    return tuple(argument_of(func, args, kwargs, func._schema.arguments[i].name) for i in positions)


def is_collective(func: Any) -> bool:
    """Whether other ranks take part in a call of ``func``."""
    return isinstance(func, torch._ops.OpOverload) and func.namespace in _COLLECTIVE_NAMESPACES


def communicates_in_place(func: Any) -> bool:
    """Whether ``func`` is a collective of ``torch.distributed`` itself: it writes to its arguments, and no schema says so."""
    return is_collective(func) and func.namespace == "c10d"


def is_pure(func: Any) -> bool:
    """Whether a call of ``func`` only computes its results, as far as its record and namespace tell.

    Draws, writes in the schema and hidden updates depend on the call and are asked for separately.
    """
    pure = facts_of(func).pure
    if not isinstance(func, torch._ops.OpOverload):
        return pure is not False
    if is_collective(func):
        return False
    return func.namespace in _PURE_NAMESPACES if pure is None else pure


def pin_reason(func: Any) -> str | None:
    """Why every call of ``func`` must run exactly once, or None.

    The text is part of a schedule's fingerprint: a changed text makes saved schedules stale.
    """
    if not isinstance(func, torch._ops.OpOverload):
        return facts_of(func).pinned
    if is_collective(func):
        return "a collective: other ranks take part in it"
    facts = facts_of(func)
    if facts.pinned is not None:
        return facts.pinned
    if is_pure(func):
        return None
    if facts.pure is None:
        return f"an operator that is not PyTorch's own ({func._schema.name}): whether it may run twice is unknown"
    return f"an operator that is registered as not pure ({func._schema.name})"
