"""Operators whose results have a size that depends on values: which arguments decide it, and how to tell it from these alone.

``x[mask]`` has as many rows as the mask has ones, whatever ``x`` is. So its size is known where the mask is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from remat_planner.tracer.operators.declared import argument_of, bound_arguments

aten = torch.ops.aten

Arguments = Mapping[str, Any]
"""The arguments of a call by their names in the schema."""
_MASKS = (torch.bool, torch.uint8)


@dataclass(frozen=True, slots=True)
class SizedResult:
    """How large the results of an operator are.

    Attributes:
        deciding: names of the tensor arguments whose values decide the sizes.
        sizes: the sizes, from real values of these; every other tensor among the arguments is None. Equal sizes mean that the
            results have equal shapes and strides.
        results: the results, from arguments without values and the sizes. It is called under a mode of fake tensors.
        derived: for each result that follows from the deciding arguments alone, by position: the result, from real values.
    """

    deciding: tuple[str, ...]
    sizes: Callable[[Arguments], Any]
    results: Callable[[Arguments, Any], Any]
    derived: Mapping[int, Callable[[Arguments], torch.Tensor]] = field(default_factory=dict)

    def decided_by(self, func: torch._ops.OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
        """The arguments of a call without the tensors that do not decide the sizes."""
        return {
            name: _masks(value) if name == "indices" else value
            for name, value in bound_arguments(func, args, kwargs).items()
            if name in self.deciding or not isinstance(value, torch.Tensor)
        }


def sized_result(func: Any, args: Any, kwargs: Any) -> SizedResult | None:
    """How large the results of a call are; None where values do not matter, or where it is not known."""
    found = _SIZED.get(func)
    if func is aten.index.Tensor and not any(map(_is_mask, argument_of(func, args, kwargs, "indices"))):
        return None
    return found


def _is_mask(index: Any) -> bool:
    return getattr(index, "dtype", None) in _MASKS


def _masks(indices: Any) -> list[Any]:
    return [index if _is_mask(index) else None for index in indices]


def _ones(mask: torch.Tensor) -> int:
    return int(torch.count_nonzero(mask))


def _selected(arguments: Arguments, ones: int) -> torch.Tensor:
    """The mask is repeated where it is broadcast."""
    tensor, mask = arguments["self"], arguments["mask"]
    shape: torch.Size = torch.broadcast_shapes(tensor.shape, mask.shape)  # type: ignore[no-untyped-call]
    repeated = shape.numel() // max(1, mask.numel())
    return torch.empty(ones * repeated, dtype=tensor.dtype, device=tensor.device)


def _indexed(arguments: Arguments, ones: tuple[int | None, ...]) -> torch.Tensor:
    """A mask stands for one index tensor for each of its dimensions."""
    indices: list[torch.Tensor | None] = []
    for index, count in zip(arguments["indices"], ones, strict=True):
        if count is None:
            indices.append(index)
        else:
            indices += [torch.empty(count, dtype=torch.int64, device=index.device) for _ in range(index.dim())]
    result: torch.Tensor = aten.index.Tensor(arguments["self"], indices)
    return result


def _nonzero(arguments: Arguments, ones: int) -> torch.Tensor:
    tensor = arguments["self"]
    return torch.empty_strided((ones, tensor.dim()), (1, ones), dtype=torch.int64, device=tensor.device)


def _repeated(arguments: Arguments, rows: int) -> torch.Tensor:
    return torch.empty(rows, dtype=arguments["repeats"].dtype, device=arguments["repeats"].device)


def _bins(arguments: Arguments) -> int:
    counted = arguments["self"]
    return max(arguments["minlength"], int(counted.max()) + 1 if counted.numel() else 0)


def _counts(arguments: Arguments, bins: int) -> torch.Tensor:
    weights, counted = arguments["weights"], arguments["self"]
    kind = torch.int64 if weights is None else torch.float32 if weights.dtype == torch.float32 else torch.float64
    return torch.empty(bins, dtype=kind, device=counted.device)


def _forms(func: torch._ops.OpOverload, arguments: Arguments) -> tuple[Any, ...]:
    """Shape and strides of each result, found by running the operator."""
    return tuple((tuple(result.shape), result.stride()) for result in func(**arguments))


def _unique(arguments: Arguments, forms: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """The distinct elements, then where they are and how often."""
    tensor = arguments["self"]
    kinds = (tensor.dtype, torch.int64, torch.int64)
    return tuple(torch.empty_strided(*form, dtype=kind, device=tensor.device) for form, kind in zip(forms, kinds, strict=False))


def _runs_of(func: torch._ops.OpOverload) -> SizedResult:
    return SizedResult(("self",), partial(_forms, func), _unique)


def _longest_target(arguments: Arguments) -> int:
    lengths = arguments["target_lengths"]
    return int(lengths.max()) if isinstance(lengths, torch.Tensor) else max(lengths)


def _alignments(arguments: Arguments, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss for each sample, and the log-likelihoods of all prefixes: each target with a blank around each label."""
    steps, batch, _ = arguments["log_probs"].shape
    new = arguments["log_probs"].new_empty
    return new(batch), new(batch, steps, 2 * longest + 1)


_LABELLED = SizedResult(("target_lengths",), _longest_target, _alignments)


def _packed_rows(arguments: Arguments) -> tuple[int, int]:
    """The sum of all lengths and the longest: numbers of rows, and of steps."""
    lengths = arguments["lengths"]
    return int(lengths.sum()), int(lengths.max())


def _packed(arguments: Arguments, sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows, steps = sizes
    padded = arguments["input"]
    return padded.new_empty(rows, *padded.shape[2:]), torch.empty(steps, dtype=torch.int64, device="cpu")


def _batch_sizes(arguments: Arguments) -> torch.Tensor:
    """How many sequences are longer than each step."""
    lengths = arguments["lengths"]
    return (lengths > torch.arange(int(lengths.max()))[:, None]).sum(1)


_SIZED: dict[Any, SizedResult] = {
    aten.nonzero.default: SizedResult(("self",), lambda a: _ones(a["self"]), _nonzero),
    aten.masked_select.default: SizedResult(("mask",), lambda a: _ones(a["mask"]), _selected),
    aten.index.Tensor: SizedResult(
        ("indices",), lambda a: tuple(None if mask is None else _ones(mask) for mask in a["indices"]), _indexed
    ),
    aten.repeat_interleave.Tensor: SizedResult(("repeats",), lambda a: int(a["repeats"].sum()), _repeated),
    aten.bincount.default: SizedResult(("self",), _bins, _counts),
    aten._unique.default: _runs_of(aten._unique.default),
    aten._unique2.default: _runs_of(aten._unique2.default),
    aten.unique_dim.default: _runs_of(aten.unique_dim.default),
    aten.unique_consecutive.default: _runs_of(aten.unique_consecutive.default),
    aten._ctc_loss.default: _LABELLED,
    aten._ctc_loss.Tensor: _LABELLED,
    aten._pack_padded_sequence.default: SizedResult(("lengths",), _packed_rows, _packed, {1: _batch_sizes}),
}
