"""Programs after official examples, beside eager: diffusion, GANs, autoencoders, contrastive learning, routing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.planner.programs.beside_eager import Asked, differing, epoch, train


def batches(*shapes, count=5):
    """Random inputs of these shapes."""
    return [tuple(torch.randn(*shape) for shape in shapes) for _ in range(count)]


class Denoiser(nn.Module):
    """Predicts the velocity of a diffusion; loss weighted by the clipped signal-to-noise ratio, labels dropped at random."""

    def __init__(self):
        super().__init__()
        self.time, self.labels = nn.Linear(16, 16), nn.Embedding(5, 16)
        self.enter, self.leave = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-4, 0.02, 50), 0))

    def forward(self, x, labels):
        noise, t = torch.randn_like(x), torch.randint(0, 50, (x.shape[0],))
        kept = self.kept[t][:, None, None, None]
        labels = torch.where(torch.rand(labels.shape) < 0.2, torch.full_like(labels, 4), labels)
        angles = t[:, None] * torch.exp(-math.log(1e4) * torch.arange(8) / 8)
        condition = self.time(torch.cat([angles.sin(), angles.cos()], -1)) + self.labels(labels)
        h = self.enter(kept.sqrt() * x + (1 - kept).sqrt() * noise) + condition[:, :, None, None]
        velocity, ratio = self.leave(F.silu(self.norm(h))), self.kept[t] / (1 - self.kept[t])
        error = F.mse_loss(velocity, kept.sqrt() * noise - (1 - kept).sqrt() * x, reduction="none").mean((1, 2, 3))
        return (error * ratio.clamp(max=5) / (ratio + 1)).mean()


def diffusion_with_averaged_weights():
    model, data = Denoiser(), [(x, torch.randint(4, (4,))) for (x,) in batches((4, 3, 8, 8))]
    planned = yield Asked(model, data[0])
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(planned.parameters(), 1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for loss in epoch(planned, data, optimizer):
        rate.step()
        average.update_parameters(planned)
        yield [loss, *average.parameters()]


def discriminator():
    """With the spectral norm of its weights."""
    convolutions = [spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2, True), spectral_norm(nn.Conv2d(8, 8, 4, 2, 1))]
    return nn.Sequential(*convolutions, nn.LeakyReLU(0.2, True), nn.Flatten(), nn.Linear(32, 1))


def generator():
    """From 8 numbers to a picture."""
    return nn.Sequential(nn.ConvTranspose2d(8, 8, 4), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 3, 4, 2, 1))


def gan_whose_discriminator_is_planned():
    critic, artist, data = discriminator(), generator(), batches((4, 3, 8, 8))
    planned = yield Asked(critic, data[0], loss=lambda output: output.mean())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3, betas=(0.5, 0.9)) for model in (planned, artist)]
    for (real,) in data:
        optimizers[0].zero_grad()
        losses = [F.relu(1 - planned(real)).mean(), F.relu(1 + planned(artist(torch.randn(4, 8, 1, 1)).detach())).mean()]
        for loss in losses:
            loss.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        losses.append(-planned(artist(torch.randn(4, 8, 1, 1))).mean())
        losses[-1].backward()
        optimizers[1].step()
        yield [*losses, *artist.parameters()]


def gan_whose_generator_is_frozen_in_turn():
    artist, critic, data = generator(), discriminator(), batches((4, 8, 1, 1))
    planned = yield Asked(artist, data[0], loss=lambda output: output.mean())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in (critic, planned)]
    for (noise,) in data:
        for trained, sign in ((critic, 1), (planned, -1)):
            planned.requires_grad_(trained is planned)
            critic.requires_grad_(trained is critic)
            optimizer = optimizers[trained is planned]
            optimizer.zero_grad()
            loss = sign * critic(planned(noise)).mean()
            loss.backward()
            optimizer.step()
            yield loss


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, code):
        ctx.save_for_backward(x)
        return code

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < 2), None


class Quantizer(nn.Module):
    """An autoencoder whose codes are averages of what was encoded so far."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(4, 8)
        self.register_buffer("codes", torch.randn(6, 4))
        self.register_buffer("counts", torch.ones(6))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x):
        z = self.encode(x)
        nearest = torch.cdist(z.detach(), self.codes).argmin(1)
        chosen = F.one_hot(nearest, 6).float()
        code = chosen @ self.codes
        with torch.no_grad():
            self.counts.mul_(0.9).add_(chosen.sum(0), alpha=0.1)
            self.sums.mul_(0.9).add_(chosen.T @ z.detach(), alpha=0.1)
            self.codes.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])
        return F.mse_loss(self.decode(StraightThrough.apply(z, code)), x) + F.mse_loss(z, code.detach()), nearest


