"""Reads of whole tensors: by the code itself (``tolist``, ``numpy``), and by functions that read the host's memory in C.

Composite operators for packed sequences and for splits at given places look into the memory of a tensor, which a fake lacks,
and so do ``torch.tensor`` for a list of tensors, and the text of a tensor. Inside ``values_readable`` they get the real values.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import _reduction as _Reduction  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import is_dense, on_real_tensors
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.refusals import copied_error, text_error
from remat_planner.tracer.torch_kernels import composites_replaced
from remat_planner.tracer.torch_private import is_fake
from remat_planner.tracer.torch_values import run_composite, whole_tensors_read

aten = torch.ops.aten

Read = Callable[..., torch.Tensor]
"""``read(fake)``: its real values, on the host."""
_READS_ARGUMENT = {
    aten.lstm.data: 1,
    aten.gru.data: 1,
    aten.rnn_tanh.data: 1,
    aten.rnn_relu.data: 1,
    aten._pack_padded_sequence_backward.default: 2,
}
"""Position of the argument that each of these operators reads."""
_FROM_DATA = {torch.tensor: 0, torch.as_tensor: 0, torch.asarray: 0, torch.Tensor.new_tensor: 1}
"""Position of the data of which each of these functions makes a tensor."""
_AS_TEXT = (torch.Tensor.__repr__, torch.Tensor.__format__)
_COPIES = (torch.Tensor.__deepcopy__, torch.Tensor.__reduce_ex__)
_BY_INDEX = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_MEAN, _SUM = (_Reduction.get_enum(name) for name in ("mean", "sum"))


@contextmanager
def values_readable(read: Read, item: Callable[[torch.Tensor], Any] = torch.Tensor.item) -> Iterator[None]:
    """Inside, the values of fakes are those that ``read`` gives, and numbers those of ``item``, in this thread alone."""
    reads = [read]  # PyTorch goes on holding kernels that are taken back; these no longer hold the recording then

    def read_now(*args: Any, **kwargs: Any) -> torch.Tensor:
        return reads[0](*args, **kwargs)

    kernels: dict[Any, Callable[..., Any]] = {
        operator: _given_values(operator, position, read_now) for operator, position in _READS_ARGUMENT.items()
    }
    kernels[aten.tensor_split.tensor_indices_or_sections] = _split_at(read_now)
    kernels[aten._pad_packed_sequence.default] = _padded(read_now)
    kernels[aten.ctc_loss.IntList] = _ctc_loss
    thread = threading.get_ident()

    def in_this_thread(kernel: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: kernel(*args, **kwargs) if threading.get_ident() == thread else None

    kernels = {operator: in_this_thread(kernel) for operator, kernel in kernels.items()}
    with composites_replaced(kernels, on_gpu=True), whole_tensors_read(read_now), _ReadsInFunctions(read_now, item):
        try:
            yield
        finally:
            reads.clear()


class _ReadsInFunctions(TorchFunctionMode):
    """Reads the tensors in the data of which a new tensor is made, and those that are written as text; copies whole ones."""

    def __init__(self, read: Read, item: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self._read = read
        self._item = item

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (position := _FROM_DATA.get(func)) is not None:
            args = tuple(self._known(arg) if k == position else arg for k, arg in enumerate(args))
            kwargs = {name: self._known(arg) if name in ("data", "obj") else arg for name, arg in kwargs.items()}
        elif func is torch.sparse_coo_tensor:
            args, kwargs = self._with_size(*args, **kwargs)
        elif func in _BY_INDEX and isinstance(args[1], tuple):  # x[:, [t, u]] makes one index of its list
            args = (args[0], tuple(map(self._known, args[1])), *args[2:])
        elif func is torch.Tensor.item and is_fake(args[0]):
            return self._item(args[0])
        elif func in _AS_TEXT and is_fake(args[0]):
            return self._text(args[0], args[1] if func is torch.Tensor.__format__ else None)
        elif func in _COPIES and not is_fake(args[0]):
            args[0].detach()  # the recording learns that the step reads this tensor
        elif func is torch.Tensor.__deepcopy__:
            return self._deep_copy(*args)
        elif func is torch.Tensor.__reduce_ex__:
            raise copied_error("pickles a tensor, or copies it by copy.copy", user_line(sys._getframe(1)))
        return func(*args, **kwargs)

    def _text(self, tensor: torch.Tensor, form: str | None) -> str:
        """What eager writes for ``tensor``; ``form`` is what ``format`` gets, None for ``repr``."""
        is_number = form is not None and tensor.dim() == 0 and not isinstance(tensor, nn.Parameter)
        if tensor.grad_fn is not None and not is_number:
            raise text_error(user_line(sys._getframe(2)))
        values = self._read(tensor, what="its text")
        with on_real_tensors():
            if is_number:
                return format(values.item(), form or "")
            real = values.to(tensor.device).requires_grad_(tensor.requires_grad)
            return repr(real) if form is None else format(real, form)

    def _deep_copy(self, tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        """A copy of a tensor without a gradient that fills its memory; eager copies the whole memory of others."""
        whole = is_dense(tensor) and tensor.untyped_storage().nbytes() == tensor.nbytes
        if tensor.requires_grad or not whole:
            raise copied_error("copies a tensor by copy.deepcopy", user_line(sys._getframe(2)))
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.clone()
        return memo[id(tensor)]

    @staticmethod
    def _with_size(indices: Any, values: Any, size: Any = None, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of ``torch.sparse_coo_tensor`` with the size that it would read from the indices in C."""
        if size is None and is_fake(indices) and isinstance(values, torch.Tensor) and indices.numel():
            size = [*(indices.amax(dim=1) + 1).tolist(), *values.shape[1:]]
        return (indices, values, *(() if size is None else (size,))), options

    def _known(self, data: Any) -> Any:
        """``data`` with real tensors in its lists."""
        if not isinstance(data, (list, tuple)):
            return data
        return pytree.tree_map_only(torch.Tensor, lambda t: self._read(t) if is_fake(t) else t, data)


