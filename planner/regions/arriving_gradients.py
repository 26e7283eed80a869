"""Notes how gradients lie in memory when they arrive at the outputs of regions.

Eager's backward gets a gradient with the strides that the next operator gave it: a transposed one from
``output.transpose(1, 2)``, a part of a larger tensor from ``torch.cat``. The order in which kernels sum depends on strides. So
the regions are captured with the layouts that a real step shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from remat_planner.planner.regions.capture import GradientLayout, GradientLayouts
from remat_planner.tracer.joint import dense_strides, flatten


class ArrivingGradients:
    """The layouts of the gradients at the outputs of regions, over all calls in the steps that were watched."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, set[GradientLayout | None]]] = {}

    def watch(self, region: str, output: Any) -> None:
        """Note the gradients that will arrive at the tensors in ``output``, which a call of ``region`` has returned."""
        hooked: set[int] = set()
        for leaf, tensor in enumerate(flatten(output)[0]):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and id(tensor) not in hooked:
                hooked.add(id(tensor))  # a tensor in several places of the output gets one gradient, at the first of them
                own = dense_strides(tensor)
                tensor.register_hook(partial(self._note, region, leaf, own))  # type: ignore[no-untyped-call]

    def layouts(self) -> Mapping[str, GradientLayouts]:
        """By region, the layouts that all its calls agree on, where they are not those of the outputs."""
        agreed: dict[str, dict[int, GradientLayout]] = {}
        for region, leaves in self._seen.items():
            for leaf, (layout, *others) in leaves.items():
                if layout is not None and not others:
                    agreed.setdefault(region, {})[leaf] = layout
        return agreed

    def _note(self, region: str, leaf: int, own: tuple[int, ...], gradient: torch.Tensor | None) -> None:
        if gradient is None:  # an operator reads the output and gives it no gradient
            return
        layout = None if gradient.stride() == own else (tuple(gradient.shape), gradient.stride())
        self._seen.setdefault(region, {}).setdefault(leaf, set()).add(layout)
