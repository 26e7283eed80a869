"""What stands beside plans in ``benchmarks.gpu``: checkpointing as it is set by hand, torch.compile, fewer layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers: the modules of its lists that lie in no other list, those of lists of one apart."""
    return [layer for layers in _lists_of(model) for layer in layers]


def _lists_of(model: nn.Module) -> list[nn.ModuleList]:
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return [m for name, m in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]


class Shortened:
    """``model`` with only the first ``count`` of its one list of layers while it is called."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.model, self.count = model, count

    def __call__(self, **inputs: Any) -> Any:
        (layers,) = _lists_of(self.model)
        every = layers._modules  # the same object again afterwards: a plan for the model takes another for a change of it
        layers._modules = dict(list(every.items())[: self.count])
        try:
            return self.model(**inputs)
        finally:
            layers._modules = every


def from_fewer_layers(seconds: Sequence[float], counts: Sequence[int], layers: int) -> float:
    """Seconds of a step of ``layers`` layers, from those of two steps with ``counts`` of them: every layer takes as long."""
    (few, more), (fewer, larger) = counts, seconds
    return larger + (larger - fewer) * (layers - more) / (more - few)


class Checkpointed:
    """``model`` with each of its layers checkpointed: their forwards are wrapped while it is called."""

    def __init__(self, model: nn.Module, context: Callable[[], Any] | None = None) -> None:
        self.model, self.context = model, context

    def __call__(self, **inputs: Any) -> Any:
        layers = layers_of(self.model)
        options: dict[str, Any] = {} if self.context is None else {"context_fn": self.context}
        for layer in layers:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, **options)  # type: ignore[method-assign]
        try:
            return self.model(**inputs)
        finally:
            for layer in layers:
                del layer.forward


class CheckpointedByEights:
    """``model`` with every eight neighbours of its one list of layers in one checkpoint, where a layer takes what the one
    before it gives: the first of the eight runs them all, the others pass on what they get.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        layers = layers_of(self.model)
        for first in range(0, len(layers), 8):
            group = layers[first : first + 8]
            run = functools.partial(_one_after_the_other, [layer.forward for layer in group])
            group[0].forward = functools.partial(checkpoint, run, use_reentrant=False)  # type: ignore[method-assign]
            for layer in group[1:]:
                layer.forward = _passed_on  # type: ignore[method-assign]
        try:
            return self.model(**inputs)
        finally:
            for layer in layers:
                del layer.forward


def _one_after_the_other(forwards: list[Callable[..., Any]], hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    for forward in forwards:
        hidden = forward(hidden, *args, **kwargs)
    return hidden


def _passed_on(hidden: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
    return hidden


def every_second_product() -> Any:
    """torchtitan's selective checkpointing: attention and every second matrix product are kept, and of convolutions alike."""
    aten = torch.ops.aten
    kept = {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
    products = {False: 0, True: 0}

    def policy(context: Any, target: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        if target in (aten.mm.default, aten.addmm.default, aten.convolution.default):
            products[context.is_recompute] += 1
            save = products[context.is_recompute] % 2 == 1
        else:
            save = target in kept
        return CheckpointPolicy.MUST_SAVE if save else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def compiled(model: nn.Module, budget: float, backend: str = "inductor") -> Callable[..., Any]:
    """torch.compile with its own budget, a share of what it would save."""
    import torch._functorch.config as config

    torch._dynamo.reset()
    run = torch.compile(model, backend=backend)

    def call(**inputs: Any) -> Any:
        with config.patch(activation_memory_budget=budget):
            return run(**inputs)

    return call
