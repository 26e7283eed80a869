"""TorchScript as autograd.Functions: a scripted or traced module runs as it is, with the autograd graph that it makes.

What that graph saves for the backward would be memory that no schedule sees. So hooks take it out: the tensors are kept as
``ctx`` keeps those of any Function, and the graph itself, which then holds none, goes along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.utils import _pytree as pytree

from remat_planner.tracer.torch_script import call_script, digest_of, owner_of, qualified_name, script_slots

_WARM_UPS = 3
"""Calls after which TorchScript runs the code as it will from then on: it observes the first, and rewrites the code."""


@dataclass(eq=False)
class Arguments:
    """The form of a script's arguments and results. A call has it as its first argument; equal ones are one object.

    Attributes:
        leaves: of ``(args, kwargs)``, None for tensors.
        spec: how they form the arguments.
        state: number of tensors that belong to the script's module; they come before those of the arguments.
        returned: how the results form what the script returns; None before its first run.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    state: int
    returned: pytree.TreeSpec | None = field(init=False, default=None)
    seen: set[Any] = field(init=False, default_factory=set)

    def filled(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with those of ``tensors`` that are no state in them."""
        given = iter(tensors[self.state :])
        return pytree.tree_unflatten([next(given) if leaf is _TENSOR else leaf for leaf in self.leaves], self.spec)


@dataclass(frozen=True)
class ScriptCall:
    """A call of a script as one of an autograd.Function.

    Attributes:
        function: the Function.
        arguments: the first of its arguments.
        tensors: the others.
    """

    function: type[torch.autograd.Function]
    arguments: Arguments
    tensors: list[torch.Tensor]

    @classmethod
    def of(cls, script: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ScriptCall:
        """The call ``script(*args, **kwargs)``."""
        owner = owner_of(script)
        key = script if owner is None else (owner, script.name)
        function = _functions.get(key)
        if function is None:
            function = _functions[key] = _function_of(script)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        state = [] if owner is None else [tensor for tensor, _ in script_slots(owner)]
        constants = tuple(_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        form = (repr(constants), repr(spec), len(state))
        arguments = function.forms.setdefault(form, Arguments(constants, spec, len(state)))  # type: ignore[attr-defined]
        return cls(function, arguments, [*state, *given])

    def unflattened(self, results: tuple[Any, ...]) -> Any:
        """What the script returns, of the results of its Function."""
        assert self.arguments.returned is not None
        return pytree.tree_unflatten(list(results), self.arguments.returned)


class _Tensor:
    def __repr__(self) -> str:
        return "a tensor"


_TENSOR = _Tensor()
_functions: dict[Any, type[torch.autograd.Function]] = {}


class _Entry(torch.autograd.Function):
    """Where a tensor enters a graph that is not to hold its memory: gradients are taken at its edge, and end there."""

    @staticmethod
    def forward(_ctx: Any, _leaf: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)


@dataclass(eq=False)
class _Graph:
    """The autograd graph of one run, without the tensors that it has saved.

    Attributes:
        results: the edge of each result; None where it requires no gradient.
        entries: the edge of each argument; None where it requires no gradient.
        saved: what the graph has saved: filled while it runs.
    """

    entries: list[GradientEdge | None] = field(default_factory=list)
    results: list[GradientEdge | None] = field(default_factory=list)
    saved: list[torch.Tensor] = field(default_factory=list)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Take what is saved for the backward inside."""

        def pack(tensor: torch.Tensor) -> int:
            self.saved.append(tensor.detach())
            return len(self.saved) - 1

        with saved_tensors_hooks(pack, lambda index: self.saved[index]):
            yield

    def backward(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The gradients of the arguments."""
        arriving = [(edge, g) for edge, g in zip(self.results, gradients, strict=True) if edge is not None and g is not None]
        wanted = [edge for edge in self.entries if edge is not None]
        found = iter(
            torch.autograd.grad(
                [edge for edge, _ in arriving], wanted, [g for _, g in arriving], retain_graph=True, allow_unused=True
            )
            if arriving and wanted
            else [None] * len(wanted)
        )
        return [None if edge is None else next(found) for edge in self.entries]


def _function_of(script: Any) -> type[torch.autograd.Function]:
    """An autograd.Function that runs ``script``."""
    owner = owner_of(script)

    def forward(ctx: Any, arguments: Arguments, *tensors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        form = tuple((t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors)
        if form not in arguments.seen:
            arguments.seen.add(form)
            for _ in range(_WARM_UPS):
                _warm_up(script, owner, arguments, tensors)
        leaves, graph = _run(script, owner, arguments, tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*graph.saved)
        graph.saved = []
        ctx.graph = graph
        results = tuple(None if leaf is None else leaf.detach() for leaf in leaves)
        ctx.mark_non_differentiable(
            *(r for r, edge in zip(results, graph.results, strict=True) if r is not None and edge is None)
        )
        return results

    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        graph: _Graph = ctx.graph
        graph.saved = list(ctx.saved_tensors)
        try:
            return (None, *graph.backward(gradients))
        finally:
            graph.saved = []

    name = qualified_name(script)
    module, _, qualname = name.rpartition(".")
    body = {
        "__module__": module,
        "forward": staticmethod(forward),
        "backward": staticmethod(backward),
        "forms": {},
        "what": "TorchScript",
        "code": digest_of(script),
    }
    make: Any = type(torch.autograd.Function)
    function: type[torch.autograd.Function] = make(qualname, (torch.autograd.Function,), body)
    return function


def _run(
    script: Any, owner: Any, arguments: Arguments, tensors: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor | None], _Graph]:
    graph = _Graph()
    leaf = torch.empty(0, requires_grad=True)
    with torch.enable_grad():
        entered = [_Entry.apply(leaf, t.detach()) if t.requires_grad else t for t in tensors]  # type: ignore[no-untyped-call]
        args, kwargs = arguments.filled(entered)
        with _holding(owner, entered[: arguments.state]), graph.saving():
            returned = call_script(script, *args, **kwargs)
    leaves, arguments.returned = pytree.tree_flatten(returned)
    for value in leaves:
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"it returns a value of type {type(value).__name__}, which may differ at each call")
    graph.entries = [_edge(tensor) for tensor in entered]
    graph.results = [None if value is None else _edge(value) for value in leaves]
    return leaves, graph


def _warm_up(script: Any, owner: Any, arguments: Arguments, tensors: Sequence[torch.Tensor]) -> None:
    copies = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_(t.requires_grad) for t in tensors]
    leaves, graph = _run(script, owner, arguments, copies)
    graph.backward([None if leaf is None else torch.ones_like(leaf) for leaf in leaves])


def _edge(tensor: torch.Tensor) -> GradientEdge | None:
    return get_gradient_edge(tensor) if tensor.requires_grad else None


@contextmanager
def _holding(owner: Any, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let the scripted module ``owner`` have ``tensors`` as its parameters and buffers.

    Raises:
        RuntimeError: the script put another tensor in the place of one.
    """
    if owner is None:
        yield
        return
    slots = list(script_slots(owner))
    puts: list[Callable[[torch.Tensor], None]] = [put for _, put in slots]
    try:
        for put, tensor in zip(puts, tensors, strict=True):
            put(tensor)
        yield
        if any(now is not tensor for (now, _), tensor in zip(script_slots(owner), tensors, strict=True)):
            raise RuntimeError("it assigns another tensor to a parameter or buffer")
    finally:
        for before, put in slots:
            put(before)
