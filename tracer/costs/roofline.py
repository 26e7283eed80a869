"""Seconds of operator calls on a device that is not at hand: the slowest of arithmetic, memory and launch.

The model: max(FLOPs / (0.7 of the peak rate), bytes / (0.8 of the bandwidth), 3 microseconds). Every operator is a kernel of
its own, as eager runs it; attention is the one fused kernel that it is called as. Views and bare allocations take no time.
"""

from __future__ import annotations

import math

import torch

from remat_planner.tracer.costs.devices import Device
from remat_planner.tracer.costs.flops import ATTENTION_BACKWARD, flops
from remat_planner.tracer.costs.op_call import OpCall, argument

REACHED_RATE = 0.7  # share of the peak arithmetic rate that large products reach
REACHED_BANDWIDTH = 0.8  # share of the peak bandwidth that streaming kernels reach
LAUNCH = 3e-6  # seconds that any kernel takes

aten = torch.ops.aten

# These read the rows that their indices name, as much as they write, and not the whole of their first argument.
_LOOKUPS = {aten.embedding, aten.gather, aten.index, aten._unsafe_index, aten.index_select, aten.take, aten._embedding_bag}
# These take the form of their first argument, or only its device, and do not read it.
_LIKE = {
    getattr(aten, f"{kind}{suffix}")
    for kind, suffix in [
        *((kind, "_like") for kind in ("zeros", "ones", "full", "rand", "randn", "randint")),
        *((f"new_{kind}", "") for kind in ("zeros", "ones", "full")),
    ]
}
# Memory is handed out and not touched.
_ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.empty_permuted}


def roofline_seconds(call: OpCall, device: Device) -> float:
    """Seconds of ``call`` on ``device`` by the model above."""
    packet = getattr(call.target, "overloadpacket", None)
    if call.is_view or packet in _ALLOCATIONS:
        return 0.0
    arithmetic = flops(call) / (REACHED_RATE * device.rate(operand_dtype(call), tf32=_uses_tf32(call)))
    memory = bytes_moved(call) / (REACHED_BANDWIDTH * device.bandwidth)
    return max(arithmetic, memory, LAUNCH)


def roofline_workspace(call: OpCall) -> int:
    """Bytes of workspace known without running: the backward of fused attention sums the queries' gradient in 32 bits.

    What other kernels take (cuDNN's convolutions) depends on the algorithm that the library picks, and counts 0 here.
    """
    packet = getattr(call.target, "overloadpacket", None)
    if packet not in ATTENTION_BACKWARD:
        return 0
    *batch, queries, width = argument(call, "query").shape
    rows = math.prod(batch) * -(-queries // 128) * 128  # FlashAttention-2 works in blocks of 128 queries, widths of 32
    return rows * (-(-width // 32) * 32 + 1) * 4


def bytes_moved(call: OpCall) -> int:
    """Bytes that ``call`` reads and writes: each argument and each result once, an expanded tensor by what it stores."""
    written = sum(_stored_bytes(output.shape, output.stride(), output.dtype) for output in call.outputs if output is not None)
    tensors = dict.fromkeys(call.tensors)
    read = 0
    packet = getattr(call.target, "overloadpacket", None)
    for position, spec in enumerate(tensors):
        size = _stored_bytes(spec.shape, spec.stride, spec.dtype)
        if position == 0 and (packet in _LIKE or getattr(call.target, "draws", False)):
            continue
        read += min(size, written) if position == 0 and packet in _LOOKUPS else size
    return read + written


def _stored_bytes(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(size for size, step in zip(shape, stride, strict=True) if step) * dtype.itemsize if 0 not in shape else 0


def operand_dtype(call: OpCall) -> torch.dtype:
    """The dtype that arithmetic is done in: that of the first floating point argument."""
    floating = [spec.dtype for spec in call.tensors if spec.dtype.is_floating_point or spec.dtype.is_complex]
    return floating[0] if floating else torch.float32


def _uses_tf32(call: OpCall) -> bool:
    """Whether PyTorch's settings send 32-bit operands to the tensor cores: by default convolutions only."""
    if "conv" in str(call.target):
        return torch.backends.cudnn.allow_tf32
    return torch.get_float32_matmul_precision() != "highest"
