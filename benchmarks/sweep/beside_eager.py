"""Trains a case by a plan beside eager, and says what differs: bits, strides, None, state, errors, measured peak."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

import remat_planner
from benchmarks.sweep.cases import Built, Case, NotTrainableError
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.plan import trace_whole
from remat_planner.planner.planning import Settings, Step, schedule_step
from remat_planner.schedules import Schedule

Verdict = Literal["right", "refused", "wrong", "over budget", "foreign error", "not trained by eager", "crashed", "too slow"]

STEPS = 4
_LEARNING_RATE = 1e-3
_SOLVING = 2.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        verdict: whether it is right; "refused" is an error of the project's own when planning or training.
        detail: what differs, or the error.
        cause: class and first words of the error, by which refusals are counted.
    """

    verdict: Verdict
    detail: str = ""
    cause: str = ""


@dataclass(frozen=True)
class _Kept:
    """A compared value: a copy of the tensor (None where there is none) and its strides, or any other value."""

    value: Any
    strides: tuple[int, ...] = ()

    @classmethod
    def of(cls, value: Any) -> _Kept:
        if not isinstance(value, torch.Tensor):
            return cls(copy.deepcopy(value))
        value = value.detach()
        strides = tuple(s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1) if _is_dense(value) else ()
        return cls(_resolved(value).clone(memory_format=torch.contiguous_format), strides)

    def difference(self, other: _Kept) -> str:
        """In a word, how ``other`` differs; "" where it does not."""
        one, two = self.value, other.value
        if not isinstance(one, torch.Tensor) or not isinstance(two, torch.Tensor):
            if (one is None) != (two is None):
                return f"{_described(one)} in eager, {_described(two)} planned"
            same = type(one) is type(two) and repr(one) == repr(two)
            return "" if same else f"{str(one)[:60]} in eager, {str(two)[:60]} planned"
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return f"{one.dtype}{list(one.shape)} in eager, {two.dtype}{list(two.shape)} planned"
        if not torch.equal(_bytes(one), _bytes(two)):
            return _how_bits_differ(one, two)
        return "" if self.strides == other.strides else f"strides {self.strides} in eager, {other.strides} planned"


def check(case: Case) -> Outcome:
    """Plan ``case`` at 100 % and at its least budget, and train by both plans beside eager."""
    try:
        expected = _trained(lambda: case.build(), lambda built: built.model)
    except NotTrainableError as error:
        return Outcome("not trained by eager", str(error))
    except Exception as error:
        return Outcome("not trained by eager", _in_words(error))
    if isinstance(expected[-1], Exception) and len(expected) == 1:
        return Outcome("not trained by eager", _in_words(expected[-1]))
    try:
        built = _built(case)
        step = trace_whole(built.model, built.args, built.kwargs, settings=Settings(solver="greedy", time_limit=_SOLVING))
        schedules = {"100%": schedule_step(step, "100%"), "least": schedule_step(step, _least_budget(step))}
    except Exception as error:
        return _refusal(error, "planning")
    for budget, schedule in schedules.items():
        # The second plan is put on another model of the same form, which is captured anew at its first call.
        built = built if budget == "100%" else _built(case)
        untrained = [parameter.detach().clone() for parameter in built.model.parameters()]
        try:
            planned = remat_planner.apply_schedule(built.model, schedule)
            actual = _trained(lambda built=built: built, lambda _, planned=planned: planned)
        except Exception as error:
            return _refusal(error, budget)
        if outcome := _compared(case, expected, actual, budget):
            return outcome
        _write(built.model, untrained)  # with zeros in them some operators raise
        measured = _measured_peak(built, planned, schedule)
        if measured > schedule.budget:
            share = (measured / schedule.budget - 1) * 100
            return Outcome("over budget", f"{budget}: {measured:,} of {schedule.budget:,} bytes (+{share:.1f} %)")
    return Outcome("right")


def _least_budget(step: Step) -> int:
    try:
        schedule_step(step, 1)
    except remat_planner.InfeasibleBudgetError as error:
        return error.minimum
    raise AssertionError("a schedule within one byte")


def _built(case: Case) -> Built:
    _seed(0)
    return case.build()


def _seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)


def _trained(build: Callable[[], Built], called_of: Callable[[Built], nn.Module]) -> list[dict[str, _Kept] | Exception]:
    """What is there to compare after each step; an exception ends it."""
    _seed(0)
    built = build()
    called = called_of(built)
    return list(_steps(built, called))


def _steps(built: Built, called: nn.Module) -> Iterator[dict[str, _Kept] | Exception]:
    """Steps 1 and 2 add up their gradients, the weights change before step 3, zeros and ties come before step 4."""
    inputs = [leaf for leaf in pytree.tree_leaves((built.args, built.kwargs)) if isinstance(leaf, torch.Tensor)]
    model = built.model
    for number in range(1, STEPS + 1):
        if number >= 3:
            _update(model, inputs)
        if number == STEPS and built.pokes:
            _poke(model)
        _seed(number)
        try:
            output = called(*built.args, **built.kwargs)
            output["loss"].backward()
        except NotTrainableError:
            raise
        except Exception as error:
            yield error
            return
        yield {name: _Kept.of(value) for name, value in _compared_values(built, inputs, output).items()}
        del output


