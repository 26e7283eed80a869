"""Programs whose model changes between steps, beside eager: adapters, schedules, frozen parts, pruned and swapped layers."""

from __future__ import annotations

import copy
from collections import deque

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.planner.programs.beside_eager import Asked, differing, epoch, train

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def inputs(count=6):
    return [(torch.randn(6, 8),) for _ in range(count)]


def classified(output):
    return F.cross_entropy(output, LABELS)


def layers():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Adapter(nn.Module):
    """LoRA that can be merged into the weight."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))
        self.dropout, self.scale, self.merged = nn.Dropout(0.1), 2.0, False

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + self.dropout(x) @ self.down.T @ self.up.T * self.scale

    def merge(self, sign):
        self.base.weight.data += sign * self.up @ self.down * self.scale
        self.merged = sign > 0


def adapters_merged_for_evaluation():
    model, data = nn.Sequential(Adapter(nn.Linear(8, 16)), nn.GELU(), Adapter(nn.Linear(16, 3))), inputs()
    planned = yield Asked(model, data[0], loss=classified)
    for number, loss in enumerate(epoch(planned, data, loss=classified)):
        with torch.no_grad():
            planned.eval()
            for adapter in (planned[0], planned[2]):
                adapter.merge(1)
            evaluated = planned(*data[0])
            for adapter in (planned[0], planned[2]):
                adapter.merge(-1)
            planned.train()
        if number == 2:
            planned[0].scale = 1.0
        yield [loss, evaluated]


def accumulation_with_a_scaler_and_autocast():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return F.cross_entropy(self.inner(x), LABELS, label_smoothing=0.1)

    data = inputs(9)
    planned = yield Asked(Cast(), data[0])
    optimizer = torch.optim.SGD(planned.parameters(), 0.1, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    for number, batch in enumerate(data):
        loss = planned(*batch) / 3
        scaler.scale(loss).backward()
        if number % 3 == 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(planned.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        yield [loss, scaler.get_scale()]


class Annealed(nn.Module):
    """An autoencoder whose weights and temperature follow schedules."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.dropout = nn.Linear(8, 8), nn.Linear(4, 8), nn.Dropout(0.0)
        self.beta, self.temperature = 0.0, 1.0

    def forward(self, x):
        mean, spread = self.encode(self.dropout(x)).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        kinds = F.gumbel_softmax(mean, tau=self.temperature, hard=True)
        return F.mse_loss(self.decode(z + kinds), x) - self.beta * (1 + spread - mean**2 - spread.exp()).mean()


def schedules_of_attributes():
    data = inputs()
    planned = yield Asked(Annealed(), data[0])
    for number, batch in enumerate(data):
        planned.beta, planned.temperature, planned.dropout.p = number / 5, 1 - 0.1 * number, 0.1 * (number // 2)
        yield from epoch(planned, [batch])


def numbers_as_inputs():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x, other, share):
            one, again = self.net(x), self.net(x)
            distance = F.kl_div(one.log_softmax(1), again.softmax(1), reduction="batchmean")
            return share * F.cross_entropy(one, LABELS) + (1 - share) * F.cross_entropy(one, other) + distance

    data = [(x, LABELS.flip(0), 0.1 + 0.15 * number) for number, (x,) in enumerate(inputs())]
    yield from epoch((yield Asked(Mixed(), data[0])), data)


def layers_that_thaw():
    model, data = layers(), inputs()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("3"))
    planned = yield Asked(model, data[0], loss=classified)
    for number, batch in enumerate(data):
        if number == 2:
            planned.requires_grad_(True)
        if number == 4:
            planned[1].eval()
            planned[1].weight.requires_grad_(False)
        yield from epoch(planned, [batch], loss=classified)


