"""What a measurement holds for: the device, PyTorch's version, and the settings that change how fast kernels run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from remat_planner.tracer.costs.errors import DeviceNotAtHandError


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a measurement.

    Attributes:
        device: name of the GPU, or of the processor.
        torch: version of PyTorch.
        threads: number of CPU threads; 0 for a GPU.
        settings: PyTorch's settings, by name.
    """

    device: str
    torch: str
    threads: int
    settings: tuple[tuple[str, str], ...]


def conditions(device: torch.device) -> Conditions:
    """The conditions on ``device`` at this moment.

    Raises:
        DeviceNotAtHandError: nothing can be measured on ``device`` here.
    """
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise DeviceNotAtHandError(
            f"the model is on {device}, where nothing can be measured here: give the name of a device (costs='h100') or a "
            "profile that was measured on one, or put the model on the CPU",
            device=str(device),
        )
    cuda = device.type == "cuda"
    settings = {
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
    if cuda:
        settings["cudnn.benchmark"] = str(torch.backends.cudnn.benchmark)
        settings["cudnn.allow_tf32"] = str(torch.backends.cudnn.allow_tf32)
    return Conditions(
        device=torch.cuda.get_device_name(device) if cuda else processor(),
        torch=str(torch.__version__),
        threads=0 if cuda else torch.get_num_threads(),
        settings=tuple(settings.items()),
    )


@cache
def processor() -> str:
    """Name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
