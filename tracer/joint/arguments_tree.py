"""Arguments of a call as flat lists of leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def flatten_tree(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """``pytree.tree_flatten``, with each ``torch.Size`` as one leaf: pytree would put a tuple in its place."""
    return pytree.tree_flatten(tree, is_leaf=is_size)


def is_size(leaf: Any) -> bool:
    """Whether a part of a tree is a ``torch.Size``."""
    return type(leaf) is torch.Size
