"""Looking up an operator's record, and adding records for operators of the user's own.

A registration overrides the fields that it names in the built-in record, if there is one, and leaves the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import torch

from remat_planner.tracer.operators.facts import OperatorFacts, Roofline, SampleInputs
from remat_planner.tracer.operators.op_call import OpCall
from remat_planner.tracer.operators.tables import BUILT_IN

Function = TypeVar("Function", bound=Callable[..., Any])

_NOTHING_SPECIAL = OperatorFacts()
_registered: dict[str, dict[str, Any]] = {}  # the fields that a registration names, by operator


class UnknownOperatorError(ValueError):
    """A name that no operator has.

    Attributes:
        name: the name as it was given.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


def facts_of(target: Any) -> OperatorFacts:
    """The record of an operator overload or graph function; an empty one for those without a record.

    A built-in record of one overload ("aten::max.dim") takes the place of that of the whole operator ("aten::max").
    """
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "facts", None) or _NOTHING_SPECIAL
    name, facts = _built_in(target)
    registered = _registered.get(name)
    return facts if registered is None else replace(facts, **registered)


@lru_cache(maxsize=4096)  # a capture asks several times per op, and reading a schema is slow
def _built_in(target: torch._ops.OpOverload) -> tuple[str, OperatorFacts]:
    """The name of an operator, and its record without what was registered."""
    name, overload = target._schema.name, target._schema.overload_name or "default"
    return name, BUILT_IN.get(f"{name}.{overload}") or BUILT_IN.get(name, _NOTHING_SPECIAL)


def with_facts(facts: OperatorFacts) -> Callable[[Function], Function]:
    """Decorator: ``facts`` is the record of a graph function."""

    def recorded(function: Function) -> Function:
        function.facts = facts  # type: ignore[attr-defined]
        return function

    return recorded


def register_operator(
    name: str,
    *,
    pure: bool | None = None,
    pinned: str | None = None,
    flops: Callable[[OpCall], int] | None = None,
    roofline: Roofline | None = None,
    sample_inputs: SampleInputs | None = None,
) -> None:
    """Tell the planner about an operator, usually a custom one. A later registration of the same operator replaces this one.

    A custom operator that is not registered is recomputed only if two runs on arbitrary values gave the same bits, has 0 FLOPs,
    and is measured on arbitrary values.
    Registrations last for the process. Make them before planning, and again in the process that applies a saved schedule:
    what may be recomputed is part of the schedule's fingerprint.

    Args:
        name: "namespace::name", all overloads together.
        pure: True where a call only computes its results, so that it may run again; False where it may not.
        pinned: why a call must run exactly once all the same (its choice of indices may differ the second time, say).
        flops: floating point operations of a call; a multiply and an add are two.
        roofline: how to estimate its time on a GPU that is not at hand; by default each argument and result moves once.
        sample_inputs: for a call that is measured alone, the values of its arguments: {"index": rows} for integers below
            ``rows``, {"p": fill} for a function that fills a one-dimensional tensor in place.

    Raises:
        UnknownOperatorError: no operator has this name.
        ValueError: the arguments say nothing, ``pinned`` is empty, or ``pure`` contradicts the schema.
    """
    packet = _operator_named(name)
    fields = {
        "pure": pure,
        "pinned": pinned,
        "flops": flops,
        "roofline": roofline,
        "sample_inputs": sample_inputs,
    }
    named = {key: value for key, value in fields.items() if value is not None}
    if not named:
        raise ValueError(f"register_operator({name!r}) says nothing about it: give at least one of {', '.join(fields)}")
    if pinned is not None and not pinned.strip():
        raise ValueError(f"register_operator({name!r}, pinned={pinned!r}): give the reason why each call must run exactly once")
    overloads: list[str] = packet.overloads()  # type: ignore[no-untyped-call]
    schemas = [getattr(packet, overload)._schema for overload in overloads]
    if pure and all(schema.is_mutable for schema in schemas):
        raise ValueError(
            f"register_operator({name!r}, pure=True): its schema says that it writes into an argument, so it cannot run twice: "
            f"{schemas[0]}"
        )
    _registered[name] = named


def unregister_operator(name: str) -> None:
    """Forget what ``register_operator`` was told about ``name``; nothing happens where it was told nothing."""
    _registered.pop(name, None)


def _operator_named(name: str) -> torch._ops.OpOverloadPacket:
    namespace, _, operator = name.partition("::")
    if not namespace.isidentifier() or not operator.isidentifier():
        raise UnknownOperatorError(
            f"{name!r} is not the name of an operator: write it as 'namespace::name', without an overload", name=name
        )
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        raise UnknownOperatorError(
            f"no operator is called {name!r}: define it, or import the library that defines it, before registering it",
            name=name,
        )
    return packet
