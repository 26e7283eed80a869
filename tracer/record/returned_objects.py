"""Objects that a forward makes and returns: a captured step returns those of its capture in each call."""

from __future__ import annotations

from collections.abc import Iterable, Set
from types import GeneratorType
from typing import Any

import torch

from remat_planner.tracer.python_state import Place, is_plain, walk
from remat_planner.tracer.refusals import tensors_inside_error
from remat_planner.tracer.torch_private import is_fake


def refuse_tensors_inside(leaves: Iterable[Any], found: Set[int]) -> None:
    """Refuse leaves of the output that hold tensors of this forward: a function with variables, a generator.

    Args:
        leaves: of the output; objects whose tensors are leaves themselves are not among them.
        found: identities of the objects that were there before the forward.

    Raises:
        PythonStateError: there is one.
    """
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) or is_plain(leaf) or id(leaf) in found:
            continue
        if isinstance(leaf, GeneratorType):
            raise tensors_inside_error(type(leaf), "its variables")
        for holder in walk([(Place("the output", leaf, "object"), leaf)], None, set(found)):
            for key, value in holder.entries().items():
                if isinstance(value, torch.Tensor) and is_fake(value):
                    raise tensors_inside_error(type(leaf), holder.name_of(key))
