"""Random training programs: Python state, containers, chains of views and writes in place, draws, shared layers, hooks.

Hypothesis draws each program as a list of statements on a few variables; ``Interpreted`` is the module that runs it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import hypothesis
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks.sweep.cases import Built, Case, NotTrainableError

PART = "programs"
ROWS, WIDTH = 4, 6
_VARIABLES = 4
_PROGRAMS = 300  # for each of the samples that are asked for


@dataclass(frozen=True)
class Statement:
    """``kind`` says what is done; the numbers say with which variables and in which form."""

    kind: str
    target: int
    source: int
    form: int

    def __str__(self) -> str:
        return f"{self.kind}{self.form}({self.target},{self.source})"


@dataclass(frozen=True)
class Program:
    """Statements, the variables that are returned, and whether the loss depends on one of them or on all."""

    statements: tuple[Statement, ...]
    returned: tuple[int, ...]
    all_in_loss: bool
    training: bool

    def __str__(self) -> str:
        ends = f"return {','.join(map(str, self.returned))}{' all' if self.all_in_loss else ''}"
        return " ".join(map(str, (*self.statements, ends))) + ("" if self.training else " eval")


class Interpreted(nn.Module):
    """Runs a program on variables of the shape (rows, width)."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.layers.append(self.layers[0])  # one layer, under two names
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)])
        self.hooked = nn.Linear(WIDTH, WIDTH)
        self.hooked.register_forward_hook(lambda _module, _args, output: output * 1.5)
        self.token = nn.Parameter(torch.randn(1, WIDTH))
        self.tied = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH)
        self.register_buffer("running", torch.zeros(WIDTH))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.rand(ROWS, WIDTH) > 0.5)
        self.calls = 0
        self.settings = {"scale": 0.5, "inner": {"bias": 0.25}}
        self.notes: dict[str, Any] = {}
        self.names: list[str] = []
        self.kept = SimpleNamespace(latest=None)
        self.draws = random.Random(1)

    def forward(self, x: torch.Tensor, extra: dict[str, torch.Tensor]) -> dict[str, Any]:
        variables = [x, self.layers[0](x), x * self.token, extra["other"].tanh()]
        for statement in self.program.statements:
            variables[statement.target] = self._run(statement, variables)
        returned = [variables[i] for i in self.program.returned]
        chosen = [v for v in (returned if self.program.all_in_loss else returned[:1]) if v.requires_grad]
        chosen = chosen or [v for v in variables if v.requires_grad]
        if not chosen:
            raise NotTrainableError("the loss has no gradient")
        loss = sum((v.square().mean() for v in chosen[1:]), chosen[0].square().mean())
        return {"loss": loss, "returned": tuple(returned), "detached": [returned[0].detach() + 1]}

    def _run(self, statement: Statement, variables: list[torch.Tensor]) -> torch.Tensor:
        target, source = variables[statement.target], variables[statement.source]
        return _KINDS[statement.kind][statement.form](self, target, source)

    # Statements that need more than an expression.

    def count_buffer(self, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        self.counter += 1
        return t * 1.25

    def track(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.running.mul_(0.9).add_(s.mean(0), alpha=0.1)
        return t - self.running

    def replace_buffer(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        self.running = 0.9 * self.running + 0.1 * s.detach().mean(0)
        return t + self.running

    def note(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        self.notes["mean"] = s.detach().mean()
        return t

    def keep(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        self.kept.latest = s.detach()
        return t + 0.5

    def name(self, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        self.names = ["one", f"of {t.dim()}"]
        return t

    def count(self, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return t * (1 + 0.1 * self.calls)

    def draw_number(self, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return t * self.draws.random()

    def containers(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        held = {"list": [t, s], "tuple": (t.sin(), s), "inner": SimpleNamespace(value=s)}
        held["list"].append(held["tuple"][0])
        return held["list"].pop() + held["inner"].value

    def hooked_tensor(self, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        t = t * 1.0
        if t.requires_grad:
            t.register_hook(lambda gradient: gradient * 0.5)
        return t

    def write_view(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        t = t * 1.0
        t[1:].t()[:, :2].mul_(0.5).add_(s[:2].t())
        return t

    def write_row(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        t = t.clone()
        t[0] = s[1]
        t.select(1, 2).exp_()
        return t

    def write_transposed(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        turned = t.t().contiguous()
        turned.add_(1).sigmoid_()
        turned[2].mul_(s[0, 0])
        return turned.t()

    def write_split(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        base = torch.cat([t, s])
        base[:ROWS].neg_()
        base.view(2, ROWS, WIDTH)[1].tanh_()
        return base[:ROWS] + base[ROWS:]

    def checkpointed(self, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda a, b: F.dropout(self.layers[1](a).sin(), 0.3) * b, t, s, use_reentrant=False)


def _twice(m: Interpreted, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return m.layers[0](t) + m.layers[2](s)


class _Scaled(torch.autograd.Function):
    """A function of the user's own, with its own gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * scale

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ctx.scale + x * 0.01, None


_Form = Callable[[Interpreted, torch.Tensor, torch.Tensor], torch.Tensor]

_KINDS: dict[str, tuple[_Form, ...]] = {
    "unary": (
        lambda _, t, __: t.sin(),
        lambda _, t, __: F.gelu(t),
        lambda _, t, __: t.relu(),
        lambda _, t, __: t.sigmoid(),
        lambda _, t, __: F.silu(t),
        lambda _, t, __: t.softmax(-1),
    ),
    "binary": (
        lambda _, t, s: t + s,
        lambda _, t, s: t * s,
        lambda _, t, s: t @ (s.t() @ t) / WIDTH,
        lambda _, t, s: torch.where(t > s, t, s * 0.5),
    ),
    "reduce": (
        lambda _, t, s: t * s.mean(0),
        lambda _, t, s: t - s.amax(1, keepdim=True),
        lambda _, t, s: t * (1 + 0.1 * s.tanh()).prod(),
        lambda _, t, s: t + s.cumsum(0),
        lambda _, t, s: t - s.max(),
        lambda _, t, s: t / (1 + s.norm()),
        lambda _, t, s: t + s.median(),
        lambda _, t, s: t + s.relu().prod(1, keepdim=True),
        lambda _, t, s: t + s.std(0),
        lambda _, t, s: t + s.logsumexp(1, keepdim=True),
    ),
    "layer": (
        lambda m, t, _: m.layers[0](t),
        lambda m, t, _: m.layers[2](t).tanh(),
        _twice,
        lambda m, t, _: m.norms[0](t),
        lambda m, t, _: m.norms[1](t),
        lambda m, t, _: m.hooked(t),
        lambda m, t, _: t @ m.tied + t @ m.tied.t(),
    ),
    "in_place": (
        lambda _, t, __: (t * 1.0).relu_(),
        lambda _, t, s: (t + 0.0).mul_(s),
        lambda _, t, s: t.add_(s),
        lambda _, t, __: t.mul_(0.5),
        lambda _, t, __: F.leaky_relu(t * 1.0, inplace=True),
    ),
    "view": (
        lambda _, t, __: t.t().reshape(ROWS, WIDTH),
        lambda _, t, __: t.flip(0),
        lambda _, t, __: torch.cat(t.chunk(2, 1)[::-1], 1),
        lambda _, t, s: torch.stack([t, s]).mean(0),
        lambda _, t, __: t[:1].expand(ROWS, WIDTH),
        lambda _, t, __: t[torch.tensor([3, 1, 1, 0])],
        lambda m, t, __: t.masked_fill(m.mask, 0.0),
        lambda m, t, s: torch.cat([m.token, t[1:] + s[1:]]),
    ),
    "write": (Interpreted.write_view, Interpreted.write_row, Interpreted.write_transposed, Interpreted.write_split),
    "draw": (
        lambda _, t, __: F.dropout(t, 0.5),
        lambda _, t, __: t + torch.rand_like(t),
        lambda _, t, __: t * torch.bernoulli(torch.full_like(t, 0.7)),
        lambda _, t, __: t + torch.randn(ROWS, 1),
        lambda _, t, __: F.dropout(t.t(), 0.5).t(),
        lambda m, t, __: F.dropout(t, 0.5, m.training),
        lambda _, t, __: t[torch.randperm(ROWS)],
    ),
    "state": (
        Interpreted.count_buffer,
        Interpreted.track,
        Interpreted.replace_buffer,
        Interpreted.note,
        Interpreted.keep,
        Interpreted.name,
        Interpreted.count,
        Interpreted.draw_number,
        lambda m, t, _: t * m.settings["scale"] + m.settings["inner"]["bias"],
    ),
    "python": (
        Interpreted.containers,
        Interpreted.hooked_tensor,
        Interpreted.checkpointed,
        lambda _, t, __: _Scaled.apply(t, 0.5),
        lambda _, t, s: t.detach() * s,
        lambda _, t, s: t if torch.is_grad_enabled() and t.shape == s.shape else s,
    ),
}

_KIND_AND_FORM = st.sampled_from([(kind, form) for kind, forms in _KINDS.items() for form in range(len(forms))])
_VARIABLE = st.integers(0, _VARIABLES - 1)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A strategy for programs of up to eight statements."""
    drawn = draw(st.lists(st.tuples(_KIND_AND_FORM, _VARIABLE, _VARIABLE), min_size=2, max_size=8))
    returned = draw(st.lists(_VARIABLE, min_size=1, max_size=3))
    statements = tuple(Statement(kind, target, source, form) for (kind, form), target, source in drawn)
    return Program(statements, tuple(returned), all_in_loss=draw(st.booleans()), training=draw(st.integers(0, 4)) > 0)


def cases(samples: int) -> Iterator[Case]:
    """Programs, the same ones each time."""
    found: dict[str, Program] = {}

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=_PROGRAMS * samples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(programs())
    def collect(program: Program) -> None:
        found.setdefault(str(program), program)

    collect()
    for name, program in found.items():
        yield Case(PART, name, partial(_build, program))


def _build(program: Program) -> Built:
    torch.manual_seed(0)
    model = Interpreted(program).train(program.training)
    x, other = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    return Built(model, (x, {"other": other}), state=_python_state)


def _python_state(model: nn.Module) -> Any:
    """What a program may leave in Python."""
    assert isinstance(model, Interpreted)
    kept = {"latest": model.kept.latest, **model.notes}
    values = {key: None if value is None else value.tolist() for key, value in kept.items()}
    return values, model.calls, list(model.names), hash(model.draws.getstate())
