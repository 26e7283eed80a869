"""What users tell of their operators reaches pins, FLOPs, rooflines and measurements."""

from collections.abc import Iterator

import pytest
import torch

import remat_planner
from remat_planner.tracer.costs.devices import device_named
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.measure import Measured, run_once, undisturbed, with_seconds
from remat_planner.tracer.costs.roofline import bytes_moved, roofline_seconds, roofline_workspace
from remat_planner.tracer.costs.rounds import LONG
from remat_planner.tracer.operators.behaviour import is_pure, pin_reason
from remat_planner.tracer.operators.facts import Roofline
from remat_planner.tracer.operators.op_call import OpCall
from remat_planner.tracer.operators.registry import UnknownOperatorError, facts_of, register_operator, unregister_operator
from tests.tracer.fake_calls import call_of

NAME = "operators_test::scaled_rows"
H100 = device_named("h100")


@torch.library.custom_op(NAME, mutates_args=())
def scaled_rows(x: torch.Tensor, index: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x[index] * scale


@scaled_rows.register_fake
def _(x: torch.Tensor, index: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x.new_empty(index.shape[0], x.shape[1])


@torch.library.custom_op("operators_test::zeroed", mutates_args=("x",))
def zeroed(x: torch.Tensor) -> None:
    x.zero_()


FUNC = torch.ops.operators_test.scaled_rows.default


def call() -> OpCall:
    return call_of(scaled_rows, torch.randn(50, 4), torch.zeros(300, dtype=torch.long), torch.randn(4))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for name in (NAME, "aten::topk", "aten::cumsum", "aten::embedding"):
        unregister_operator(name)


def test_an_operator_that_nobody_registered_may_not_run_twice():
    assert pin_reason(FUNC) == (
        "an operator that is not PyTorch's own (operators_test::scaled_rows): whether it may run twice is unknown"
    )
    assert not is_pure(FUNC)


def test_purity_and_pins():
    register_operator(NAME, pure=True)
    assert pin_reason(FUNC) is None
    assert is_pure(FUNC)
    register_operator(NAME, pure=False)
    assert "registered as not pure" in (pin_reason(FUNC) or "")
    assert not is_pure(FUNC)
    register_operator(NAME, pure=True, pinned="it chooses")
    assert pin_reason(FUNC) == "it chooses"
    assert is_pure(FUNC)
    register_operator(NAME, pinned="it sends")
    assert pin_reason(FUNC) == "it sends"
    assert not is_pure(FUNC)


def test_costs_alone_do_not_make_it_recomputable():
    register_operator(NAME, flops=lambda call: 1)
    assert "unknown" in (pin_reason(FUNC) or "")


def test_flops():
    assert flops(call()) == 0
    register_operator(NAME, flops=lambda call: 7 * call.argument("index").shape[0])
    assert flops(call()) == 2100


def test_rooflines():
    register_operator(
        NAME,
        flops=lambda _: 10**12,
        roofline=Roofline(bytes_moved=lambda _: 5 * 10**9, workspace=lambda call: call.argument("x").shape[0] * 8),
    )
    assert bytes_moved(call()) == 5 * 10**9
    assert roofline_workspace(call()) == 400
    assert roofline_seconds(call(), H100) == pytest.approx(1e12 / (0.7 * H100.rate(torch.float32)))
    register_operator(NAME, roofline=Roofline(bytes_moved=lambda _: 5 * 10**9, bandwidth_share=0.5))
    assert roofline_seconds(call(), H100) == pytest.approx(5e9 / (0.5 * 3.35e12))
    register_operator(NAME, flops=lambda _: 10**12, roofline=Roofline(rate_share=0.1))
    assert roofline_seconds(call(), H100) == pytest.approx(1e12 / (0.1 * H100.rate(torch.float32)))
    register_operator(NAME, roofline=Roofline(free=True))
    assert roofline_seconds(call(), H100) == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_of_the_peak_is_a_share(share):
    with pytest.raises(ValueError, match=r"Roofline\(rate_share=.*above 0 and at most 1"):
        Roofline(rate_share=share)


def test_sample_inputs():
    with undisturbed([]) as samples:
        (_, index, _), _ = samples.make(call())
        assert set(index.tolist()) == {0}
        register_operator(
            NAME, sample_inputs=lambda call: {"index": call.argument("x").shape[0], "scale": lambda flat: flat.fill_(3)}
        )
        (x, index, scale), _ = samples.make(call())
    assert 0 <= index.min() <= index.max() < 50
    assert len(set(index.tolist())) > 10
    assert scale.tolist() == [3, 3, 3, 3]
    assert 0.25 <= x.min() <= x.max() < 0.75


def test_sample_inputs_that_name_no_argument_say_so():
    register_operator(NAME, sample_inputs=lambda _: {"indices": 5})
    with undisturbed([]) as samples, pytest.raises(KeyError, match=r"no argument 'indices'.*Tensor index"):
        samples.make(call())


def test_a_call_is_measured_anew_on_new_sample_inputs(monkeypatch):
    indices = []

    def largest_index(call, samples):
        (_, index, _), _ = samples.make(call)
        indices.append(index.max().item())
        return Measured(seconds=LONG, workspace=0, allocates=(), results=())

    monkeypatch.setattr("remat_planner.tracer.costs.measure._run_on_cpu", largest_index)
    with undisturbed([]) as samples:
        for _ in range(2):
            with_seconds([(call(), run_once(call(), samples))], samples)
        register_operator(NAME, sample_inputs=lambda _: {"index": lambda flat: flat.fill_(49)})
        for _ in range(2):
            with_seconds([(call(), run_once(call(), samples))], samples)
    assert indices == [0, 49]


def test_a_registration_overrides_the_fields_that_it_names():
    topk = torch.ops.aten.topk.default
    register_operator("aten::topk", flops=lambda _: 3)
    assert "routing" in (pin_reason(topk) or "")
    assert facts_of(topk).flops is not None
    register_operator("aten::topk", pinned="mine")
    assert pin_reason(topk) == "mine"
    assert facts_of(topk).flops is None
    unregister_operator("aten::topk")
    assert "routing" in (pin_reason(topk) or "")
    unregister_operator("aten::topk")


def test_a_collective_stays_pinned_whatever_is_said_of_it():
    register_operator("_c10d_functional::all_reduce", pure=True)
    try:
        assert "collective" in (pin_reason(torch.ops._c10d_functional.all_reduce.default) or "")
    finally:
        unregister_operator("_c10d_functional::all_reduce")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("operators_test::absent", "no operator is called 'operators_test::absent': define it, or import the library"),
        ("nowhere::absent", "no operator is called 'nowhere::absent'"),
        ("aten::topk.default", "write it as 'namespace::name', without an overload"),
        ("topk", "write it as 'namespace::name'"),
        ("", "write it as 'namespace::name'"),
    ],
)
def test_a_name_that_no_operator_has(name, message):
    with pytest.raises(UnknownOperatorError, match=message) as refused:
        register_operator(name, pure=True)
    assert refused.value.name == name


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"says nothing about it: give at least one of pure, pinned, flops"):
        register_operator(NAME)
    with pytest.raises(ValueError, match="give the reason why each call must run exactly once"):
        register_operator(NAME, pinned=" ")
    with pytest.raises(ValueError, match=r"operators_test::zeroed.*writes into an argument"):
        register_operator("operators_test::zeroed", pure=True)
    assert "unknown" in (pin_reason(FUNC) or "")


def test_the_public_names_are_these():
    assert remat_planner.register_operator is register_operator
    assert remat_planner.unregister_operator is unregister_operator
    assert remat_planner.UnknownOperatorError is UnknownOperatorError
    assert remat_planner.Roofline is Roofline
    assert remat_planner.OpCall is OpCall
