"""Runs the forward of a model once, to see which blocks it calls with which inputs, and captures each block there.

The model's own code decides what it calls, so it runs on real tensors, in the mode in which it trains. The output of a captured
block is cut off from its history at once. So the run takes no more memory than one block does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import is_sharded, parallel_wrapper
from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import KeptState, Loss, detached, run_backward, state_restored
from remat_planner.planner.planning import BoundSignature, input_signature, state_signature
from remat_planner.planner.regions.capture import CapturedRegion, GradientLayouts, capture_region, region_label
from remat_planner.planner.regions.forward import restore_forward, without_hooks
from remat_planner.planner.regions.parameter_reads import ReadsOutside
from remat_planner.planner.torch_private import direct_apply
from remat_planner.tracer import CaptureError, Joint
from remat_planner.tracer.joint import flatten, flatten_inputs
from remat_planner.tracer.record import ambient_autocast, loss_of_step
from remat_planner.tracer.refusals import refuse_compiled_around

_MOST_FORMS = 8
"""Forms of input of one block; each is captured and solved for itself."""


@dataclass(frozen=True)
class Discovery:
    """What one forward shows about the blocks of a model.

    Attributes:
        regions: the captured blocks, in the order of their first calls; a block that is called with several forms of input
            comes once for each.
        refused: why a block cannot be planned, by its name.
        not_called: names of the blocks that the step does not call with gradients enabled.
        read_outside: ids of the parameters of blocks that code outside all blocks reads.
        sizes_from_values: whether the step makes sizes of values, so that they may change from step to step.
    """

    regions: tuple[CapturedRegion, ...]
    refused: Mapping[str, CaptureError | RegionError]
    not_called: tuple[str, ...]
    read_outside: frozenset[int]
    sizes_from_values: bool = False


def discover(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    blocks: Mapping[str, nn.Module],
    loss: Loss | None = None,
    gradient_layouts: Mapping[str, GradientLayouts] | None = None,
    kept: KeptState | None = None,
) -> Discovery:
    """Run the forward, and ``loss`` on its output if there is one, and capture ``blocks``. The model is left as it was.

    Args:
        model: the model.
        args: positional inputs of its forward.
        kwargs: named inputs of its forward.
        blocks: the modules to capture, by name.
        loss: output -> scalar.
        gradient_layouts: how gradients arrive at a region's outputs, by its label; by default as the outputs lie.
        kept: the caller's state, which then includes the globals that the forward can reach.
    """
    refused = _compiled(model, blocks)
    layouts = gradient_layouts or {}
    watches = {name: _Watch(name, block, layouts) for name, block in blocks.items() if name not in refused}
    if not watches:
        return Discovery((), refused, (), frozenset())
    args, kwargs = detached(tuple(args), dict(kwargs))
    of_output = loss_of_step(loss, args, kwargs)
    called: list[str] = []
    wrapper = parallel_wrapper(model)
    sharded = any(map(is_sharded, model.parameters()))
    reads = ReadsOutside(parameter for block in blocks.values() for parameter in block.parameters())
    with ExitStack() as stack:
        state = stack.enter_context(state_restored(model, args, kwargs, others=() if loss is None else (loss,)))
        if wrapper is not None:
            stack.enter_context(wrapper.no_sync())  # it would wait for the gradients of this forward
        for watch in watches.values():
            stack.enter_context(_in_place_of_forward(watch, called, reads))
        with state.observed(), reads:
            output = model(*args, **kwargs)
            if of_output is not None:
                of_output(output)
        if sharded:
            run_backward(output, None)  # only a backward makes ``fully_shard`` free what it gathered, and forget in which order
    if kept is not None:
        kept.include(state)
    in_order = [watches[name] for name in dict.fromkeys(called)]
    return Discovery(
        regions=tuple(region for watch in in_order for region in watch.regions),
        refused={**refused, **{watch.name: watch.refused for watch in in_order if watch.refused is not None}},
        not_called=tuple(name for name in watches if name not in called),
        read_outside=frozenset(reads.ids),
        sizes_from_values=reads.sizes_from_values,
    )


def _compiled(model: nn.Module, blocks: Mapping[str, nn.Module]) -> dict[str, CaptureError | RegionError]:
    """The refusals of the blocks that lie in a compiled module, or have one inside."""
    refused: dict[str, CaptureError | RegionError] = {}
    for name in blocks:
        try:
            refuse_compiled_around(model, name)
        except CaptureError as error:
            refused[name] = error
    return refused


class _Watch:
    """Captures a block at its first call with each form of input.

    Attributes:
        regions: the block with each form of its calls so far; empty where it cannot be captured.
        refused: why it cannot.
    """

    def __init__(self, name: str, block: nn.Module, gradient_layouts: Mapping[str, GradientLayouts]) -> None:
        self.name = name
        self.block = block
        self.regions: list[CapturedRegion] = []
        self.refused: CaptureError | RegionError | None = None
        self._bare = without_hooks(block)
        self._gradient_layouts = gradient_layouts

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the block on these inputs, cut off from its history if the block is captured."""
        unforeseen: Exception | None = None
        region: CapturedRegion | None = None
        if self.refused is None:
            try:
                region = self._region(args, kwargs)
            except (CaptureError, RegionError) as error:
                self.refused = error
            except Exception as error:
                unforeseen = error
        output = self._bare(*args, **kwargs)
        if unforeseen is not None:
            self.refused = self._border_error((args, kwargs, output), unforeseen)
        if region is None:
            self.regions.clear()
            return output
        return _without_history(output, region.joint)

    def _region(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CapturedRegion:
        """The block with this form of input, captured now or before.

        Raises:
            CaptureError: it cannot be captured.
            RegionError: there are too many forms.
        """
        for number, region in enumerate(self.regions):
            if self._fits(region.joint, args, kwargs):
                self.regions[number] = replace(region, calls=region.calls + 1)
                return self.regions[number]
        form = len(self.regions)
        if form == _MOST_FORMS:
            raise RegionError(
                f"the step calls it with inputs of more than {_MOST_FORMS} forms (shapes, dtypes, which require a gradient "
                f"or are one tensor; first {dict(self.regions[0].inputs)}, now {dict(input_signature(args, kwargs))}). "
                "Leave it out, or plan the modules inside it",
                names=(self.name,),
            )
        layouts = self._gradient_layouts.get(region_label(self.name, form), {})
        signatures = state_signature(self._bare), input_signature(args, kwargs)
        joint = capture_region(self._bare, args, kwargs, layouts)
        self.regions.append(CapturedRegion(self.name, form, self.block, joint, *signatures, calls=1, gradient_layouts=layouts))
        return self.regions[-1]

    def _border_error(self, border: Any, error: Exception) -> RegionError:
        """The refusal of a block that takes or returns tensors without strides, of which a capture knows little.

        Raises:
            Exception: ``error``, where there are none.
        """
        tensors = [leaf for leaf in pytree.tree_leaves(border) if isinstance(leaf, torch.Tensor)]
        kinds = dict.fromkeys("nested" if t.is_nested else _layout(t) for t in tensors)
        odd = [kind for kind in kinds if kind != "strided"]
        if not odd:
            raise error
        return RegionError(
            f"it takes or returns a tensor that is {' or '.join(odd)}, and cannot be captured so ({type(error).__name__}). "
            "Leave it out, or plan the modules inside it",
            names=(self.name,),
        )

    def _fits(self, joint: Joint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        signature = BoundSignature(joint, self._bare)
        inputs, state = signature.inputs(*flatten_inputs(args, kwargs)), signature.state()
        if inputs is None or state is None:
            return False
        return signature.accepted(state, inputs, ambient_autocast(), joint.switches) is not None


def _without_history(output: Any, joint: Joint) -> Any:
    leaves, spec = flatten(output)
    cut = [k for k, leaf in enumerate(joint.outputs[: len(leaves)]) if leaf.differentiable]
    for k, tensor in zip(cut, _cut(torch.empty(0, requires_grad=True), *(leaves[k] for k in cut)), strict=True):
        leaves[k] = tensor
    return spec.unflatten(leaves)


class _Cut(torch.autograd.Function):
    """Returns the same tensors with an empty history, as results that may be changed in place."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG004
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return None, *(None for _ in gradients)


_cut: Callable[..., tuple[torch.Tensor, ...]] = direct_apply(_Cut)


@contextmanager
def _in_place_of_forward(watch: _Watch, called: list[str], reads: ReadsOutside) -> Iterator[None]:
    block, own_forward = watch.block, watch.block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return own_forward(*args, **kwargs)
        called.append(watch.name)
        with reads.inside():
            return watch.call(args, kwargs)

    block.forward = forward
    try:
        yield
    finally:
        restore_forward(block, own_forward)


def _layout(tensor: torch.Tensor) -> str:
    return str(tensor.layout).removeprefix("torch.")
