"""Seconds of operator calls on a GPU that is not at hand: the slowest of arithmetic, memory and launch.

The model: max(FLOPs / (0.7 of the peak rate), bytes / (0.8 of the bandwidth), 3 microseconds). An operator's record may say
otherwise. Every operator is a kernel of its own, as eager runs it; attention is one fused kernel. Views and bare allocations
take no time.
"""

from __future__ import annotations

import torch

from remat_planner.tracer.costs.devices import Device
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.operators import OpCall, all_but_first, each_once, facts_of, is_random_fill

LAUNCH = 3e-6
"""Seconds that every kernel takes at least."""


def roofline_seconds(call: OpCall, device: Device) -> float:
    """Seconds of ``call`` on ``device`` by the model above."""
    roofline = facts_of(call.target).roofline
    if call.is_view or roofline.free:
        return 0.0
    rate = roofline.rate_share * device.rate(operand_dtype(call), tf32=_uses_tf32(call))
    bandwidth = roofline.bandwidth_share * device.bandwidth
    kernels = [(flops(call), bytes_moved(call))] if roofline.kernels is None else roofline.kernels(call)
    return sum(max(operations / rate, moved / bandwidth, LAUNCH) for operations, moved in kernels)


def roofline_workspace(call: OpCall) -> int:
    """Bytes of workspace that are known without running the call.

    What most kernels take (cuDNN's convolutions) depends on the algorithm that the library picks, and counts 0 here.
    """
    workspace = facts_of(call.target).roofline.workspace
    return 0 if workspace is None else int(workspace(call))


def bytes_moved(call: OpCall) -> int:
    """Bytes that ``call`` reads and writes; an expanded tensor counts what it stores."""
    if is_random_fill(call.target):
        return all_but_first(call)
    roofline = facts_of(call.target).roofline
    if roofline.kernels is not None:
        return sum(moved for _, moved in roofline.kernels(call))
    return int((roofline.bytes_moved or each_once)(call))


def operand_dtype(call: OpCall) -> torch.dtype:
    """The dtype of the arithmetic: that of the first floating point argument."""
    floating = [spec.dtype for spec in call.tensors if spec.dtype.is_floating_point or spec.dtype.is_complex]
    return floating[0] if floating else torch.float32


def _uses_tf32(call: OpCall) -> bool:
    """Whether PyTorch's settings send 32-bit operands to the tensor cores: by default convolutions only."""
    if "conv" in str(call.target):
        return torch.backends.cudnn.allow_tf32
    return torch.get_float32_matmul_precision() != "highest"
