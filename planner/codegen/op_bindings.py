"""The fastest way to call each operator that provably is that operator.

``torch.mul(a, b)`` reaches a kernel in half the time of ``torch.ops.aten.mul.Tensor(a, b)``, because its arguments are
parsed in C. But which operator it reaches depends on its arguments. So a candidate is tried on stand-ins without data, with
a recorder in the place of the kernels, and taken only where exactly the wanted operator arrives with exactly the wanted
arguments.
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
    """Finds the binding of each node; equal calls are tried once."""

    def __init__(self) -> None:
        self._found: dict[Any, Binding] = {}

    def binding(self, node: fx.Node) -> Binding:
        """The binding for ``node``, whose arguments are nodes with ``meta["val"]``; the operator itself where nothing
        faster is it.
        """
        target = node.target
        assert callable(target)
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
            return Binding(target)
        key = (target, _call_form(node.args), _call_form(node.kwargs))
        if key not in self._found:
            self._found[key] = _fastest(target, node)
        return self._found[key]


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
        except Exception:  # one that cannot take these arguments is no candidate
            continue
        if len(recorder.calls) == 1 and recorder.calls[0][0] is target and _same(_complete(*recorder.calls[0]), wanted):
            return candidate
    return Binding(target)


def _candidates(target: torch._ops.OpOverload, args: tuple[Any, ...]) -> Iterator[Binding]:
    name = target._schema.name.removeprefix("aten::")
    for home in binding_modules():
        function = getattr(home, name, None)
        # Python functions decide things themselves; only the generated bindings are transparent.
        if type(function).__name__ == "builtin_function_or_method":
            yield Binding(function)
    if args and isinstance(args[0], torch.Tensor) and type(getattr(torch.Tensor, name, None)).__name__ == "method_descriptor":
        yield Binding(None, name)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
    """The arguments as the C parsers tell them apart: dimensions and dtypes of tensors, the very values of all else."""
    leaves, spec = pytree.tree_flatten(arguments)
    return spec, tuple(_leaf_form(leaf) for leaf in leaves)


def _leaf_form(leaf: Any) -> Any:
    if isinstance(leaf, fx.Node):
        value = leaf.meta["val"]
        values = value if isinstance(value, (list, tuple)) else (value,)
        return tuple((v.dim(), v.dtype) if isinstance(v, torch.Tensor) else type(v) for v in values)
    return (type(leaf), repr(leaf))


def _complete(target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument by its name in the schema, defaults filled in."""
    given = dict(zip((a.name for a in target._schema.arguments), args, strict=False)) | kwargs
    return {a.name: given.get(a.name, a.default_value) for a in target._schema.arguments}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
