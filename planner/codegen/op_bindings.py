"""The fastest call of each operator that provably reaches it.

``torch.mul(a, b)`` reaches a kernel in half the time of ``torch.ops.aten.mul.Tensor(a, b)``, because C code parses its
arguments. But the arguments decide which operator it reaches. So each candidate is tried on tensors without data while a
recorder replaces the kernels, and accepted only if it reaches exactly this operator with exactly these arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.torch_private import below_autograd, binding_modules


@dataclass(frozen=True)
class Binding:
    """How to call an operator: a function, or the name of a method of its first argument."""

    function: Callable[..., Any] | None
    method: str = ""


class Binder:
    """Finds the binding of each node, and tries equal calls once."""

    def __init__(self) -> None:
        self._bindings: dict[Any, Binding] = {}

    def binding(self, node: fx.Node) -> Binding:
        """The binding of ``node``: the operator itself where nothing faster reaches it.

        The arguments of ``node`` are nodes with fake tensors in ``meta["val"]``.
        """
        target = node.target
        assert callable(target)
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
            return Binding(target)
        key = (target, _call_form(node.args), _call_form(node.kwargs))
        if key not in self._bindings:
            self._bindings[key] = _fastest(target, node)
        return self._bindings[key]


def taking_number(operator: Callable[..., Any], position: int) -> Callable[..., Any]:
    """``operator``, which gets a tensor at ``position`` of its arguments where it takes a number."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return operator(*args[:position], float(args[position]), *args[position + 1 :], **kwargs)

    call.__name__ = call.__qualname__ = f"{getattr(operator, '__name__', 'operator').replace('.', '_')}_taking_number"
    return call


def _fastest(target: torch._ops.OpOverload, node: fx.Node) -> Binding:
    args = fx.node.map_arg(node.args, _stand_in)
    kwargs = fx.node.map_arg(node.kwargs, _stand_in)
    wanted = _complete(target, args, kwargs)
    for candidate in _candidates(target, args):
        recorder = _Recorder(node.meta.get("val"))
        try:
            with torch.no_grad(), below_autograd(), recorder:
                if candidate.function is not None:
                    candidate.function(*args, **kwargs)
                else:
                    getattr(args[0], candidate.method)(*args[1:], **kwargs)
        except Exception:  # it does not take these arguments
            continue
        if len(recorder.calls) == 1 and recorder.calls[0][0] is target and _same(_complete(*recorder.calls[0]), wanted):
            return candidate
    return Binding(target)


def _candidates(target: torch._ops.OpOverload, args: tuple[Any, ...]) -> Iterator[Binding]:
    name = target._schema.name.removeprefix("aten::")
    for home in binding_modules():
        function = getattr(home, name, None)
        # A function written in Python may do more than call the operator; a generated binding does not.
        if type(function).__name__ == "builtin_function_or_method":
            yield Binding(function)
    if args and isinstance(args[0], torch.Tensor) and type(getattr(torch.Tensor, name, None)).__name__ == "method_descriptor":
        yield Binding(None, name)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operators that are called, and returns tensors without data."""

    def __init__(self, result: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]] = []
        self.result = result

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls.append((func, args, kwargs or {}))
        return pytree.tree_map(lambda leaf: _meta(leaf) if isinstance(leaf, torch.Tensor) else leaf, self.result)


def _stand_in(node: fx.Node) -> Any:
    return pytree.tree_map(lambda leaf: _meta(leaf) if isinstance(leaf, torch.Tensor) else leaf, node.meta["val"])


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _call_form(arguments: Any) -> Any:
    """The arguments as C parsers distinguish them: number of dimensions and dtype of a tensor, the value of anything else."""
    leaves, spec = pytree.tree_flatten(arguments)
    return spec, tuple(_leaf_form(leaf) for leaf in leaves)


def _leaf_form(leaf: Any) -> Any:
    if isinstance(leaf, fx.Node):
        value = leaf.meta["val"]
        values = value if isinstance(value, (list, tuple)) else (value,)
        return tuple((v.dim(), v.dtype) if isinstance(v, torch.Tensor) else type(v) for v in values)
    return (type(leaf), repr(leaf))


def _complete(target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by their names in the schema, with defaults."""
    passed = dict(zip((a.name for a in target._schema.arguments), args, strict=False)) | kwargs
    return {a.name: passed.get(a.name, a.default_value) for a in target._schema.arguments}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
