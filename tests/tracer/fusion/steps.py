"""Steps written down by hand, to judge partitions of."""

from __future__ import annotations

from typing import Any

from remat_planner.tracer.fusion import FusedStep, Rates, Value, Values

RATES = Rates(bandwidth=1e9, arithmetic=1e9, launch=0.0)


def value(name: str, kind: str, reads: tuple[int, ...] = (), size: int = 100, **more: Any) -> Value:
    """A value of ``size`` bytes, of one byte per element."""
    facts = {"rows": 0, "weight": 1.0, "seconds": 1.0 if kind == "kernel" else 0.0, "repeatable": kind != "given", **more}
    return Value(name=name, operator=name.rstrip("0123456789"), kind=kind, reads=reads, bytes=size, elements=size, **facts)


def chain(layers: int, *, size: int = 100, seconds: float = 1.0) -> FusedStep:
    """``layers`` of a product with a parameter and a nonlinearity, and their gradients.

    As in a chain of linear layers, the backward of a product reads its input, and that of a nonlinearity its own input.
    """
    values: list[Value] = [value("input", "given")]
    x, inputs, products = 0, [], []
    for k in range(layers):
        inputs.append(x)
        values.append(value(f"mm{k}", "kernel", (x,), size, seconds=seconds))
        products.append(len(values) - 1)
        values.append(value(f"tanh{k}", "pointwise", (len(values) - 1,), size, weight=10.0))
        x = len(values) - 1
    loss = len(values)
    values.append(value("sum", "reduction", (x,), 1, rows=1))
    forward = len(values)
    values.append(value("tangents", "given", (), 1))
    gradient, results = len(values) - 1, []
    for k in reversed(range(layers)):
        values.append(value(f"tanh_backward{k}", "pointwise", (gradient, products[k]), size))
        grown = len(values) - 1
        values.append(value(f"weight_gradient{k}", "kernel", (grown, inputs[k]), size))
        results.append(len(values) - 1)
        if k:
            values.append(value(f"input_gradient{k}", "kernel", (grown,), size))
            gradient = len(values) - 1
    return FusedStep(
        Values(
            values=tuple(values),
            index_of={v.name: k for k, v in enumerate(values)},
            forward=tuple(k < forward for k in range(len(values))),
            forward_results=frozenset({loss}),
            backward_results=frozenset(results),
        ),
        RATES,
        cpu=False,
    )
