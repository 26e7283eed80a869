"""A small training step of equal layers, with what reports show: modules, shapes, gradients, workspace, constants."""

from __future__ import annotations

from remat_planner.schedules import Graph, Op, Phase, Schedule, Storage, Value

_WIDTH = 1000  # bytes of an activation


def layered_graph(layers: int = 4) -> Graph:
    """Each layer: ``wide`` (4 units of memory), ``narrow`` (1). The backward reads both, and makes a gradient that stays."""
    ops: list[Op] = []
    values = [Value("weight", 0, (8, 8), "float32")]
    storages = [Storage(4 * _WIDTH, constant=True)]

    def add(name: str, reads: list[int], size: int, phase: Phase, module: str, **more: object) -> int:
        storages.append(Storage(size * _WIDTH))
        values.append(Value(name, len(storages) - 1, (size, 250), "float32"))
        ops.append(
            Op(
                name=name,
                reads=tuple(reads),
                writes=(len(values) - 1,),
                seconds=size / 1000,
                phase=phase,
                kind=f"aten.{name.rsplit('.', 1)[1]}.default",
                module=module,
                source="/somewhere/model.py:7",
                **more,  # type: ignore[arg-type]
            )
        )
        return len(values) - 1

    x = 0
    saved = []
    for n in range(layers):
        wide = add(f"layers.{n}.mlp.gelu", [x], 4, "forward", f"layers.{n}.mlp")
        narrow = add(f"layers.{n}.addmm", [wide], 1, "forward", f"layers.{n}")
        saved.append((x, wide))
        x = narrow
    gradient = add("loss.backward", [x], 1, "backward", "", pinned="it is the loss")
    results = []
    for n in reversed(range(layers)):
        below, wide = saved[n]
        results.append(add(f"layers.{n}.weight_gradient", [gradient, wide], 2, "backward", f"layers.{n}", workspace=1500))
        gradient = add(f"layers.{n}.input_gradient", [gradient, wide, below], 1, "backward", f"layers.{n}")
    return Graph(
        ops=tuple(ops),
        values=tuple(values),
        storages=tuple(storages),
        results=tuple(results),
        constants={"parameters": 4 * _WIDTH},
    )


def layered_schedule(layers: int = 4, *, recomputed: int = 3) -> Schedule:
    """The step with the wide activation of the first ``recomputed`` layers computed again just before its layer's backward."""
    graph = layered_graph(layers)
    steps = list(range(2 * layers + 1))
    for n in reversed(range(layers)):
        backward = graph.by_name[f"layers.{n}.weight_gradient"]
        again = [graph.by_name[f"layers.{n}.mlp.gelu"]] if n < recomputed else []
        steps += [*again, backward, backward + 1]
    return Schedule(
        graph=graph,
        steps=tuple(steps),
        budget=24 * _WIDTH,
        solver="ilp",
        status="feasible",
        bound_seconds=graph.seconds * 1.02,
        assumption="first executions in the given order",
    )
