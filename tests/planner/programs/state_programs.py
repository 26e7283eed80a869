"""Random programs whose forward reads and changes Python state, and whose loop changes it between steps, as source code."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.planner.programs.beside_eager import Asked

_STEPS = 8

_PLACES = {  # how a state is made, and how it is read and written
    "an attribute": ("self.{n} = {v}", "self.{n}"),
    "of a module inside": ("self.sub.{n} = {v}", "self.sub.{n}"),
    "of an object": ("self.settings.{n} = {v}", "self.settings.{n}"),
    "in a dictionary": ("self.table['{n}'] = {v}", "self.table['{n}']"),
    "in a list": ("self.of_{n} = [{v}]", "self.of_{n}[0]"),
    "in a slot": ("self.of_{n} = Slotted(); self.of_{n}.value = {v}", "self.of_{n}.value"),
    "in a global dictionary": ("TABLE['{n}'] = {v}", "TABLE['{n}']"),
    "of a global object": ("SETTINGS.{n} = {v}", "SETTINGS.{n}"),
    "of the class": ("Net.{n} = {v}", "Net.{n}"),
}

_MEAN = "h.detach().mean()"


@dataclass(frozen=True)
class _Kind:
    """A kind of state: its first value, what a forward may do, what a loop may do. ``S`` is the state, ``K`` a small number."""

    value: str
    forward: tuple[str, ...]
    loop: tuple[str, ...]


_IF = "\n        if {}: l = l * 1.5"
_KINDS = (
    _Kind(
        "0",
        (
            "S += 1",
            "S += 1" + _IF.format("S > K"),
            "l = l * (1 + S)",
            "S += 1" + _IF.format("S % (K + 1) == 0"),
            "S = min(S + 1, K); l = l * (1 + S)",
            "S = K",
            "S ^= 1" + _IF.format("S"),
        ),
        ("S = 5", "S += 2"),
    ),
    _Kind("0.5", ("l = l * S", "S *= 0.5; l = l * S", "S = float(x.shape[0])", "S *= 0.5"), ("S = 0.9", "S = S * 0.7")),
    _Kind(
        "[]",
        (
            f"S.append({_MEAN})",
            f"S.append({_MEAN})" + _IF.format("len(S) > K"),
            f"l = l + (sum(S) if S else 0); S.append({_MEAN})",
            f"S.clear(); S.append({_MEAN}); l = l + S[0]",
            f"S.append({_MEAN})\n        if len(S) > K: S.pop(0)",
            f"S[:] = [{_MEAN}]",
            "S.extend([1, 2])" + _IF.format("len(S) >= 2 * K"),
            f"S += [{_MEAN}]",
            "S.insert(0, 1)",
            "S.append(len(S))" + _IF.format("K in S"),
        ),
        ("S.clear()", "S.append(3)"),
    ),
    _Kind(
        "collections.deque(maxlen=3)",
        (
            f"S.append({_MEAN})",
            f"S.append({_MEAN}); l = l + sum(S)",
            "S.append(1)" + _IF.format("len(S) >= 3"),
            "S.appendleft(1)",
        ),
        ("S.clear()",),
    ),
    _Kind(
        "{}",
        (
            f"S['h'] = {_MEAN}",
            f"l = l + S.get('h', 0); S['h'] = {_MEAN}",
            "S[len(S)] = 1" + _IF.format("len(S) > K"),
            "S.setdefault('k', []).append(1)" + _IF.format("len(S['k']) > K"),
            "S['n'] = S.get('n', 0) + 1" + _IF.format("S['n'] > K"),
            "S.pop('a', None); S['a'] = 1",
            "if 'w' not in S: S['w'] = torch.ones(())\n        l = l * S['w']",
            "if 'w' not in S: S['w'] = x[0, 0] * 2\n        l = l * S['w']",
        ),
        ("S.clear()", "S['h'] = torch.ones(())"),
    ),
    _Kind(
        "collections.defaultdict(list)",
        ("S['a'].append(1)" + _IF.format("len(S['a']) > K"), f"S[4].append({_MEAN})"),
        ("S.clear()",),
    ),
    _Kind("collections.Counter()", ("S['a'] += 1", "S['a'] += 1" + _IF.format("S['a'] > K")), ("S.clear()",)),
    _Kind("set()", ("S.add(len(S))" + _IF.format("len(S) > K"), "S.add(4)"), ("S.add(3)", "S.clear()")),
    _Kind("''", ("S += 'a'" + _IF.format("len(S) > K"), "S = 'x'"), ("S = 'q'",)),
    _Kind(
        "torch.zeros(())",
        (
            f"S = {_MEAN}",
            f"l = l + S; S = {_MEAN}",
            "S.add_(1); l = l + S",
            f"S = S * 0.5 + {_MEAN}; l = l * (1 + S)",
            _IF.format("S.item() > 1").strip() + "\n        S.add_(1)",
        ),
        ("S = torch.ones(()) * 2", "S.add_(1)"),
    ),
    _Kind(
        "None",
        (
            "if S is None: S = torch.ones(4, 1)\n        l = l + (h * S).mean()",
            f"if S is None: S = {_MEAN}\n        l = l + S",
            "if S is None: S = torch.rand(4, 1)\n        l = l + (h * S).mean()",
            f"l = l + (0 if S is None else S); S = {_MEAN}",
            "if S is None: S = 0\n        S += 1" + _IF.format("S > K"),
        ),
        ("S = None",),
    ),
    _Kind(
        "False",
        ("S = not S" + _IF.format("S"), "S = True", "if not S:\n            S = True\n            l = l * 1.5"),
        ("S = False",),
    ),
    _Kind("()", ("S = (*S, 1)" + _IF.format("len(S) > K"), f"S = ({_MEAN},)"), ("S = ()",)),
)

_SOURCE = """
import collections, types
import torch
from torch import nn

