"""A recording's forward as data, which later recordings are compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import fx

from remat_planner.tracer.joint import LeftBehind, RecordedForward, RecordedOperator, Result, flatten
from remat_planner.tracer.python_state import ABSENT, Change, Place, is_plain
from remat_planner.tracer.record.effects import RecordedEffects
from remat_planner.tracer.record.recording import Recording
from remat_planner.tracer.torch_private import generator_key, hashable, is_symbolic


class _At:
    """Written in the place of a node among arguments."""

    def __init__(self, place: int) -> None:
        self._text = f"%{place}"

    def __repr__(self) -> str:
        return self._text


class _Size:
    """Written in the place of a symbolic size among arguments."""

    def __init__(self, size: Any) -> None:
        self._text = f"<size {hashable(size)}>"

    def __repr__(self) -> str:
        return self._text


def planned_forward(
    recording: Recording, effects: RecordedEffects, functions: Any, places: tuple[tuple[Place, ...], ...]
) -> RecordedForward:
    """The forward of the step that is planned.

    Args:
        recording: the step.
        effects: what each forward leaves behind.
        functions: the autograd.Functions that run as they are.
        places: of the tensors in Python state that are read there.
    """
    results = _results(recording)
    left: dict[str, tuple[set[Result], dict[Any, Any]]] = {}
    leaves = iter(effects.leaves)
    for effect in effects.effects.made:
        tensors, values = left.setdefault(effect.place.label, (set(), {}))
        for leaf in [next(leaves) for _ in range(effect.leaves)]:
            if id(leaf) in results:
                tensors.add(results[id(leaf)])
            elif effect.leaves == 1 and is_plain(leaf) and effect.adds is None:
                values[effect.key] = leaf
    filled = [
        (
            change.holder,
            {key: change.before.get(key, ABSENT) for key in change.keys if change.holder.name_of(key) in effects.filled},
        )
        for change in recording.changes
        if effects.filled.intersection(change.names)
    ]
    forward = _forward(recording, {label: LeftBehind(frozenset(t), values) for label, (t, values) in left.items()})
    return replace(forward, filled=tuple(filled), functions=functions, places=places)


def forward_now(recording: Recording, written: Mapping[str, Collection[Any]]) -> RecordedForward:
    """The forward of a recording that is compared with the planned one. ``written`` are the keys that the planned one sets."""
    results = _results(recording)
    left = {}
    for change in recording.changes:
        values = change.after
        tensors = [leaf for leaf in flatten(list(values.values()))[0] if id(leaf) in results]
        left[change.holder.place.label] = LeftBehind(frozenset(results[id(t)] for t in tensors), dict(values))
    return replace(_forward(recording, left), beyond=tuple(_beyond(recording.changes, written)))


def _beyond(changes: Iterable[Change], written: Mapping[str, Collection[Any]]) -> list[str]:
    names = []
    for change in changes:
        known = written.get(change.holder.place.label)
        if known is None:
            names += change.names
        elif change.holder.has_names:
            names += [change.holder.name_of(key) for key in change.keys if key not in known]
    return names


def _forward(recording: Recording, left: Mapping[str, LeftBehind]) -> RecordedForward:
    graph = recording.module.graph
    place = {node: position for position, node in enumerate(graph.nodes)}
    end = next(position for node, position in place.items() if node.name == recording.end)
    nodes = islice(graph.nodes, end + 1)
    tensors = recording.node_of_leaf
    sizes: dict[str, Any] = {}
    return RecordedForward(
        operators=tuple(_operator(node, place, sizes) for node in nodes if node.op != "placeholder"),
        outputs=tuple(
            Result(place.get(tensors[i]), i in recording.differentiable) if i in tensors else recording.constants[i]
            for i in range(recording.returned)
        ),
        structure=recording.output_spec.spec,
        reads=tuple((guard.source, repr(guard.expected)) for guard in recording.known.guards().all),
        left=left,
        sizes=sizes,
    )


def _results(recording: Recording) -> dict[int, Result]:
    """The tensors that the forward leaves behind, by their ids."""
    graph = recording.module.graph
    place = {node: position for position, node in enumerate(graph.nodes)}
    tensors = recording.node_of_leaf
    leaves = enumerate(recording.left_behind, recording.returned)
    return {id(leaf): Result(place.get(tensors[i]), i in recording.differentiable) for i, leaf in leaves if i in tensors}


def _operator(node: fx.Node, place: Mapping[fx.Node, int], sizes: dict[str, Any]) -> RecordedOperator:
    module, source = node.meta.get("module", ""), node.meta.get("source", "")
    if node.op == "get_attr":
        return RecordedOperator(None, "", getattr(node.graph.owning_module, str(node.target)), None, module, source)

    def written(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return _At(place[argument])
        if not is_symbolic(argument):
            return argument
        sizes[repr(text := _Size(argument))] = argument
        return text

    arguments: Any = fx.node.map_aggregate((node.args, node.kwargs), written)
    generator = node.meta.get("generator")
    key = None if generator is None else generator_key(generator)
    parts = [*map(repr, arguments[0]), *(f"{name}={value!r}" for name, value in arguments[1].items())]
    return RecordedOperator(node.target, ", ".join(parts), None, key, module, source)
