"""Programs after official examples, beside eager: packed sequences, speech, graphs, detection, policies, meta-learning."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.distributions import Categorical
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.planner.programs.beside_eager import Asked, differing, epoch, train


class Tagger(nn.Module):
    """A packed LSTM in both directions."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 4, padding_idx=0)
        self.rnn, self.tags = nn.LSTM(4, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

    def forward(self, ids, lengths, tags):
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=ids.shape[1])
        return F.cross_entropy(self.tags(h).flatten(0, 1), tags.flatten(), ignore_index=-1)


def packed_sequences():
    lengths = [torch.tensor([4, 2, 3]), torch.tensor([2, 4, 1])]
    data = [(torch.randint(1, 20, (3, 4)), lengths[k % 2], torch.randint(-1, 3, (3, 4))) for k in range(4)]
    yield from epoch((yield Asked(Tagger(), data[0])), data)


class Speech(nn.Module):
    """Convolution, GRU and CTC."""

    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.letters = nn.Conv1d(8, 8, 3, 2, 1), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 6)

    def forward(self, x, lengths, text, text_lengths):
        h, _ = self.rnn(F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        scores = self.letters(h).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, text, (lengths - 1) // 2 + 1, text_lengths, zero_infinity=True)


def speech():
    lengths, text_lengths = torch.tensor([12, 10, 8]), torch.tensor([3, 2, 1])
    data = [(torch.randn(3, 12, 8), lengths, torch.randint(1, 6, (3, 3)), text_lengths) for _ in range(4)]
    yield from epoch((yield Asked(Speech(), data[0])), data)


class Isomorphism(nn.Module):
    """A graph network that drops edges at random."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()) for _ in range(2))
        self.own, self.head = nn.Parameter(torch.zeros(2)), nn.Linear(8, 2)

    def forward(self, x, edges, graph, labels):
        start, end = edges
        for layer, own in zip(self.layers, self.own, strict=True):
            kept = (torch.rand(start.shape[0]) > 0.2).float()[:, None]
            x = layer((1 + own) * x + torch.zeros_like(x).index_add(0, end, x[start] * kept))
        graphs = torch.zeros(int(graph.max()) + 1, 8)
        pooled = graphs.scatter_reduce(0, graph[:, None].expand(-1, 8), x, "mean", include_self=False)
        return F.cross_entropy(self.head(pooled), labels)


def graphs():
    graph = torch.arange(4).repeat_interleave(5)
    data = [(torch.randn(20, 8), torch.randint(20, (2, 40)), graph, torch.randint(2, (4,))) for _ in range(4)]
    yield from epoch((yield Asked(Isomorphism(), data[0])), data)


class Detector(nn.Module):
    """Focal loss and boxes of the places that the labels name, whose number is another one in each step."""

    def __init__(self):
        super().__init__()
        self.body, self.kinds, self.boxes = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, labels, boxes):
        h = F.relu(self.body(x))
        kinds = self.kinds(h).flatten(2).transpose(1, 2)
        found = F.relu(self.boxes(h) * self.scale).flatten(2).transpose(1, 2)
        is_thing = labels < 4
        target = F.one_hot(labels.clamp(max=3), 4).float() * is_thing[..., None]
        wrong = (kinds.sigmoid() - target).abs()
        losses = {"kinds": (F.binary_cross_entropy_with_logits(kinds, target, reduction="none") * wrong**2).sum()}
        losses["kinds"] = losses["kinds"] / max(is_thing.sum().item(), 1)
        if is_thing.any():
            losses["boxes"] = F.l1_loss(found[is_thing], boxes[is_thing])
        return losses | {"loss": sum(losses.values())}


def detection():
    data = [(torch.randn(2, 3, 8, 8), torch.randint(8, (2, 16)), torch.rand(2, 16, 4)) for _ in range(4)]
    yield from epoch((yield Asked(Detector(), data[0])), data, loss=lambda output: output["loss"])


class Policy(nn.Module):
    """The clipped objective of PPO, with a number to be logged."""

    def __init__(self):
        super().__init__()
        self.body, self.actions, self.value = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, seen, taken, before, advantage, returns):
        h = torch.tanh(self.body(seen))
        policy = Categorical(logits=self.actions(h))
        ratio = (policy.log_prob(taken) - before).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = F.mse_loss(self.value(h).squeeze(-1), returns) - gain - 0.01 * policy.entropy().mean()
        return loss, {"kl": (before - policy.log_prob(taken)).mean().item()}


def policy_optimization():
    data = [(torch.randn(10, 6), torch.randint(3, (10,)), -torch.rand(10), torch.randn(10), torch.randn(10)) for _ in range(3)]
    planned = yield Asked(Policy(), data[0], loss=lambda output: output[0])
    optimizer = torch.optim.Adam(planned.parameters(), 1e-2)
    for batch in data * 2:
        loss, numbers = planned(*batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(planned.parameters(), 0.5)
        optimizer.step()
        yield [loss, numbers["kl"]]


class Sampled(nn.Module):
    """Samples its actions, and leaves them."""

    def __init__(self):
        super().__init__()
        self.layer, self.taken = nn.Linear(6, 3), None

    def forward(self, seen, rewards):
        policy = Categorical(logits=self.layer(seen))
        self.taken = policy.sample()
        return -(policy.log_prob(self.taken) * rewards.gather(1, self.taken[:, None]).squeeze(1)).mean()


def policy_gradient():
    data = [(torch.randn(10, 6), torch.randn(10, 3)) for _ in range(4)]
    yield from epoch((yield Asked(Sampled(), data[0])), data)


class Values(nn.Module):
    """Double Q-learning with its target network inside."""

    def __init__(self):
        super().__init__()
        self.now = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.target = copy.deepcopy(self.now).requires_grad_(False)

    def forward(self, seen, taken, reward, after):
        with torch.no_grad():
            wanted = reward + 0.9 * self.target(after).gather(1, self.now(after).argmax(1, keepdim=True)).squeeze(1)
        return F.smooth_l1_loss(self.now(seen).gather(1, taken[:, None]).squeeze(1), wanted)


def double_q_learning():
    data = [(torch.randn(8, 6), torch.randint(3, (8,)), torch.randn(8), torch.randn(8, 6)) for _ in range(5)]
    planned = yield Asked(Values(), data[0])
    optimizer = torch.optim.RMSprop(planned.now.parameters(), 1e-2)
    for number, loss in enumerate(epoch(planned, data, optimizer)):
        if number % 2:
            planned.target.load_state_dict(planned.now.state_dict())
        else:
            for its, ours in zip(planned.target.parameters(), planned.now.parameters(), strict=True):
                its.data.mul_(0.9).add_(ours.data, alpha=0.1)
        yield loss


class Meta(nn.Module):
    """An inner step of gradient descent, differentiated."""

    def __init__(self, second_order):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
        self.second_order = second_order

    def forward(self, x, y, new_x, new_y):
        weights = dict(self.net.named_parameters())
        inner = F.mse_loss(torch.func.functional_call(self.net, weights, (x,)), y)
        gradients = torch.autograd.grad(inner, list(weights.values()), create_graph=self.second_order)
        fast = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        return F.mse_loss(torch.func.functional_call(self.net, fast, (new_x,)), new_y)


def meta_learning():
    data = [tuple(torch.randn(5, 1) for _ in range(4)) for _ in range(4)]
    yield from epoch((yield Asked(Meta(True), data[0])), data)


def meta_learning_of_first_order():
    data = [tuple(torch.randn(5, 1) for _ in range(4)) for _ in range(4)]
    yield from epoch((yield Asked(Meta(False), data[0])), data)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "min"])
@pytest.mark.parametrize(
    "program",
    [
        detection,
        double_q_learning,
        graphs,
        meta_learning,
        meta_learning_of_first_order,
        packed_sequences,
        policy_gradient,
        policy_optimization,
        speech,
    ],
)
def test_a_program_leaves_what_eager_leaves(program, budget):
    assert list(differing(train(program, None), train(program, budget))) == []
