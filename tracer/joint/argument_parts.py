"""Sparse and jagged tensors among the arguments of a call, as the dense tensors that they consist of.

So another number of entries is another form of input, as another batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint.arguments_tree import is_size
from remat_planner.tracer.torch_nested import JaggedForm, is_jagged, parts_of_jagged
from remat_planner.tracer.torch_sparse import SparseForm, is_sparse, parts_of_sparse


@dataclass(frozen=True)
class Parts:
    """Stands for a sparse or jagged tensor in a tree of arguments; pytree opens it.

    Attributes:
        form: what the tensor is besides them.
        parts: the dense tensors that it consists of, or what stands in their places.
    """

    form: SparseForm | JaggedForm
    parts: tuple[Any, ...]


pytree.register_pytree_node(
    Parts,
    lambda node: (list(node.parts), node.form),
    lambda parts, form: Parts(form, tuple(parts)),
    flatten_with_keys_fn=lambda node: (
        [(pytree.GetAttrKey(name), part) for name, part in zip(node.form.names, node.parts, strict=True)],
        node.form,
    ),
)


def arguments_apart(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with ``Parts`` in the place of each sparse or jagged tensor, for pytree to open."""
    return pytree.tree_map_only(torch.Tensor, apart, (tuple(args), dict(kwargs)), is_leaf=is_size)


def put_together(tree: Any, put: Callable[[Parts], torch.Tensor]) -> Any:
    """``tree`` with ``put(parts)`` in the place of ``parts``."""
    return pytree.tree_map(
        lambda leaf: put(leaf) if isinstance(leaf, Parts) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Parts) or is_size(leaf),
    )


def apart(tensor: torch.Tensor) -> torch.Tensor | Parts:
    """A sparse or jagged tensor as ``Parts``; any other one, and one that requires a gradient, as it is."""
    if tensor.requires_grad:
        return tensor
    if is_jagged(tensor):
        return Parts(JaggedForm.of(tensor), parts_of_jagged(tensor))
    return Parts(SparseForm.of(tensor), parts_of_sparse(tensor)) if is_sparse(tensor) else tensor
