"""The private names of PyTorch that the tracer uses, in one place: when a release moves one, mend it here.

``tests/tracer/test_torch_private.py`` tries each by itself and says which one broke.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, Literal

import torch
import torch.cuda.amp.common
import torch.utils.checkpoint
from torch import _meta_registrations, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.amp import autocast_mode
from torch.types import py_sym_types
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "READS_OF_FAKES",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "TorchDispatchMode",
    "accepting_real_tensors",
    "autocast_asks_for_gpu",
    "backward_sequence_number",
    "compiled_by",
    "errors_not_logged",
    "fake_in_use",
    "fake_mode_of",
    "fakes_by_example",
    "forget_originals",
    "form_check",
    "forward_sequence_number",
    "generator_key",
    "grouped_products_of_any_dtype",
    "hashable",
    "in_checkpoint",
    "in_checkpoint_replaying_draws",
    "is_fake",
    "is_symbolic",
    "lacks_fake",
    "modes_active",
    "negated",
    "new_fake_mode",
    "number_of",
    "same_sizes",
    "sequence_number",
    "single_threaded_backward",
    "storage_key",
    "to_fake",
    "truncated_normals_not_drawn",
    "without_addresses",
    "without_modes",
]

# Messages of fake tensors whose values are read without the dispatcher.
READS_OF_FAKES = (
    "numpy() is not supported for tensor subclasses",
    "Not available for 'meta' device type",
    "its data is not allocated yet",
)
_CHECKPOINT = torch.utils.checkpoint.__file__


def new_fake_mode() -> FakeTensorMode:
    """A mode in which operators run on shapes alone; real tensors among their arguments count as constants."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_mode_of(tensors: Iterable[torch.Tensor]) -> FakeTensorMode | None:
    """The mode of the fakes among ``tensors``, or None where all are real."""
    return next((t.fake_mode for t in tensors if isinstance(t, FakeTensor)), None)


@contextmanager
def accepting_real_tensors(mode: FakeTensorMode) -> Iterator[None]:
    """Let a fake mode that the caller made accept the real tensors of the model's code."""
    before = mode.allow_non_fake_inputs
    mode.allow_non_fake_inputs = True
    try:
        yield
    finally:
        mode.allow_non_fake_inputs = before


@contextmanager
def without_addresses(mode: FakeTensorMode) -> Iterator[None]:
    """Let new fakes raise where their address is read, for which they otherwise give 0 and a warning."""
    before = mode._allow_unsafe_data_ptr_access
    mode._allow_unsafe_data_ptr_access = False
    try:
        yield
    finally:
        mode._allow_unsafe_data_ptr_access = before