def _compared_values(built: Built, inputs: list[torch.Tensor], output: Any) -> dict[str, Any]:
    leaves = pytree.tree_leaves(output)
    model = built.model
    return {
        **{f"output {k}": leaf for k, leaf in enumerate(leaves)},
        **{f"gradient of {name}": p.grad for name, p in model.named_parameters()},
        **{f"gradient of input {k}": t.grad for k, t in enumerate(inputs) if t.requires_grad},
        **{f"parameter {name}": p for name, p in model.named_parameters()},
        **{f"buffer {name}": b for name, b in model.named_buffers()},
        **{f"input {k}": t for k, t in enumerate(inputs)},
        "random state": torch.get_rng_state(),
        "Python's random state": hash(random.getstate()),
        "Python state": built.state(model),
    }


def _write(model: nn.Module, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)


def _update(model: nn.Module, inputs: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *inputs):
            if tensor.grad is not None and tensor.is_leaf:
                if isinstance(tensor, nn.Parameter) and tensor.grad.layout == torch.strided:
                    tensor.sub_(tensor.grad.nan_to_num(0.0, 0.0, 0.0), alpha=_LEARNING_RATE)
                tensor.grad = None


def _poke(model: nn.Module) -> None:
    """Write a zero into every third element: gradients of products and maxima take another form there."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() and parameter.layout == torch.strided:
                chosen = torch.arange(parameter.numel()).reshape(parameter.shape) % 3 == 1
                parameter.masked_fill_(chosen, 0.0)


def _compared(
    case: Case, expected: list[dict[str, _Kept] | Exception], actual: list[dict[str, _Kept] | Exception], budget: str
) -> Outcome | None:
    for number, (one, other) in enumerate(zip(expected, actual, strict=False), 1):
        where = f"{budget}, step {number}"
        if isinstance(other, Exception):
            if isinstance(one, Exception):
                return None
            return _refusal(other, where)
        if isinstance(one, Exception):
            # A planned step does not repeat checks of values that eager's kernels make; its results mean nothing then.
            return None
        differences = {name: kept.difference(other[name]) for name, kept in one.items() if name in other}
        found = [f"{name}: {difference}" for name, difference in differences.items() if difference]
        found += [f"{name}: missing" for name in one.keys() ^ other.keys()]
        if found:
            again = _trained(case.build, lambda built: built.model)
            if _repeats(expected, again):
                return Outcome("wrong", f"{where}: {'; '.join(found[:4])}")
            return Outcome("not trained by eager", "eager does not repeat its own bits")
    return None


def _repeats(one: list[dict[str, _Kept] | Exception], other: list[dict[str, _Kept] | Exception]) -> bool:
    return len(one) == len(other) and all(
        not any(kept.difference(b[name]) for name, kept in a.items())
        for a, b in zip(one, other, strict=True)
        if not isinstance(a, Exception) and not isinstance(b, Exception)
    )


def _measured_peak(built: Built, planned: nn.Module, schedule: Schedule) -> int:
    """Constant bytes, and the measured peak above them of a step that begins without gradients."""
    for tensor in (*built.model.parameters(), *pytree.tree_leaves((built.args, built.kwargs))):
        if isinstance(tensor, torch.Tensor) and tensor.is_leaf:
            tensor.grad = None

    def step() -> Any:
        output = planned(*built.args, **built.kwargs)
        output["loss"].backward()
        return output

    return schedule.graph.constant_bytes + measure_peak(step)


def _refusal(error: Exception, where: str) -> Outcome:
    ours = type(error).__module__.split(".")[0] == "remat_planner"
    return Outcome("refused" if ours else "foreign error", f"{where}: {_in_words(error)}", _cause(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _cause(error: Exception) -> str:
    words = [word for word in str(error).split() if not any(c.isdigit() for c in word)]
    return f"{type(error).__name__}: {' '.join(words[:7])}"


def _described(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided


def _resolved(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_dense() if tensor.layout != torch.strided else tensor).resolve_conj().resolve_neg()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, with one NaN for all: which one an operator returns depends on where memory happens to lie."""
    if not tensor.numel():
        return torch.empty(0)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_floating_point():
        tensor = tensor.masked_fill(tensor.isnan(), torch.nan)
    return tensor.reshape(-1).view(torch.uint8)


def _how_bits_differ(one: torch.Tensor, two: torch.Tensor) -> str:
    if one.is_complex():
        one, two = torch.view_as_real(one), torch.view_as_real(two)
    if not one.is_floating_point():
        return f"{int((one != two).sum())} of {one.numel()} elements differ"
    if bool((one.isnan() != two.isnan()).any()):
        return f"{int(one.isnan().sum())} NaNs in eager, {int(two.isnan().sum())} planned"
    apart = (one.double() - two.double()).abs().nan_to_num(0.0, 1.0)
    scale = one.double().abs().nan_to_num(0.0, 0.0, 0.0).max().clamp_min(1e-300)
    return f"bits differ (by {float(apart.max() / scale):.1e})" if bool(apart.any()) else "signs of zeros differ"
