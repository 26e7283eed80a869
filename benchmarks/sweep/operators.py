"""PyTorch's own samples of its operators (``op_db``): every operator that has a gradient, out of place and in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from benchmarks.sweep.cases import Built, Case, NotTrainableError, scalar_loss

PART = "op_db"
DTYPES = (torch.float32, torch.complex64, torch.bfloat16)
# Operators that draw are called with a fixed seed there, and a forward that seeds is refused. The sweep seeds each step itself.
common_methods_invocations.wrapper_set_seed = lambda operator, *args, **kwargs: operator(*args, **kwargs)
_MOST_ELEMENTS = 100_000  # of the tensors of a sample: the sweep is about formulas, not about speed


class OneOperator(nn.Module):
    """Calls one operator on copies of its parameters; what has no gradient is an input."""

    def __init__(self, call: Any, sample: Any, *, in_place: bool, sign: float) -> None:
        super().__init__()
        self._call, self._process, self._in_place, self._sign = call, sample.output_process_fn_grad, in_place, sign
        leaves, self._spec = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        self.learned = nn.ParameterList()
        self.inputs: list[torch.Tensor] = []
        self._places: list[tuple[str, Any]] = []
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor):
                self._places.append(("constant", leaf))
            elif leaf.requires_grad:
                self._places.append(("learned", len(self.learned)))
                self.learned.append(nn.Parameter(copy.deepcopy(leaf.detach())))
            else:
                self._places.append(("input", len(self.inputs)))
                self.inputs.append(copy.deepcopy(leaf))

    def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
        kinds = {
            "constant": lambda constant: constant,
            "learned": lambda place: self.learned[place].clone(),
            "input": lambda place: inputs[place],
        }
        first, args, kwargs = pytree.tree_unflatten([kinds[kind](value) for kind, value in self._places], self._spec)
        result = self._process(self._call(first, *args, **kwargs))
        results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return {"loss": scalar_loss(results, self._sign), "results": results}


def cases(samples: int) -> Iterator[Case]:
    """Up to ``samples`` cases for each operator, variant and dtype."""
    for number, info in enumerate(op_db):
        if not info.supports_autograd:
            continue
        for dtype in DTYPES:
            if dtype not in info.supported_backward_dtypes("cpu"):
                continue
            for in_place in (False, True):
                if in_place and (info.get_inplace() is None or not info.supports_inplace_autograd):
                    continue
                for k in range(samples):
                    variant = " in place" if in_place else ""
                    name = f"{info.formatted_name} {str(dtype).removeprefix('torch.')}{variant} #{k}"
                    yield Case(PART, name, partial(_build, number, dtype, in_place, k, samples))


def _build(number: int, dtype: torch.dtype, in_place: bool, k: int, of: int) -> Built:
    info = op_db[number]
    samples = _samples(number, dtype)
    chosen = sorted({round(i * (len(samples) - 1) / max(1, of - 1)) for i in range(of)}) if samples else []
    if k >= len(chosen):
        raise NotTrainableError("there are fewer samples")
    sample = samples[chosen[k]]
    if in_place and getattr(sample, "broadcasts_input", False):
        raise NotTrainableError("in place, an operator cannot broadcast its input")
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(t.layout is torch.strided and t.numel() > _MOST_ELEMENTS for t in tensors):
        raise NotTrainableError("the sample is large")
    if not any(t.requires_grad for t in tensors):
        raise NotTrainableError("nothing in the sample has a gradient")
    model = OneOperator(info.get_inplace() if in_place else info.op, sample, in_place=in_place, sign=-1.0 if k % 2 else 1.0)
    return Built(model, tuple(model.inputs), pokes=True)


@lru_cache(maxsize=1)
def _samples(number: int, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    return list(op_db[number].sample_inputs("cpu", dtype, requires_grad=True))
