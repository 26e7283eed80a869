"""One small module for each thing that code may do and a capture may get wrong; the zoo has whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from tests.zoo import Case

CASES: dict[str, Callable[[], Case]] = {}


class Written(nn.Module):
    """A module whose forward is a function of it and the inputs; tensors become buffers."""

    def __init__(self, forward: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.written = forward
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.written(self, *args, **kwargs)


def linear(inputs: int = 16, outputs: int = 16) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (4, 16))


def mean_square(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pow(2).mean()


def _case(build: Callable[[], Case]) -> Callable[[], Case]:
    CASES[build.__name__] = build
    return build


@_case
def reentrant_checkpoint_with_dropout() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(checkpoint(lambda y: F.dropout(torch.tanh(m.a(y)), 0.3), m.b(x), use_reentrant=True))

    return Case(Written(forward, a=linear(), b=linear()), (noise(),), {}, None)


@_case
def checkpoint_with_batch_norm() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(checkpoint(lambda y: m.norm(m.a(y)), m.b(x), use_reentrant=False))

    return Case(Written(forward, a=linear(), b=linear(), norm=nn.BatchNorm1d(16)), (noise(),), {}, None)


@_case
def input_that_requires_a_gradient() -> Case:
    return Case(Written(lambda m, x: mean_square(m.a(x * 2)), a=linear()), (noise().requires_grad_(),), {}, None)


@_case
def nested_inputs() -> Case:
    def forward(m: Written, x: torch.Tensor, extra: list[Any], *, scale: float) -> torch.Tensor:
        return mean_square(m.a(x) + extra[0]["shift"] * scale)

    return Case(Written(forward, a=linear()), (noise(), [{"shift": noise()}, 3]), {"scale": 0.5}, None)


@_case
def encoder_with_padding() -> Case:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    padding = torch.tensor([[False, False, False, False, False, True], [False] * 6])
    return Case(
        Written(lambda m, x, p: mean_square(m.e(x, src_key_padding_mask=p)), e=encoder), (noise(2, 6, 16), padding), {}, None
    )


@_case
def attention_with_dropout() -> Case:
    attention = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
    return Case(Written(lambda m, x: mean_square(m.a(x, x, x)[0]), a=attention), (noise(2, 5, 16),), {}, None)


@_case
def batch_norm_in_eval() -> Case:
    model = Written(lambda m, x: mean_square(m.norm(m.a(x))), a=linear(), norm=nn.BatchNorm1d(16))
    model.norm.eval()
    return Case(model, (noise(),), {}, None)


@_case
def batch_norm_between_transposes() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.b(m.norm(m.a(x).transpose(1, 2)).transpose(1, 2)))

    return Case(Written(forward, a=linear(), b=linear(), norm=nn.BatchNorm1d(16)), (noise(2, 5, 16),), {}, None)


@_case
def views_of_what_is_computed_twice() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        whole, again = h.double(), h.double()
        return mean_square(whole * torch.cat((-again[:, 8:], again[:, :8]), 1))

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def half_precision() -> Case:
    return Case(Written(lambda m, x: mean_square(m.a(x).float()), a=linear().half()), (noise().half(),), {}, None)


@_case
def complex_numbers() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(torch.fft.irfft(torch.fft.rfft(m.a(x)) * torch.view_as_complex(m.w)))

    return Case(Written(forward, a=linear(), w=nn.Parameter(noise(9, 2))), (noise(),), {}, None)


@_case
def parametrized_weights() -> Case:
    model = Written(lambda m, x: mean_square(m.b(m.a(x))), a=weight_norm(linear()), b=spectral_norm(linear()))
    return Case(model, (noise(),), {}, None)


@_case
def weight_set_by_a_hook() -> Case:
    return Case(Written(lambda m, x: mean_square(m.a(x)), a=old_spectral_norm(linear())), (noise(),), {}, None)


@_case
def vectorised_map() -> Case:
    return Case(
        Written(lambda m, x: mean_square(torch.vmap(lambda y: torch.tanh(m.a(y)))(x)), a=linear()), (noise(),), {}, None
    )


@_case
def recurrent_with_projection() -> Case:
    return Case(Written(lambda m, x: mean_square(m.r(x)[0]), r=nn.LSTM(16, 8, proj_size=4)), (noise(5, 2, 16),), {}, None)


@_case
def transposed_convolution() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(F.interpolate(F.pixel_shuffle(m.b(m.a(x)), 2), scale_factor=2, mode="bilinear"))

    return Case(Written(forward, a=nn.Conv2d(3, 8, 3), b=nn.ConvTranspose2d(8, 8, 3)), (noise(2, 3, 8, 8),), {}, None)


@_case
def input_changed_in_place() -> Case:
    def forward(m: Written, x: torch.Tensor, counter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counter.add_(1)
        return mean_square(m.a(x) * counter), counter

    return Case(Written(forward, a=linear()), (noise(), torch.ones(4, 16)), {}, lambda output: output[0])


@_case
def parameter_in_the_output() -> Case:
    model = Written(lambda m, x: (mean_square(m.a(x)), m.a.weight), a=linear())
    return Case(model, (noise(),), {}, lambda output: output[0] + output[1].sum())


@_case
def mixture_of_experts() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        weight, expert = F.softmax(m.router(x), -1).topk(2, -1)
        parts = [layer(x) * (weight * (expert == i)).sum(-1, keepdim=True) for i, layer in enumerate(m.experts)]
        return mean_square(sum(parts[1:], parts[0]))

    return Case(Written(forward, router=linear(16, 4), experts=nn.ModuleList(linear() for _ in range(4))), (noise(),), {}, None)


@_case
def dropout_on_a_permuted_tensor() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(F.dropout(m.a(x).permute(2, 0, 1), 0.5).reshape(16, -1))

    return Case(Written(forward, a=linear()), (noise(3, 4, 16),), {}, None)


@_case
def every_kind_of_draw() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = F.gumbel_softmax(m.a(x), tau=1.0)
        h = (h + torch.rand_like(h) * h)[:, torch.randperm(16)]
        h = h + torch.empty_like(h).normal_() * torch.randn(4, 16) + F.rrelu(h, training=True)
        h = F.dropout(h, 0.5, inplace=True) + F.feature_alpha_dropout(h[..., None], 0.2, True)[..., 0]
        return mean_square(h[:, torch.multinomial(torch.ones(16), 4)])

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def draw_that_nobody_reads() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        torch.rand(7)
        return mean_square(F.dropout(m.a(x)))

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def unused_parameters_and_outputs() -> Case:
    model = Written(lambda m, x: (mean_square(m.a(x)), m.b(x)), a=linear(), b=linear(), c=linear())
    return Case(model, (noise(),), {}, lambda output: output[0])


@_case
def outputs_that_alias() -> Case:
    def forward(m: Written, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = m.a(x)
        return h, h.view(-1), h[0], h.detach(), h

    return Case(Written(forward, a=linear()), (noise(),), {}, lambda output: output[0].sum() + mean_square(output[2]))


@_case
def parameter_changed_in_place() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            m.a.weight.clamp_(-0.1, 0.1)
        return mean_square(m.a(x))

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def running_average() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        difference = h - m.center
        m.center.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return mean_square(difference)

    return Case(Written(forward, a=linear(), center=torch.zeros(16)), (noise(),), {}, None)


@_case
def statistics_read_before_and_after_their_update() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        before = m.norm.running_mean * 2
        h = m.norm(m.a(x))
        return mean_square(h + before + (m.norm.running_mean * 2) * (0.0 * h) + (-0.0 * h))

    return Case(Written(forward, a=linear(), norm=nn.BatchNorm1d(16)), (noise(),), {}, None)


@_case
def codebook() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        nearest = torch.cdist(h, m.book).argmin(1)
        quantised = F.embedding(nearest, m.book)
        m.book.copy_(0.99 * m.book + 0.01 * F.one_hot(nearest, 8).float().t() @ h.detach())
        return mean_square(m.b(h + (quantised - h).detach())) + F.mse_loss(h, quantised.detach())

    return Case(Written(forward, a=linear(), b=linear(), book=noise(8, 16)), (noise(),), {}, None)


@_case
def sizes_from_an_input() -> Case:
    def forward(m: Written, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        return sum((mean_square(part) for part in m.a(x).split(sizes.tolist())), torch.zeros(()))

    return Case(Written(forward, a=linear()), (noise(), torch.tensor([1, 3])), {}, None)


@_case
def module_hooks() -> Case:
    model = Written(lambda m, x: mean_square(m.a(x)), a=linear())
    model.a.register_forward_hook(lambda _, __, output: output * 2)
    model.a.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))
    return Case(model, (noise(),), {}, None)


@_case
def gradient_hook() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        h.register_hook(lambda gradient: gradient * 3)
        return mean_square(h)

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def assignment_into_slices() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        result = torch.zeros(4, 16)
        result[:, ::2] = m.a(x)[:, ::2]
        result[1:3] += 1
        return mean_square(result)

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def gradient_inside_the_forward() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(m.a(x).pow(3).sum(), x, create_graph=True)
        return mean_square(force)

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def loss_with_draws_and_in_place_ops() -> Case:
    model = Written(lambda m, x: m.a(x), a=linear())
    return Case(model, (noise(),), {}, lambda output: mean_square(output.clone().mul_(2) * torch.rand_like(output)))


@_case
def loss_whose_gradient_has_no_strides() -> Case:
    return Case(Written(lambda m, x: m.a(x), a=linear()), (noise(),), {}, torch.sum)


@_case
def constants_of_the_code() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x) * torch.tensor([1.0, 2.0] * 8) * m.gain + torch.as_tensor(3))

    return Case(Written(forward, a=linear(), gain=nn.Parameter(torch.tensor(2.0))), (noise(),), {}, None)


@_case
def attribute_filled_at_first_use() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        if m.positions is None:
            m.positions = torch.arange(16.0)
        return mean_square(m.a(x) + m.positions)

    return Case(Written(forward, a=linear(), positions=None), (noise(),), {}, None)


@_case
def gradients_that_depend_on_values() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        total = h.prod(1).sum() + h.relu().prod(0, keepdim=True).sum() + (1 + h * 0.1).prod()
        total = total - h.relu().cumprod(1).sum() + h.clone().cumprod_(0).mean()
        return total - h.t().max() * 2 + h.relu().min() - h.median() + h[:, ::2].nanmedian()

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def gradients_that_depend_on_values_under_a_checkpoint() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(lambda y: m.a(y).relu().prod(1) - m.a(y).max(), x, use_reentrant=False)
        return mean_square(h)

    return Case(Written(forward, a=linear()), (noise(),), {}, None)


@_case
def complex_operators_in_place() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = torch.complex(m.a(x), m.b(x))
        product = h.clone().addcmul_(h, h, value=0.5).addr_(h[:, 0], h[0]) * h.conj()
        product.clone()[1:].div_(h[1:])
        return mean_square(product.abs() + product.clone().div_(h + 2).real)

    return Case(Written(forward, a=linear(), b=linear()), (noise(),), {}, None)


@_case
def in_place_without_a_functional_form() -> Case:
    return Case(Written(lambda m, x: mean_square((m.a(x).sigmoid() + 1).polygamma_(1)), a=linear()), (noise(),), {}, None)


@_case
def gradient_that_is_a_view_of_a_changed_tensor() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(
            F.group_norm(m.gain.view(1, 16, 1), 4, m.scale, m.scale) * m.a(x).mean() + m.gain.as_strided((4, 4), (2, 1)).sum()
        )

    return Case(Written(forward, a=linear(), gain=nn.Parameter(noise(16)), scale=nn.Parameter(noise(16))), (noise(),), {}, None)


@_case
def in_place_on_permuted_tensors() -> Case:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        first, second, third = (m.a(x).clone() for _ in range(3))
        first.t().cumsum_(0)
        second.view(4, 2, 8).transpose(0, 2).index_add_(0, torch.tensor([0, 1, 1]), torch.ones(3, 2, 4))
        third.t().tril_()
        return sum((h.sin().sum() for h in (second, third)), first.sin().sum())

    return Case(Written(forward, a=linear()), (noise(),), {}, None)