class Slotted:
    __slots__ = ("value",)

TABLE, SETTINGS = {{}}, types.SimpleNamespace()

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.layer(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.sub, self.blocks = nn.Linear(8, 8), Block(), nn.ModuleList(Block() for _ in range(2))
        self.table, self.settings = {{}}, types.SimpleNamespace()
        {made}

    def forward(self, x):
        h = self.sub(self.first(x))
        for block in self.blocks:
            h = block(h)
        l = h.pow(2).mean()
        {forward}
        return l

def state(self):
    return [{states}]

def change(self, step):
    {changes}
"""


def source(seed: int) -> str:
    """The source code of a program: a class ``Net``, its ``state``, and how the loop may ``change`` it before a step."""
    draw = random.Random(seed)
    made, forward, states, changes = [], [], [], ["pass"]
    for k in range(draw.choice([1, 1, 2, 3])):
        kind, (make, state) = draw.choice(_KINDS), draw.choice(list(_PLACES.values()))
        name, limit = f"s{k}", str(draw.choice([1, 2, 3, 4]))
        place = state.format(n=name)

        def written(text: str, place: str = place, limit: str = limit) -> str:
            return text.replace("S", place).replace("K", limit)

        made.append(make.format(n=name, v=kind.value))
        forward.append(written(draw.choice(kind.forward)))
        states.append(place)
        for likely in (0.5, 0.2):
            if draw.random() < likely:
                changes.append(f"if step == {draw.randrange(_STEPS)}: {written(draw.choice(kind.loop))}")
    lines = "\n        "
    return _SOURCE.format(
        made=lines.join(made), forward=lines.join(forward), states=", ".join(states), changes="\n    ".join(changes)
    )


def state_program(seed: int) -> Generator[Any, nn.Module, None]:
    """The program of ``seed``, for ``beside_eager.train``: each step yields its loss and the state that it leaves."""
    module = ModuleType(f"state_program_{seed}")
    sys.modules[module.__name__] = module
    exec(compile(source(seed), f"<state program {seed}>", "exec"), vars(module))
    model = module.Net()
    batches = [torch.randn(4, 8) for _ in range(_STEPS)]
    trained = yield Asked(model, (batches[0],))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    events = random.Random(seed).choices(["", "evaluated", "without gradients", "two forwards"], [6, 1, 1, 1], k=_STEPS)
    for step, (batch, event) in enumerate(zip(batches, events, strict=True)):
        module.change(model, step)
        optimizer.zero_grad()
        if event in ("evaluated", "without gradients"):
            trained.train(event != "evaluated")
            with torch.no_grad():
                trained(batch * 2)
            trained.train()
        loss = trained(batch)
        if event == "two forwards":
            loss = loss + trained(batch + 1)
        loss.backward()
        optimizer.step()
        yield [loss, _plain(module.state(model))]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return [type(value).__name__, *([str(key), _plain(item)] for key, item in value.items())]
    if isinstance(value, (list, tuple, deque)):
        return [type(value).__name__, *map(_plain, value)]
    return sorted(map(str, value)) if isinstance(value, set) else value
