"""A policy for PyTorch's selective checkpointing. The export contains the source of this file, so it needs only PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


class SavedCalls:
    """Saves some calls in one run of one region, by operator and place among its calls there; all others are recomputed.

    PyTorch asks at every operator of the forward and, in some releases, at every recomputed one too, so the two are counted
    separately.
    """

    def __init__(self, saved: Mapping[str, Collection[int]]) -> None:
        self.saved = saved
        self.calls: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}

    def __call__(self, context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        name = str(operator)
        calls = self.calls[context.is_recompute]
        place = calls[name]
        calls[name] += 1
        return CheckpointPolicy.MUST_SAVE if place in self.saved.get(name, ()) else CheckpointPolicy.PREFER_RECOMPUTE


def contexts(saved: Mapping[str, Collection[int]]) -> Any:
    """The two contexts for ``checkpoint(..., context_fn=functools.partial(contexts, saved))``."""
    return create_selective_checkpoint_contexts(SavedCalls(saved))  # type: ignore[no-untyped-call]


def wrap_regions(model: nn.Module, regions: Mapping[str, Mapping[str, Collection[int]]]) -> None:
    """Checkpoint the forwards of these modules, in place, each by its own policy."""
    for name, saved in regions.items():
        module = model.get_submodule(name)
        module.forward = partial(checkpoint, module.forward, use_reentrant=False, context_fn=partial(contexts, saved))
