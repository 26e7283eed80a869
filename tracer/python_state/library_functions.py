"""Functions and classes of PyTorch that a program can replace, as far as a forward's code names them.

Other attention kernels are often installed so: ``torch.nn.functional.scaled_dot_product_attention = other``.
"""

from __future__ import annotations

import typing
from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state.executed_code import is_users_module
from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.places import Place


class LibraryFunctions(Holder):
    """Some functions of a module or class of PyTorch, by identity. What they hold is not looked at.

    Args:
        place: the module or class.
        target: its ``__dict__``.
        names: names of the functions.
    """

    has_places = False
    has_names = True

    def entries(self) -> dict[Any, Any]:
        return {key: self.target[key] for key in self.names or () if key in self.target}

    def place_of(self, key: Any) -> Place:
        return self.place.attribute(key)

    def name_of(self, key: Any) -> str:
        return self.place_of(key).label

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:  # noqa: ARG002
        return self.target, list(self.entries())

    def put_back(self, entries: dict[Any, Any]) -> None:
        """A forward does not replace them."""


def library_functions(model: nn.Module, names: Names) -> Iterator[tuple[Place, LibraryFunctions]]:
    """The places and holders of those that a forward of ``model`` can call, whose code uses ``names`` (None: any)."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if _is_of_pytorch(kind)} - {nn.Module}
    called = {name for kind in kinds for name in _names_in(vars(kind).get("forward"))}
    wanted = called | (set(names) if names is not None else vars(nn.functional).keys())
    owners: list[tuple[str, Any, set[str] | frozenset[str]]] = [
        ("torch", torch, wanted),
        ("torch.nn.functional", nn.functional, wanted),
        ("torch.Tensor", torch.Tensor, wanted),
        ("torch.nn.Module", nn.Module, {"__call__", "__getattr__"}),
        *((f"torch.nn.{kind.__name__}", kind, {"forward"}) for kind in sorted(kinds, key=lambda kind: kind.__name__)),
    ]
    for label, owner, keys in owners:
        place = Place(label, owner, "object")
        functions = frozenset(key for key in keys if callable(vars(owner).get(key)))  # ``getattr`` would import parts of torch
        yield place, LibraryFunctions(place, vars(owner), functions)


def _is_of_pytorch(kind: type) -> bool:
    return issubclass(kind, nn.Module) and not is_users_module(kind.__module__)


def _names_in(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return () if code is None else code.co_names