def sharpness_aware_steps_without_statistics():
    model, data = layers(), inputs()
    planned = yield Asked(model, data[0], loss=classified)
    optimizer = torch.optim.SGD(planned.parameters(), 0.1)
    for batch in data:
        loss = classified(planned(*batch))
        loss.backward()
        with torch.no_grad():
            steps = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in planned.parameters()]
            torch._foreach_add_(list(planned.parameters()), steps)
        planned.zero_grad()
        planned[1].momentum = 0
        classified(planned(*batch)).backward()
        planned[1].momentum = 0.1
        with torch.no_grad():
            torch._foreach_sub_(list(planned.parameters()), steps)
        optimizer.step()
        planned.zero_grad()
        yield loss


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def parametrized_weights():
    square = nn.Linear(8, 8)
    parametrize.register_parametrization(square, "weight", Symmetric())
    model = nn.Sequential(
        square, nn.Tanh(), parametrizations.orthogonal(nn.Linear(8, 8)), parametrizations.weight_norm(nn.Linear(8, 3))
    )
    data = inputs()
    yield from epoch((yield Asked(model, data[0], loss=classified)), data, loss=classified)


def layers_that_are_pruned():
    model, data = layers(), inputs()
    prune.l1_unstructured(model[0], "weight", 0.2)
    planned = yield Asked(model, data[0], loss=classified)
    for number, batch in enumerate(data):
        yield from epoch(planned, [batch], loss=classified)
        if number == 1:
            prune.l1_unstructured(model[0], "weight", 0.3)
        if number == 3:
            prune.remove(model[0], "weight")


def layers_that_are_replaced():
    model, data = layers(), inputs()
    planned, kept = (yield Asked(model, data[0], loss=classified)), copy.deepcopy(model.state_dict())
    for number, batch in enumerate(data):
        yield from epoch(planned, [batch], loss=classified)
        if number == 1:
            model[3] = nn.Linear(16, 3)
        if number == 3:
            model.load_state_dict(copy.deepcopy(kept), assign=True)


def line_search():
    model, data = layers(), inputs(1)
    planned = yield Asked(model, data[0], loss=classified)
    optimizer = torch.optim.LBFGS(planned.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = classified(planned(*data[0]))
        loss.backward()
        return loss

    for _ in range(4):
        yield optimizer.step(closure)


def averaged_statistics():
    model, data = layers(), inputs()
    model[1].momentum = None
    planned = yield Asked(model, data[0], loss=classified)
    for number, loss in enumerate(epoch(planned, data, loss=classified)):
        planned.eval()
        with torch.inference_mode():
            evaluated = planned(*data[0]).sum().item()
        planned.train()
        if number == 2:
            torch.optim.swa_utils.update_bn([x for (x,) in data], planned)
        yield [loss, evaluated]


class Bank(nn.Module):
    """Compares with what earlier steps left, once there is enough of it."""

    def __init__(self, kept):
        super().__init__()
        self.encoder, self.kept = layers(), kept

    def forward(self, x):
        z = F.normalize(self.encoder(x), dim=-1)
        loss = F.cross_entropy(z, LABELS)
        if len(self.kept) >= 3:
            loss = loss + (z @ torch.cat(list(self.kept)[-3:]).T).logsumexp(-1).mean()
        self.kept.append(z.detach())
        return loss


def bank_of_fixed_length():
    model, data = Bank(deque(maxlen=3)), inputs()
    yield from epoch((yield Asked(model, data[0])), data)


def bank_that_grows():
    model, data = Bank([]), inputs()
    yield from epoch((yield Asked(model, data[0])), data)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "min"])
@pytest.mark.parametrize(
    "program",
    [
        accumulation_with_a_scaler_and_autocast,
        adapters_merged_for_evaluation,
        averaged_statistics,
        bank_of_fixed_length,
        bank_that_grows,
        layers_that_are_pruned,
        layers_that_are_replaced,
        layers_that_thaw,
        line_search,
        numbers_as_inputs,
        parametrized_weights,
        schedules_of_attributes,
        sharpness_aware_steps_without_statistics,
    ],
)
def test_a_program_leaves_what_eager_leaves(program, budget):
    assert list(differing(train(program, None), train(program, budget))) == []
