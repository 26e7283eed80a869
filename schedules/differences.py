"""What differs between two training steps, in words: for the refusal of a schedule that was made for another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from remat_planner.schedules.graph import Graph
from remat_planner.schedules.origin import Origin

_MOST_LINES = 8


def differences(planned: Graph, found: Graph) -> tuple[str, ...]:
    """What ``found`` has that ``planned`` has not, one line each, the most telling first; empty for the same step."""
    if planned.fingerprint == found.fingerprint:
        return ()
    lines: list[str] = []
    if len(planned.ops) != len(found.ops):
        lines.append(f"{len(planned.ops):,} ops planned, {len(found.ops):,} found")
    for ours, theirs in zip(planned.ops, found.ops, strict=False):
        if (ours.name, ours.kind) != (theirs.name, theirs.kind):
            lines.append(f"op {ours.name!r} ({ours.kind}) planned, {theirs.name!r} ({theirs.kind}) found in its place")
            break
        shapes = [
            f"op {ours.name!r}: {_form(planned, a)} planned, {_form(found, b)} found"
            for a, b in zip(ours.writes, theirs.writes, strict=False)
            if _form(planned, a) != _form(found, b)
        ]
        lines += shapes
        if len(lines) >= _MOST_LINES:
            break
    return tuple(lines[:_MOST_LINES]) or ("the wiring, aliasing or flags of some ops",)


def origin_differences(planned: Origin, found: Origin) -> tuple[str, ...]:
    """The parameters, buffers and inputs that differ between what a schedule was made for and what it is given."""
    lines = [
        *_mapping_differences("parameter or buffer", planned.parameters, found.parameters),
        *_mapping_differences("input", planned.inputs, found.inputs),
    ]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} more"]
    return tuple(lines)


def _mapping_differences(what: str, planned: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name, form in planned.items():
        if name not in found:
            yield f"{what} {name}: {form} planned, none found"
        elif found[name] != form:
            yield f"{what} {name}: {form} planned, {found[name]} found"
    for name in found:
        if name not in planned:
            yield f"{what} {name}: {found[name]} found, none planned"


def _form(graph: Graph, value: int) -> str:
    return f"{graph.values[value].dtype}{list(graph.values[value].shape)}"