@contextmanager
def grouped_products_of_any_dtype() -> Iterator[None]:
    """Let fakes multiply groups of matrices (experts) in every dtype, as the CPU's kernel does; theirs requires bfloat16."""
    registrations: Any = _meta_registrations
    common, shaped = registrations._meta_grouped_mm_common, registrations._create_grouped_mm_output_tensor

    def relaxed(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("scale_a") is None and a.dtype == b.dtype != torch.bfloat16:
            return shaped(a, b, kwargs["offs"], kwargs["out_dtype"])
        return common(a, b, *args, **kwargs)

    registrations._meta_grouped_mm_common = relaxed
    try:
        yield
    finally:
        registrations._meta_grouped_mm_common = common


@contextmanager
def fakes_by_example(mode: FakeTensorMode, example: Callable[[torch._ops.OpOverload, Any, Any], Any]) -> Iterator[None]:
    """Let ``example(operator, args, kwargs)``, in ``mode``, give the fake results of operators without a kernel for fakes."""
    dispatch = mode.dispatch

    def with_examples(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return dispatch(func, types, args, kwargs)
        except Exception as error:
            if not lacks_fake(error):
                raise
            with mode:
                return example(func, args, kwargs or {})

    mode.dispatch = with_examples  # type: ignore[method-assign]
    try:
        yield
    finally:
        mode.dispatch = dispatch  # type: ignore[method-assign]


@contextmanager
def errors_not_logged() -> Iterator[None]:
    """Stop fake tensors from logging a traceback when an operator refuses its arguments; the exception has it too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def truncated_normals_not_drawn() -> Iterator[None]:
    """Leave fakes as they are in ``nn.init.trunc_normal_``, which from torch 2.13 on draws until all values are in range."""
    init: Any = nn.init
    original = init._no_grad_trunc_normal_

    def drawn(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else original(tensor, *args, **kwargs)

    init._no_grad_trunc_normal_ = drawn
    try:
        yield
    finally:
        init._no_grad_trunc_normal_ = original


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has a shape but no values."""
    return isinstance(tensor, FakeTensor)


def lacks_fake(error: Exception) -> bool:
    """Whether ``error`` says that an operator has no kernel for fakes."""
    return isinstance(error, UnsupportedOperatorException) or "no fake impl" in str(error)


def to_fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """The fake of ``tensor`` with its shape, strides, dtype and device; a fake of this mode is returned as it is."""
    if isinstance(tensor, FakeTensor) and tensor.fake_mode is mode:
        return tensor
    if tensor._base is not None and tensor._base.layout is not torch.strided:
        tensor = tensor.data  # the indices and values of a sparse tensor are views of it, which a fake would repeat
    return mode.from_tensor(tensor, static_shapes=True)


def fake_in_use(tensor: torch.Tensor) -> torch.Tensor:
    """The fake that the active fake mode takes for ``tensor``, whose views share its storage; itself without a mode."""
    mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return to_fake(mode, tensor) if isinstance(mode, FakeTensorMode) else tensor


def forget_originals(mode: FakeTensorMode) -> None:
    """Forget of which tensors fakes were made: ``torch.utils.swap_tensors`` refuses tensors with weak references."""
    mode.fake_tensor_converter.meta_converter.describer.lookup_tensor.clear()


def negated(tensor: torch.Tensor) -> torch.Tensor:
    """A view of ``tensor`` whose values are negated when they are read, as the imaginary part of a conjugate is."""
    return torch._neg_view(tensor)


def modes_active() -> bool:
    """Whether a dispatch mode is active."""
    return bool(torch._C._len_torch_dispatch_stack())


def without_modes() -> AbstractContextManager[Any]:
    """Run operators on real tensors, whatever modes are active."""
    return _disable_current_modes()


def forward_sequence_number() -> int:
    """Number of this thread's newest autograd node; in a dispatch mode, the node of the running operator."""
    return int(torch._C._autograd._get_sequence_nr()) - 1


def backward_sequence_number() -> int | None:
    """Number of the autograd node whose backward is running; None outside of a backward."""
    node = torch._C._current_autograd_node()
    return None if node is None else sequence_number(node)


def sequence_number(node: Any) -> int:
    """Number of an autograd node: the same for its forward and its backward."""
    return int(node._sequence_nr())


def in_checkpoint() -> bool:
    """Whether the caller's own ``torch.utils.checkpoint`` is on the stack."""
    return any(True for _ in _frames_of_checkpoint())


def in_checkpoint_replaying_draws() -> bool:
    """Whether the caller's own ``torch.utils.checkpoint`` is recomputing with the generator's state of the first run."""
    return any(
        names.get("preserve_rng_state") or getattr(names.get("ctx"), "preserve_rng_state", False)
        for names in (frame.f_locals for frame in _frames_of_checkpoint())
    )


def _frames_of_checkpoint() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == _CHECKPOINT:
            yield frame
        frame = frame.f_back


def single_threaded_backward() -> AbstractContextManager[Any]:
    """Run the backward of every device in the calling thread, where the modes are active."""
    return torch.autograd.set_multithreading_enabled(False)


def form_check(tensors: Sequence[torch.Tensor]) -> Callable[[Sequence[torch.Tensor]], bool]:
    """A quick question whether as many tensors have the classes, dtypes, devices, layouts, sizes, strides and
    ``requires_grad`` of ``tensors``. False also where autocast or a transform is on that was off, or the reverse.

    ``torch.compile`` asks the same before it runs compiled code. No tensor is kept alive.
    """
    if not tensors:
        return lambda others: not others
    check = torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    return lambda others: check(*others)


def hashable(size: Any) -> Any:
    """A size, stride or number of elements; the expression of one that is symbolic, which has no hash itself."""
    return size.node.expr if is_symbolic(size) else size


def is_symbolic(value: Any) -> bool:
    """Whether ``value`` stands for a number that is computed from the sizes of inputs."""
    return isinstance(value, py_sym_types)


def number_of(size: Any) -> Any:
    """A size, or the number that a symbolic one stands for; that is no condition."""
    return size.node.hint if is_symbolic(size) else size


def same_sizes(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether sizes are equal, one by one. Of symbolic ones, no more is a condition than that one pair differs."""
    differing = [pair for pair in zip(one, other, strict=True) if hashable(pair[0]) != hashable(pair[1])]
    differ_now = [pair for pair in differing if number_of(pair[0]) != number_of(pair[1])]
    differ_now.sort(key=lambda pair: any(map(is_symbolic, pair)))
    return all(bool(size == other_size) for size, other_size in differ_now[:1] or differing)


def storage_key(tensor: torch.Tensor) -> int:
    """Identity of the storage that ``tensor`` views; a later storage may get it once this one is freed."""
    return tensor.untyped_storage()._cdata


@contextmanager
def autocast_asks_for_gpu(absent: Callable[[], Any]) -> Iterator[None]:
    """Call ``absent`` when ``torch.autocast("cuda")`` checks for a GPU; for machines without one."""
    common = torch.cuda.amp.common
    original = common.amp_definitely_not_available

    def asked() -> bool:
        if sys._getframe(1).f_globals.get("__name__") == autocast_mode.__name__:
            absent()
        return original()  # type: ignore[no-untyped-call]

    common.amp_definitely_not_available = asked
    try:
        yield
    finally:
        common.amp_definitely_not_available = original


def compiled_by(module: nn.Module) -> Literal["torch.compile(module)", "module.compile()", "a compiled forward"] | None:
    """How the calls of ``module`` are compiled by ``torch.compile``; None where they are not."""
    # Dynamo takes seconds to load, and where it is not loaded it has compiled nothing.
    wrapper = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)
    if wrapper is None:
        return None
    if isinstance(module, wrapper):
        return "torch.compile(module)"
    if module._compiled_call_impl is not None:
        return "module.compile()"
    forward = module.forward
    if hasattr(forward, "_torchdynamo_orig_callable") and not getattr(forward, "_torchdynamo_disable", False):
        return "a compiled forward"
    return None


def generator_key(generator: torch.Generator) -> int:
    """Identity of a random generator; in a dispatch mode, operators get another Python object for it."""
    return generator._cdata  # type: ignore[attr-defined]
