"""PyTorch's own samples of its modules (``module_db``), in training and in evaluation mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from benchmarks.sweep.cases import Built, Case, NotTrainableError, scalar_loss

PART = "module_db"


class OneModule(nn.Module):
    """Calls one module on its inputs, the floating point ones scaled by a parameter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        args, kwargs = pytree.tree_map(self._scaled, (args, kwargs))
        results = [leaf for leaf in pytree.tree_leaves(self.inner(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        return {"loss": scalar_loss(results), "results": results}

    def _scaled(self, leaf: Any) -> Any:
        scaled = isinstance(leaf, torch.Tensor) and leaf.requires_grad
        return leaf * self.scale.to(leaf.dtype) if scaled else leaf


def cases(samples: int) -> Iterator[Case]:
    """Up to ``samples`` cases for each module and mode."""
    for number, info in enumerate(module_db):
        for training in (True, False):
            for k in range(samples):
                mode = "train" if training else "eval"
                yield Case(PART, f"{info.name} {mode} #{k}", partial(_build, number, training, k, samples))


def _build(number: int, training: bool, k: int, of: int) -> Built:
    info = module_db[number]
    torch.manual_seed(0)
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
    chosen = sorted({round(i * (len(inputs) - 1) / max(1, of - 1)) for i in range(of)}) if inputs else []
    if k >= len(chosen):
        raise NotTrainableError("there are fewer samples")
    sample = inputs[chosen[k]]
    if sample.forward_input is None:
        raise NotTrainableError("the sample has no input")
    inner = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).train(training)
    args, kwargs = copy.deepcopy(
        pytree.tree_map_only(
            torch.Tensor,
            lambda t: t.detach().requires_grad_(t.requires_grad),
            (tuple(sample.forward_input.args), dict(sample.forward_input.kwargs)),
        )
    )
    return Built(OneModule(inner).train(training), args, kwargs)
