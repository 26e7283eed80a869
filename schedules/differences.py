"""What differs between two training steps, in words, for the error that refuses a schedule of another step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from remat_planner.schedules.graph import Graph
from remat_planner.schedules.origin import Origin

_MOST_LINES = 8


def differences(planned: Graph, actual: Graph) -> tuple[str, ...]:
    """How ``actual`` differs from ``planned``: up to 8 lines, the most telling first; empty for the same step."""
    if planned.fingerprint == actual.fingerprint:
        return ()
    lines: list[str] = []
    if len(planned.ops) != len(actual.ops):
        lines.append(f"{len(planned.ops):,} ops planned, {len(actual.ops):,} found")
    for op, other in zip(planned.ops, actual.ops, strict=False):
        if (op.name, op.kind) != (other.name, other.kind):
            lines.append(f"op {op.name!r} ({op.kind}) planned, {other.name!r} ({other.kind}) found in its place")
            break
        shapes = [
            f"op {op.name!r}: {_form(planned, a)} planned, {_form(actual, b)} found"
            for a, b in zip(op.writes, other.writes, strict=False)
            if _form(planned, a) != _form(actual, b)
        ]
        lines += shapes
        if len(lines) >= _MOST_LINES:
            break
    return tuple(lines[:_MOST_LINES]) or ("the wiring, aliasing or flags of some ops",)


def origin_differences(planned: Origin, actual: Origin) -> tuple[str, ...]:
    """Which parameters, buffers and inputs differ: up to 8 lines."""
    lines = [
        *_mapping_differences("parameter or buffer", planned.parameters, actual.parameters),
        *_mapping_differences("input", planned.inputs, actual.inputs),
    ]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} more"]
    return tuple(lines)


def _mapping_differences(what: str, planned: Mapping[str, str], actual: Mapping[str, str]) -> Iterator[str]:
    for name, form in planned.items():
        if name not in actual:
            yield f"{what} {name}: {form} planned, none found"
        elif actual[name] != form:
            yield f"{what} {name}: {form} planned, {actual[name]} found"
    for name in actual:
        if name not in planned:
            yield f"{what} {name}: {actual[name]} found, none planned"


def _form(graph: Graph, value: int) -> str:
    return f"{graph.values[value].dtype}{list(graph.values[value].shape)}"
