"""Running the forward of a model once to see its regions called, and capturing each on what it is called with.

The model's own code decides what is called and with what, so it has to run: on real tensors, in the mode in which it trains. A
region's output is cut off from its history at once, so that this takes no more memory than one region does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import is_sharded, parallel_wrapper
from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import detached, restored, run_backward
from remat_planner.planner.planning import BoundSignature, input_signature, state_signature
from remat_planner.planner.regions.forward import give_back_forward, without_hooks
from remat_planner.planner.regions.parameter_reads import ReadsOutside
from remat_planner.planner.torch_private import direct_apply
from remat_planner.tracer import CaptureError, Joint, capture
from remat_planner.tracer.errors import InputsDoNotFitError
from remat_planner.tracer.joint import flatten, tensors_inside
from remat_planner.tracer.record import ambient_autocast, every_output
from remat_planner.tracer.refusals import refuse_compiled_around


@dataclass(frozen=True)
class Region:
    """A block as the step calls it.

    Attributes:
        name: full name of its module.
        block: the module.
        joint: its captured step; ``joint.model`` is the block without its hooks.
        parameters, inputs: the signatures of the captured call.
        calls: how many times the step calls it.
    """

    name: str
    block: nn.Module
    joint: Joint
    parameters: Mapping[str, str]
    inputs: Mapping[str, str]
    calls: int


@dataclass(frozen=True)
class Discovery:
    """The regions in the order in which they are first called; what could not be captured; what was not called in training; the
    ids of the parameters of blocks that something outside of them reads.
    """

    regions: tuple[Region, ...]
    refused: Mapping[str, CaptureError]
    not_called: tuple[str, ...]
    read_outside: frozenset[int]


def discover(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    blocks: Mapping[str, nn.Module],
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Discovery:
    """Run the forward, and ``loss`` on its output where there is one, and capture ``blocks``. The model is left as it was.

    Raises:
        RegionError: a block is called with inputs of several forms.
        tracer.CaptureError: a block lies in a compiled module, or has one in it.
    """
    for name in blocks:
        refuse_compiled_around(model, name)
    watches = {name: _Watch(name, block) for name, block in blocks.items()}
    args, kwargs = detached(tuple(args), dict(kwargs))
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    order: list[str] = []
    wrapper = parallel_wrapper(model)
    sharded = any(map(is_sharded, model.parameters()))
    reads = ReadsOutside(parameter for block in blocks.values() for parameter in block.parameters())
    with ExitStack() as stack:
        stack.enter_context(restored(model, inputs))
        if wrapper is not None:
            stack.enter_context(wrapper.no_sync())  # it would wait for the gradients of this forward
        for watch in watches.values():
            stack.enter_context(_in_place_of_forward(watch, order, reads))
        with reads:
            output = model(*args, **kwargs)
            if loss is not None:
                loss(output)
        if sharded:
            run_backward(output, None)  # only a backward makes ``fully_shard`` free what it gathered, and forget in which order
    found = [watches[name] for name in dict.fromkeys(order)]
    return Discovery(
        regions=tuple(watch.region() for watch in found if watch.joint is not None),
        refused={watch.name: watch.refused for watch in found if watch.refused is not None},
        not_called=tuple(name for name in blocks if name not in order),
        read_outside=frozenset(reads.found),
    )


class _Watch:
    def __init__(self, name: str, block: nn.Module) -> None:
        self.name = name
        self.block = block
        self.bare = without_hooks(block)
        self.joint: Joint | None = None
        self.refused: CaptureError | None = None
        self.signatures: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})
        self.calls = 0

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls += 1
        if self.joint is None and self.refused is None:
            self.signatures = state_signature(self.bare), input_signature(args, kwargs)
            try:
                self.joint = _captured(self.bare, args, kwargs)
            except CaptureError as error:
                self.refused = error
        elif self.joint is not None:
            self._refuse_another_form(args, kwargs)
        output = self.bare(*args, **kwargs)
        if self.joint is None:
            return output
        leaves, spec = flatten(output)
        cut = [k for k, leaf in enumerate(self.joint.outputs) if leaf.differentiable]
        for k, tensor in zip(cut, _cut(torch.empty(0, requires_grad=True), *(leaves[k] for k in cut)), strict=True):
            leaves[k] = tensor
        return spec.unflatten(leaves)

    def _refuse_another_form(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self.joint is not None
        signature = BoundSignature(self.joint, self.bare)
        inputs = signature.inputs(*pytree.tree_flatten((args, kwargs)))
        state = signature.state()
        if inputs is None or state is None or not signature.holds(state, inputs, ambient_autocast()):
            raise RegionError(
                f"the step calls region {self.name!r} several times with inputs of different forms, or of which "
                "only some need a gradient (now "
                f"{dict(input_signature(args, kwargs))}, first {dict(self.signatures[1])}): one schedule serves all calls. "
                "Leave it out, or plan the modules inside of it",
                names=(self.name,),
            )

    def region(self) -> Region:
        assert self.joint is not None
        return Region(self.name, self.block, self.joint, *self.signatures, calls=self.calls)


def _captured(bare: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Joint:
    """The step of a region on these inputs; what else is passed to it (a cache, a configuration) is left as it was.

    Raises:
        CaptureError: it cannot be captured, or it hands tensors on in an object that it is given.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    copies = [leaf if isinstance(leaf, torch.Tensor) or tensors_inside(leaf) else copy.deepcopy(leaf) for leaf in leaves]
    copied_args, copied_kwargs = pytree.tree_unflatten(copies, spec)
    joint = capture(bare, copied_args, copied_kwargs, loss=every_output)
    for leaf in copies:
        if not isinstance(leaf, torch.Tensor) and tensors_inside(leaf):
            raise InputsDoNotFitError(
                f"the forward puts tensors into an argument, a {type(leaf).__name__}, which a captured step cannot do. Call "
                "the model without it (a key-value cache: use_cache=False)",
                source="",
            )
    return replace(joint, constant_leaves=tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves))


class _Cut(torch.autograd.Function):
    """The same tensors with an empty history, as results that may be changed in place."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG004
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return None, *(None for _ in gradients)


_cut = direct_apply(_Cut)


@contextmanager
def _in_place_of_forward(watch: _Watch, order: list[str], reads: ReadsOutside) -> Iterator[None]:
    block, own = watch.block, watch.block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return own(*args, **kwargs)
        order.append(watch.name)
        with reads.inside():
            return watch.called(args, kwargs)

    block.forward = forward
    try:
        yield
    finally:
        give_back_forward(block, own)