def _given_values(operator: torch._ops.OpOverload, position: int, read: Read) -> Callable[..., Any]:
    """Run the operator's own kernel on the values of one argument."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_fake(args[position]):
            return None
        return run_composite(operator, *args[:position], read(args[position]), *args[position + 1 :], **kwargs)

    return call


def _split_at(read: Read) -> Callable[..., Any]:
    def call(tensor: torch.Tensor, places: torch.Tensor, dim: int = 0) -> Any:
        values = read(places) if is_fake(places) else places
        return torch.tensor_split(tensor, values.tolist(), dim)

    return call


def _padded(read: Read) -> Callable[..., Any]:
    def call(
        data: torch.Tensor, batch_sizes: torch.Tensor, batch_first: bool, padding_value: float, total_length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As PyTorch does it: runs of steps with one batch size are copied at a time."""
        sizes = (read(batch_sizes) if is_fake(batch_sizes) else batch_sizes).tolist()
        padded = data.new_full((max(total_length, len(sizes)), sizes[0], *data.shape[1:]), padding_value)
        row = start = 0
        for step, size in enumerate(sizes, 1):
            if step == len(sizes) or sizes[step] != size:
                rows = (step - start) * size
                copied = data.narrow(0, row, rows).view(step - start, size, *data.shape[1:])
                padded.narrow(0, start, step - start).narrow(1, 0, size).copy_(copied)
                row, start = row + rows, step
        lengths = torch.tensor([sum(size > i for size in sizes) for i in range(sizes[0])])
        return padded.transpose(0, 1) if batch_first else padded, lengths

    return call


def _ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: list[int],
    target_lengths: list[int],
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> torch.Tensor | None:
    """As PyTorch does it; its own code writes the lengths into the memory of a new tensor."""
    if log_probs.device.type != "cpu" and targets.device.type == "cpu":
        return None  # cuDNN may compute it
    batched = log_probs.dim() == 3
    log_probs = log_probs if batched else log_probs.unsqueeze(1)
    targets = targets.to(log_probs.device, torch.int64)
    losses = aten._ctc_loss.default(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)[0]
    if zero_infinity:
        losses = torch.where(losses == math.inf, torch.zeros((), dtype=losses.dtype, device=losses.device), losses)
    if reduction == _MEAN:
        lengths = torch.tensor(target_lengths, dtype=losses.dtype, device=losses.device)
        return (losses / lengths.clamp_min(1)).mean()
    if reduction == _SUM:
        return losses.sum()
    return losses if batched else losses.squeeze(0)
