"""GPUs by name: memory, bandwidth, dense arithmetic rates and the link to the host, according to their data sheets.

Rates are without sparsity; those of tensor cores are with 32-bit accumulation where the sheet tells them apart. Memory is the
sheet's figure in GB of 10^9 bytes. Cards have somewhat more (their GB are 2^30); driver and context take about the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from remat_planner.tracer.costs.errors import UnknownDeviceError

BF16, FP16, TF32, FP32, FP64, FP8, INT8 = "bfloat16", "float16", "tf32", "float32", "float64", "float8", "int8"

BLOCK = 512
"""Bytes: PyTorch's caching allocator gives multiples of it (kMinBlockSize of c10/cuda/CUDACachingAllocator.cpp)."""


@dataclass(frozen=True)
class Link:
    """The link between a GPU and the memory of its host.

    Attributes:
        name: its kind.
        outgoing: bytes per second that copies from the GPU to pinned host memory reach.
        incoming: the same for copies to the GPU.
        source: where the rates come from.
    """

    name: str
    outgoing: float
    incoming: float
    source: str


@dataclass(frozen=True)
class Device:
    """A GPU on paper.

    Attributes:
        name: the name that users give.
        memory: bytes.
        bandwidth: bytes per second.
        rates: floating point operations per second by kind of arithmetic.
        source: the data sheet.
        link: to the host; None where the GPU and its host share their memory, so that a copy frees nothing.
    """

    name: str
    memory: int
    bandwidth: float
    rates: Mapping[str, float]
    source: str
    link: Link | None

    def rate(self, dtype: torch.dtype, *, tf32: bool = False) -> float:
        """Floating point operations per second on operands of ``dtype``; ``tf32`` sends 32-bit ones to the tensor cores.

        A dtype that the device has no rate for counts as 32-bit, as bfloat16 on V100 and T4.
        """
        kind = str(dtype).removeprefix("torch.")
        if kind.startswith("float8"):
            kind = FP8
        elif kind in ("int8", "uint8"):
            kind = INT8
        elif kind == FP32 and tf32 and TF32 in self.rates:
            kind = TF32
        elif kind in ("complex128", FP64):
            kind = FP64
        return self.rates.get(kind, self.rates[FP32])


def allocated_on_gpu(size: int) -> int:
    """Bytes that PyTorch's caching allocator takes for a request of ``size``: blocks are multiples of 512 bytes."""
    return rounded_up(size, BLOCK)


def device_named(name: str) -> Device:
    """The device called ``name``, in any case.

    Raises:
        UnknownDeviceError: the table has no such device; the message lists its names.
    """
    device = DEVICES.get(name.lower())
    if device is None:
        raise UnknownDeviceError(
            f"no device is called {name!r}; known are {', '.join(DEVICES)}. Costs can also be measured (costs='measure') or "
            "read from a profile that was measured elsewhere (a path that ends in .json)",
            name=name,
            known=tuple(DEVICES),
        )
    return device


def _device(
    name: str, gigabytes: float, gigabytes_per_second: float, teraflops: Mapping[str, float], source: str, link: Link | None
) -> Device:
    rates = {kind: rate * 1e12 for kind, rate in teraflops.items()}
    return Device(name, round(gigabytes * 1e9), gigabytes_per_second * 1e9, rates, source, link)


def _pcie(generation: int, raw: float, reached: float) -> Link:
    source = f"PCI-SIG: {raw:g} GB/s each way on 16 lanes, less protocol overhead as copies of pinned memory usually show"
    return Link(f"PCIe {generation}.0 x16", reached * 1e9, reached * 1e9, source)


_PCIE_3, _PCIE_4, _PCIE_5 = _pcie(3, 15.75, 12), _pcie(4, 31.5, 24), _pcie(5, 63, 50)
_C2C = Link(
    "NVLink-C2C",
    170e9,
    411e9,
    "NVIDIA GH200 data sheet: 450 GB/s each way. Copies reach less, and less outwards; these rates were not measured here",
)

