"""Each name of PyTorch that is not public, apart: the test that fails says what a release has moved, and what it was for."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from remat_planner.planner import torch_private as planner_private
from remat_planner.tracer import torch_private as private


def test_fake_mode_gives_shapes_without_values():
    mode = private.new_fake_mode()
    fake = private.to_fake(mode, torch.arange(6.0).view(2, 3).t())
    assert private.is_fake(fake)
    assert (fake.shape, fake.stride()) == ((3, 2), (1, 3))
    assert private.to_fake(mode, fake) is fake
    with pytest.raises(private.DataDependentOutputException):
        fake.sum().item()
    with pytest.raises(private.DynamicOutputShapeException):
        fake.nonzero()


def test_fake_mode_takes_real_tensors_along():
    mode = private.new_fake_mode()
    with mode:
        assert private.is_fake(private.to_fake(mode, torch.ones(2)) + torch.ones(2))


def test_a_callers_fake_mode_is_found_and_made_to_take_real_tensors_along():
    mode = private.FakeTensorMode()
    with mode:
        fake = torch.ones(2)
    assert private.fake_mode_of([torch.ones(1), fake]) is mode
    assert private.fake_mode_of([torch.ones(1)]) is None
    with private.accepting_real_tensors(mode), mode:
        assert private.is_fake(fake + torch.ones(2))
    assert mode.allow_non_fake_inputs is False


def test_modes_can_be_left_for_a_real_computation():
    mode = private.new_fake_mode()
    with mode, private.without_modes():
        assert torch.ones(2).sum().item() == 2.0


def test_sequence_numbers_join_forward_and_backward():
    numbers: dict[str, int | None] = {}

    class Mode(private.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func)
            numbers[name] = private.backward_sequence_number() if "backward" in name else private.forward_sequence_number()
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, requires_grad=True)
    with Mode():
        y = x.tanh()
        z = y.sigmoid()
        z.sum().backward()
    assert numbers["aten.tanh.default"] == numbers["aten.tanh_backward.default"]
    assert numbers["aten.sigmoid.default"] == numbers["aten.sigmoid_backward.default"]
    assert numbers["aten.tanh.default"] != numbers["aten.sigmoid.default"]
    assert private.backward_sequence_number() is None


def test_a_node_has_the_number_of_the_backward_that_it_runs():
    running: list[int | None] = []

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            running.append(private.backward_sequence_number())
            return gradient * 2

    y = Noting.apply(torch.ones(2, requires_grad=True))
    z = y.tanh()
    numbers = [private.sequence_number(tensor.grad_fn) for tensor in (y, z)]
    z.sum().backward()
    assert running == numbers[:1]
    assert numbers[0] < numbers[1]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("preserve", [False, True])
def test_a_checkpoint_that_sets_the_generator_back_is_seen(reentrant: bool, preserve: bool):
    seen = []

    def block(x: torch.Tensor) -> torch.Tensor:
        seen.append(private.in_checkpoint_replaying_draws())
        assert private.in_checkpoint()
        return F.dropout(x.tanh())

    x = torch.ones(2, requires_grad=True)
    checkpoint(block, x, use_reentrant=reentrant, preserve_rng_state=preserve).sum().backward()
    assert seen[-1] is preserve
    assert private.in_checkpoint_replaying_draws() is False
    assert private.in_checkpoint() is False


def test_errors_of_fake_tensors_are_not_logged(caplog: pytest.LogCaptureFixture):
    mode = private.new_fake_mode()
    a, b = private.to_fake(mode, torch.ones(2, 3)), private.to_fake(mode, torch.ones(4, 5))
    with private.errors_not_logged(), pytest.raises(RuntimeError):
        a @ b
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_what_fake_tensors_say_when_their_values_are_asked_for():
    fake = private.to_fake(private.new_fake_mode(), torch.ones(2, dtype=torch.int64))
    in_a_list = [torch.tensor(1), fake[0]]
    for read in (fake.numpy, fake.untyped_storage().tolist, lambda: torch.LongTensor(in_a_list)):
        with pytest.raises(RuntimeError) as caught:
            read()
        assert any(text in str(caught.value) for text in private.READS_OF_FAKES)


def test_fakes_multiply_groups_of_matrices_in_every_dtype_that_the_cpu_does():
    experts, tokens, ends = torch.ones(2, 8, 16), torch.ones(6, 8), torch.tensor([2, 6], dtype=torch.int32)
    mode = private.new_fake_mode()
    with private.grouped_products_of_any_dtype(), mode:
        fakes = [private.to_fake(mode, t) for t in (tokens, experts, ends)]
        fake = torch._grouped_mm(fakes[0], fakes[1], offs=fakes[2])
    real = torch._grouped_mm(tokens, experts, offs=ends)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_views_share_the_key_of_their_storage():
    x = torch.ones(4)
    assert private.storage_key(x) == private.storage_key(x.view(2, 2)) != private.storage_key(x.clone())


def test_backwards_can_be_kept_in_one_thread():
    with private.single_threaded_backward():
        torch.ones(1, requires_grad=True).tanh().backward()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_autocast_asks_for_a_gpu():
    asked = []
    with private.autocast_asks_for_gpu(lambda: asked.append(1)):
        torch.autocast("cpu")
        torch.autocast("cuda", enabled=False)
        assert not asked
        with pytest.warns(UserWarning, match="Disabling autocast"):
            torch.autocast("cuda")
    assert asked == [1]


def test_truncated_normals_of_fakes_are_not_drawn():
    """2.13 draws again until all values are in range, which a fake cannot say."""
    with private.new_fake_mode(), private.truncated_normals_not_drawn():
        assert private.is_fake(torch.nn.init.trunc_normal_(torch.empty(4)))
    with private.truncated_normals_not_drawn():
        assert torch.nn.init.trunc_normal_(torch.full((100,), 9.0)).abs().max() <= 2


def test_new_fakes_may_have_no_address():
    mode = private.new_fake_mode()
    with private.without_addresses(mode):
        fake = private.to_fake(mode, torch.ones(2))
        views = (fake, fake.detach(), fake[1:])
    for tensor in views:
        with pytest.raises(RuntimeError, match="data pointer"):
            tensor.data_ptr()
        with pytest.raises(RuntimeError, match="data pointer"):
            tensor.untyped_storage().data_ptr()
    assert private.storage_key(views[1]) == private.storage_key(fake)


def test_operators_without_a_fake_say_so():
    @torch.library.custom_op("tests_private::without_fake", mutates_args=())
    def without_fake(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    mode = private.new_fake_mode()
    with pytest.raises(RuntimeError) as caught:
        without_fake(private.to_fake(mode, torch.ones(2)))
    assert private.lacks_fake(caught.value)
    library = torch.library.Library("tests_private", "FRAGMENT")
    library.define("in_cpp(Tensor x) -> Tensor")
    library.impl("in_cpp", lambda x: x.sin(), "CPU")
    with pytest.raises(RuntimeError) as caught:
        torch.ops.tests_private.in_cpp(private.to_fake(mode, torch.ones(2)))
    assert private.lacks_fake(caught.value)
    assert not private.lacks_fake(RuntimeError("another"))
    fake = private.to_fake(mode, torch.ones(2))
    with private.fakes_by_example(mode, lambda func, args, kwargs: args[0].new_empty(3)):
        assert without_fake(fake).shape == (3,)
        assert (fake + fake).shape == (2,)
    with pytest.raises(RuntimeError):
        without_fake(fake)


def test_negated_views_are_marked():
    view = private.negated(torch.ones(2))
    assert view.is_neg()
    assert view.sum() == -2


def test_a_generator_is_known_again_in_a_dispatch_mode():
    seen: list[int] = []

    class Mode(private.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(private.generator_key(kwargs["generator"]))
            return func(*args, **kwargs)

    own = torch.Generator()
    with Mode():
        torch.rand(2, generator=own)
        torch.rand(2, generator=torch.default_generator)
    assert seen == [private.generator_key(own), private.generator_key(torch.default_generator)]
    assert private.generator_key(torch.Generator()) != private.generator_key(own)


def test_an_autograd_node_has_the_number_of_its_forward():
    weight = torch.ones(2, requires_grad=True)
    first = weight * 2
    second = first * 2
    assert private.sequence_number(second.grad_fn) == private.sequence_number(first.grad_fn) + 1


def test_active_modes_are_known():
    assert not private.modes_active()
    with private.new_fake_mode():
        assert private.modes_active()
    with private.new_fake_mode(), private.without_modes():
        assert not private.modes_active()


def test_every_name_is_tried():
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_torch_*.py"))
    assert [name for name in private.__all__ if f"private.{name}" not in source] == []


def test_compiled_modules_are_told_from_others():
    plain = torch.nn.Linear(2, 2)
    assert private.compiled_by(plain) is None
    assert private.compiled_by(torch.compile(plain, backend="eager")) == "torch.compile(module)"
    assert private.compiled_by(plain) is None
    plain.forward = torch.compiler.disable(plain.forward)
    assert private.compiled_by(plain) is None
    plain.forward = torch.compile(torch.nn.Linear(2, 2).forward, backend="eager")
    assert private.compiled_by(plain) == "a compiled forward"
    in_place = torch.nn.Linear(2, 2)
    in_place.compile(backend="eager")
    assert private.compiled_by(in_place) == "module.compile()"


@pytest.mark.slow
def test_inductor_says_what_it_has_code_for():
    aten = torch.ops.aten
    for operator in (aten.addmm.default, aten.tanh_backward.default, aten.native_layer_norm.default, aten.gelu.default):
        assert planner_private.inductor_supports(operator), operator
    assert not planner_private.inductor_supports(aten._scaled_dot_product_flash_attention_for_cpu.default)
    assert not planner_private.inductor_supports(aten.mkldnn_rnn_layer_backward.default)


def test_forms_are_compared_in_one_call_and_no_tensor_is_kept_alive() -> None:
    kept, tensors = torch.ones(2, 3), [torch.ones(2, 3), torch.nn.Parameter(torch.ones(4))]
    alike = private.form_check(tensors)
    others = [kept, torch.nn.Parameter(torch.zeros(4))]
    assert alike(others)
    assert not alike([kept.t().contiguous().t(), others[1]])
    assert not alike([kept.double(), others[1]])
    assert not alike([kept, torch.zeros(4, requires_grad=True)])
    with torch.no_grad():
        assert alike(others)
    memory = weakref.ref(tensors[0])
    tensors.clear()
    assert memory() is None
    assert private.form_check(())([])


def test_an_active_fake_mode_runs_operators_on_the_fake_in_use():
    mode, table = private.new_fake_mode(), torch.randn(8, 4)
    assert private.fake_in_use(table) is table
    with mode:
        fake = private.fake_in_use(table)
        assert private.storage_key(table[:2]) == private.storage_key(fake) != private.storage_key(table)


def test_fakes_forget_their_originals():
    mode, original = private.new_fake_mode(), torch.ones(2)
    fake = private.to_fake(mode, original)
    assert weakref.getweakrefs(original)
    private.forget_originals(mode)
    assert not weakref.getweakrefs(original)
    assert private.is_fake(fake + 1)
