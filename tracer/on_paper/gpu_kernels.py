"""Attention and dropout as a GPU would run them, for a capture without one.

A CPU has no fused attention with dropout, with a learned mask, or with values of another width than the keys: PyTorch then
materializes the probabilities, which a GPU does not. Such a call becomes flash or memory-efficient attention, by the rules of
ATen/native/transformers/cuda/sdp_utils.cpp. cuDNN's kernel, which Hopper GPUs prefer, retains the same activations as flash
attention and costs the same on paper. Dropout retains a mask of one byte per element on a GPU, and one of the elements' dtype
on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from remat_planner.tracer.torch_higher_order import flex_attention_as_on_gpu
from remat_planner.tracer.torch_kernels import composites_replaced

aten = torch.ops.aten
_LARGEST_FLASH_WIDTH = 256
"""Elements in a head of flash attention, at most."""
_FLASH_MULTIPLE = 8
"""Flash attention pads the width of a head to a multiple of this many elements."""
_BIAS_MULTIPLE = 16
"""In memory-efficient attention, rows of the mask begin at multiples of this many elements."""


@contextmanager
def fused_kernels() -> Iterator[None]:
    """Inside, dropout and attention on fakes are one fused kernel each where a GPU has one and a CPU has none.

    ``flex_attention`` is one operator for its forward and one for its backward anyway; here it trains on the CPU too.
    """
    kernels: dict[torch._ops.OpOverload, Callable[..., Any]] = {
        aten.scaled_dot_product_attention.default: _attention,
        aten.dropout.default: _dropout,
    }
    with composites_replaced(kernels), flex_attention_as_on_gpu():
        yield


def _dropout(values: torch.Tensor, probability: float, training: bool) -> torch.Tensor | None:
    if not training or not 0 < probability < 1 or not values.numel():
        return None
    return aten.native_dropout(values, probability, training)[0]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor | None:
    """Attention by a GPU's kernel; None where a CPU has a fused kernel too, or a GPU has none."""
    learned = attn_mask is not None and attn_mask.requires_grad
    if not (dropout_p > 0 or learned or query.shape[-1] != value.shape[-1]):
        return None
    if query.dim() != 4 or query.dtype not in (torch.float16, torch.bfloat16, torch.float32) or 0 in query.shape:
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    flash = query.dtype != torch.float32 and query.shape[-1] == value.shape[-1] <= _LARGEST_FLASH_WIDTH and attn_mask is None
    if flash and torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if not torch.backends.cuda.mem_efficient_sdp_enabled():  # type: ignore[no-untyped-call]
        return None
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    needs_gradient = any(t.requires_grad for t in (query, key, value)) or learned
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needs_gradient, dropout_p, is_causal, scale=scale
    )[0]


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, causal: bool, scale: float
) -> torch.Tensor:
    width = query.shape[-1]
    missing = -width % _FLASH_MULTIPLE
    if missing:
        query, key, value = (F.pad(t, (0, missing)) for t in (query, key, value))
    return aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, scale=scale)[0][..., :width]


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``mask`` as numbers to add to the scores, expanded to their shape; minus infinity masks a score out."""
    if mask.dtype == torch.bool:
        mask = torch.zeros((), dtype=query.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    columns = mask.shape[-1]
    if missing := -columns % _BIAS_MULTIPLE:
        mask = F.pad(mask, (0, missing))[..., :columns]
    return mask.expand(*query.shape[:-1], key.shape[-2])
