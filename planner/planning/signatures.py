"""Signatures: the form of a model's tensors, the modes of its modules and the form of inputs, as text in an ``Origin``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import arguments_apart, flatten_inputs, is_size
from remat_planner.tracer.python_state import Step
from remat_planner.tracer.torch_sparse import is_sparse


def state_signature(model: nn.Module) -> dict[str, str]:
    """The form of each parameter and buffer by its full name; " frozen" follows that of a parameter without a gradient."""
    forms = {
        name: form_of(p) + ("" if p.requires_grad else " frozen") for name, p in model.named_parameters(remove_duplicate=False)
    }
    return forms | {name: form_of(b) for name, b in model.named_buffers(remove_duplicate=False)}


def mode_signature(model: nn.Module) -> dict[str, str]:
    """The mode of each module that differs from its parent's, by its full name; the parent of the model itself, "", trains."""
    modes: dict[str, str] = {}
    parent_mode = {id(model): True}
    for name, module in model.named_modules():
        if module.training != parent_mode[id(module)]:
            modes[name] = "training" if module.training else "evaluation"
        parent_mode |= {id(child): module.training for child in module.children()}
    return modes


def input_signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The form of each input by its place: "[0]" for the first positional one, "['labels']" for a named one.

    A sparse tensor has a form for each dense tensor that it consists of, "[1].indices" and "[1].values".
    Leaves of pytree containers that name no entries are numbered, "#0", "#1". Tensors inside objects follow, "[0].x".
    """
    leaves, tree = flatten_inputs(args, kwargs)
    inputs = arguments_apart(args, kwargs)
    try:
        places = [pytree.keystr(path[1:]) for path, _ in pytree.tree_flatten_with_path(inputs, is_leaf=is_size)[0]]
    except ValueError:
        places = [f"#{k}" for k in range(tree.spec.num_leaves)]
    places += [places[way.leaf] + "".join(map(_step, way.steps)) + name for way in tree.inside for name in way.names]
    return {place: _form_of_leaf(leaf) for place, leaf in zip(places, leaves, strict=True)}


def _step(step: Step) -> str:
    kind, key = step
    return f"[{key!r}]" if kind == "item" else f".{key}"


def _form_of_leaf(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return form_of(leaf)
    if leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes | torch.dtype | torch.device | torch.Size):
        return repr(leaf)
    return type(leaf).__qualname__  # the repr of an arbitrary object may name its address


def form_of(tensor: torch.Tensor) -> str:
    """Dtype and shape of a tensor, as in "float32[4, 8]"; of a sparse one, its layout and number of entries too."""
    form = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    if not is_sparse(tensor):
        return form
    return f"{form} {str(tensor.layout).removeprefix('torch.')} of {tensor._nnz()} entries"