def quantized_autoencoder():
    data = batches((10, 8))
    planned = yield Asked(Quantizer(), data[0], loss=lambda output: output[0])
    for (x,) in data:
        loss, codes = planned(x)
        planned.zero_grad()
        loss.backward()
        yield [loss, codes]


class MaskedAutoencoder(nn.Module):
    """Sees a quarter of the patches, in a random order."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.mask = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.zeros(1, 1, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, x):
        batch, patches, _ = x.shape
        order = torch.rand(batch, patches).argsort(1)
        back, seen = order.argsort(1), patches // 4
        h = self.layer(self.encode(x).gather(1, order[:, :seen, None].expand(-1, -1, 16)))
        h = torch.cat([h, self.mask.repeat(batch, patches - seen, 1)], 1).gather(1, back[:, :, None].expand(-1, -1, 16))
        hidden = (back >= seen).float()
        return ((self.decode(h) - x).square().mean(-1) * hidden).sum() / hidden.sum()


def masked_autoencoder():
    data = batches((3, 12, 8))
    yield from epoch((yield Asked(MaskedAutoencoder(), data[0])), data)


class MoCo(nn.Module):
    """The queue and the momentum update of the official code, which assigns to ``.data``."""

    def __init__(self):
        super().__init__()
        self.query = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(8, 32), dim=0))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    def forward(self, one, other):
        queries = F.normalize(self.query(one), dim=1)
        with torch.no_grad():
            for ours, its in zip(self.query.parameters(), self.key.parameters(), strict=True):
                its.data = its.data * 0.99 + ours.data * (1.0 - 0.99)
            order = torch.randperm(other.shape[0])
            keys = F.normalize(self.key(other[order]), dim=1)[torch.argsort(order)]
        scores = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ self.queue.clone().detach()], 1) / 0.07
        place = int(self.place)
        self.queue[:, place : place + keys.shape[0]] = keys.T
        self.place[0] = (place + keys.shape[0]) % self.queue.shape[1]
        return F.cross_entropy(scores, torch.zeros(scores.shape[0], dtype=torch.long))


def momentum_contrast():
    data = batches((8, 16), (8, 16))
    yield from epoch((yield Asked(MoCo(), data[0])), data)


class HitExperts(nn.Module):
    """Calls the experts that are hit, each with its tokens."""

    def __init__(self):
        super().__init__()
        self.route = nn.Linear(16, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16)) for _ in range(4))

    def forward(self, x):
        tokens = x.flatten(0, 1)
        weights, chosen = self.route(tokens).softmax(1).topk(2, dim=-1)
        mask, out = F.one_hot(chosen, 4).permute(2, 1, 0), torch.zeros_like(tokens)
        for expert in (mask.sum((-1, -2)) > 0).nonzero():
            rank, token = torch.where(mask[expert[0]])
            out.index_add_(0, token, self.experts[expert[0]](tokens[token]) * weights[token, rank, None])
        return out.view_as(x)


class Mixture(nn.Module):
    """Layers in dictionaries, as some code keeps them."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"norm": nn.LayerNorm(16), "attend": nn.MultiheadAttention(16, 2, batch_first=True), "experts": HitExperts()}
            )
            for _ in range(2)
        )

    def forward(self, ids):
        x = self.words(ids)
        for layer in self.layers:
            h = layer["norm"](x)
            x = x + layer["attend"](h, h, h, need_weights=False)[0]
            x = x + layer["experts"](layer["norm"](x))
        return F.cross_entropy(self.head(x).flatten(0, 1), ids.flatten())


def mixture_of_experts():
    data = [(torch.randint(50, (4, 10)),) for _ in range(5)]
    yield from epoch((yield Asked(Mixture(), data[0])), data)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "min"])
@pytest.mark.parametrize(
    "program",
    [
        diffusion_with_averaged_weights,
        gan_whose_discriminator_is_planned,
        gan_whose_generator_is_frozen_in_turn,
        masked_autoencoder,
        mixture_of_experts,
        momentum_contrast,
        quantized_autoencoder,
    ],
)
def test_a_program_leaves_what_eager_leaves(program, budget):
    assert list(differing(train(program, None), train(program, budget))) == []
