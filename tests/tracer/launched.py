"""autograd.Functions whose kernels take addresses, as Triton's do; NumPy stands for the kernels."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def memory(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """The elements of a contiguous float32 tensor, reached by its address; the tensor must outlive them."""
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    numbers = (ctypes.c_float * tensor.numel()).from_address(tensor.data_ptr())
    return np.ctypeslib.as_array(numbers)


class Scaled(torch.autograd.Function):
    """x times a number, which stays in ``ctx``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
        ctx.factor = factor
        result = torch.empty_like(x)
        memory(result)[:] = memory(x) * factor
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.contiguous()
        result = torch.empty_like(gradient)
        memory(result)[:] = memory(gradient) * ctx.factor
        return result, None


class Tanh(torch.autograd.Function):
    """Saves its result, and defines its context apart."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(x)
        memory(result)[:] = np.tanh(memory(x))
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (result,) = ctx.saved_tensors
        return gradient * (1 - result * result)


class Normalized(torch.autograd.Function):
    """Saves a view of an argument, a weight and statistics of its own, and keeps a tensor in a dictionary."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert ctx.needs_input_grad == (True, True)
        assert x.requires_grad
        assert weight.requires_grad
        rows = x.view(-1, x.shape[-1])
        scale = torch.empty(rows.shape[0])
        memory(scale)[:] = 1 / (1 + (memory(rows).reshape(rows.shape) ** 2).mean(-1))
        ctx.save_for_backward(rows, weight, None)
        ctx.kept = {"scale": scale, "shape": x.shape}
        return (rows * weight * scale[:, None]).view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, weight, nothing = ctx.saved_tensors
        assert nothing is None
        scale = ctx.kept["scale"][:, None]
        gradient = gradient.reshape(rows.shape)
        return (gradient * weight * scale).view(ctx.kept["shape"]), (gradient * rows * scale).sum(0)


class Gated(torch.autograd.Function):
    """a times b; its backward writes the gradients into a and b, as Liger's SwiGLU does."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        result = torch.empty_like(a)
        memory(result)[:] = memory(a) * memory(b)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_b = memory(gradient) * memory(a)
        memory(a)[:] = memory(gradient) * memory(b)
        memory(b)[:] = of_b
        return a, b


class Turned(torch.autograd.Function):
    """Changes its argument and returns a view of it, without a word, as Liger's rotary embedding does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        memory(x)[:] *= -1
        return x.view(-1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        memory(gradient)[:] *= -1
        return gradient.view(4, 16)


class Doubled(torch.autograd.Function):
    """Changes its argument and says so."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        memory(x)[:] *= 2
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


class Several(torch.autograd.Function):
    """Results of several kinds: used, unused, not differentiable, none."""

    materialize = True

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        ctx.set_materialize_grads(Several.materialize)
        used = torch.empty_like(x)
        memory(used)[:] = memory(x)
        signs = x > 0
        ctx.mark_non_differentiable(signs)
        return used, x * 3, signs, None

    @staticmethod
    def backward(ctx: Any, used: torch.Tensor, unused: Any, signs: Any, none: Any) -> torch.Tensor:
        assert none is None
        if not Several.materialize:
            assert unused is None
            return used.clone()
        assert not unused.any()
        result = torch.empty_like(unused)
        used = used.contiguous()
        memory(result)[:] = memory(used)
        return result


class OnlyBackward(torch.autograd.Function):
    """Launches a kernel in its backward alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        result = torch.empty_like(gradient)
        memory(result)[:] = memory(gradient) * np.cos(memory(x))
        return result


class Swallowing(torch.autograd.Function):
    """Computes something else where the launch fails."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(x)
        try:
            memory(result)[:] = memory(x)
        except RuntimeError:
            return x * 100
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 1


class Reading(torch.autograd.Function):
    """Reads values in Python, which fakes do not have."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.first = x.tolist()[0][0]
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ctx.first


class Dropped(torch.autograd.Function):
    """Draws a seed from torch's generator for a generator of its own, as fused dropouts do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        seed = int(torch.randint(0, 1000, ()).item())
        mask = np.random.RandomState(seed).rand(*x.shape) > 0.5
        kept = torch.from_numpy(mask.astype("float32"))
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ctx.saved_tensors[0]