_H100 = {BF16: 989.4, FP16: 989.4, TF32: 494.7, FP32: 66.9, FP64: 66.9, FP8: 1978.9, INT8: 1978.9}
_A100 = {BF16: 312, FP16: 312, TF32: 156, FP32: 19.5, FP64: 19.5, INT8: 624}
_V100 = {FP16: 125, FP32: 15.7, FP64: 7.8}
_MI300A = {BF16: 980.6, FP16: 980.6, TF32: 490.3, FP32: 122.6, FP64: 122.6, FP8: 1961.2, INT8: 1961.2}
_MI300X = {BF16: 1307.4, FP16: 1307.4, TF32: 653.7, FP32: 163.4, FP64: 163.4, FP8: 2614.9, INT8: 2614.9}

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        # FP64 of H100 and A100 is the tensor cores' rate, which cuBLAS uses.
        _device("h100", 80, 3350, _H100, "NVIDIA H100 Tensor Core GPU data sheet, SXM5", _PCIE_5),
        _device(
            "h100-pcie",
            80,
            2000,
            {BF16: 756, FP16: 756, TF32: 378, FP32: 51, FP64: 51, FP8: 1513, INT8: 1513},
            "NVIDIA H100 Tensor Core GPU data sheet (2022), PCIe",
            _PCIE_5,
        ),
        _device(
            "h100-nvl",
            94,
            3900,
            {BF16: 835, FP16: 835, TF32: 417.5, FP32: 60, FP64: 60, FP8: 1670, INT8: 1670},
            "NVIDIA H100 Tensor Core GPU data sheet, NVL, half of the sparse rates",
            _PCIE_5,
        ),
        _device("h200", 141, 4800, _H100, "NVIDIA H200 Tensor Core GPU data sheet, SXM", _PCIE_5),
        _device("gh200", 96, 4000, _H100, "NVIDIA GH200 Grace Hopper Superchip data sheet, 96 GB", _C2C),
        _device(
            "b200",
            180,
            8000,
            {BF16: 2250, FP16: 2250, TF32: 1125, FP32: 75, FP64: 37, FP8: 4500, INT8: 4500},
            "NVIDIA DGX B200 and HGX B200 data sheets, an eighth of the system, half of the sparse rates",
            _PCIE_5,
        ),
        _device("a100-80gb", 80, 2039, _A100, "NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB", _PCIE_4),
        _device("a100-40gb", 40, 1555, _A100, "NVIDIA A100 Tensor Core GPU data sheet, SXM4 40 GB", _PCIE_4),
        _device(
            "l40s",
            48,
            864,
            {BF16: 362.05, FP16: 362.05, TF32: 183, FP32: 91.6, FP64: 1.43, FP8: 733, INT8: 733},
            "NVIDIA L40S data sheet; FP64 is 1/64 of FP32 (Ada GPU architecture white paper)",
            _PCIE_4,
        ),
        _device(
            "l4",
            24,
            300,
            {BF16: 121, FP16: 121, TF32: 60, FP32: 30.3, FP64: 0.47, FP8: 242.5, INT8: 242.5},
            "NVIDIA L4 data sheet, half of the sparse rates; FP64 is 1/64 of FP32",
            _PCIE_4,
        ),
        _device(
            "a10",
            24,
            600,
            {BF16: 125, FP16: 125, TF32: 62.5, FP32: 31.2, FP64: 0.98, INT8: 250},
            "NVIDIA A10 data sheet; FP64 is 1/32 of FP32",
            _PCIE_4,
        ),
        _device(
            "a10g",
            24,
            600,
            {BF16: 70, FP16: 70, TF32: 35, FP32: 35, FP64: 1.1, INT8: 140},
            "NVIDIA A10G data sheet (AWS G5); FP64 is 1/32 of FP32",
            _PCIE_4,
        ),
        _device(
            "a40",
            48,
            696,
            {BF16: 149.7, FP16: 149.7, TF32: 74.8, FP32: 37.4, FP64: 1.17, INT8: 299.3},
            "NVIDIA A40 data sheet; FP64 is 1/32 of FP32",
            _PCIE_4,
        ),
        _device(
            "a6000",
            48,
            768,
            {BF16: 154.8, FP16: 154.8, TF32: 77.4, FP32: 38.7, FP64: 1.21, INT8: 309.7},
            "NVIDIA RTX A6000 data sheet, half of the sparse rates; FP64 is 1/32 of FP32",
            _PCIE_4,
        ),
        _device(
            "rtx5090",
            32,
            1792,
            {BF16: 209.5, FP16: 209.5, TF32: 104.8, FP32: 104.8, FP64: 1.64, FP8: 419, INT8: 838},
            "NVIDIA RTX Blackwell GPU architecture white paper, FP16 and BF16 with FP32 accumulation",
            _PCIE_5,
        ),
        _device(
            "rtx4090",
            24,
            1008,
            {BF16: 165.2, FP16: 165.2, TF32: 82.6, FP32: 82.6, FP64: 1.29, FP8: 330.3, INT8: 660.6},
            "NVIDIA Ada GPU architecture white paper, FP16 and BF16 with FP32 accumulation",
            _PCIE_4,
        ),
        _device(
            "rtx3090",
            24,
            936,
            {BF16: 71, FP16: 71, TF32: 35.6, FP32: 35.6, FP64: 0.56, INT8: 284},
            "NVIDIA Ampere GA102 GPU architecture white paper, FP16 and BF16 with FP32 accumulation",
            _PCIE_4,
        ),
        # No bfloat16 tensor cores before Ampere: it runs at the FP32 rate.
        _device(
            "t4", 16, 320, {FP16: 65, FP32: 8.1, FP64: 0.25, INT8: 130}, "NVIDIA T4 data sheet; FP64 is 1/32 of FP32", _PCIE_3
        ),
        _device("v100", 16, 900, _V100, "NVIDIA V100 Tensor Core GPU data sheet, SXM2 16 GB", _PCIE_3),
        _device("v100-32gb", 32, 900, _V100, "NVIDIA V100 Tensor Core GPU data sheet, SXM2 32 GB", _PCIE_3),
        _device("mi300a", 128, 5300, _MI300A, "AMD Instinct MI300A data sheet", None),
        _device("mi300x", 192, 5300, _MI300X, "AMD Instinct MI300X data sheet", _PCIE_5),
        _device("mi325x", 256, 6000, _MI300X, "AMD Instinct MI325X data sheet", _PCIE_5),
    )
}


def rounded_up(size: int, block: int) -> int:
    """``size`` bytes as a whole number of blocks."""
    return -(-size // block) * block
