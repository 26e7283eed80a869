"""In-place operators on slices, as pure functions: eager's bits, in not much more memory than the values take."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer import capture
from remat_planner.tracer.passes.in_place_on_strided import in_layout, with_narrow_gaps
from tests.tracer.cases import Written, linear, mean_square, noise

aten = torch.ops.aten
OPERATORS = (aten.sigmoid_, aten.tanh_, aten.exp_, aten.log_, aten.erf_, aten.rsqrt_, aten.silu_, aten.gelu_, aten.expm1_)
SLICES = {
    "gates of a short row": ((9, 64), lambda t: t[:, 16:32]),
    "gates of an odd row": ((33, 52), lambda t: t[:, 13:26]),
    "columns": ((48, 33), lambda t: t.t()[:7]),
    "every other element": ((5, 66), lambda t: t[:, ::2]),
    "a corner": ((6, 20, 34), lambda t: t[:, 2:5, :17]),
    "the middle of an image": ((2, 3, 19, 35), lambda t: t[..., 1:-1, 1:-1]),
    "channels of channels last": ((2, 7, 5, 48), lambda t: t.permute(0, 3, 1, 2)[:, 3:20]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SLICES)
def test_a_slice_written_in_place_has_eagers_bits_between_narrow_gaps(name: str, dtype: torch.dtype):
    shape, cut = SLICES[name]
    torch.manual_seed(0)
    for packet in OPERATORS:
        eager = cut(torch.rand(shape).to(dtype))
        stride = with_narrow_gaps(eager, packet.default)
        ours = in_layout(packet.default)(eager.contiguous(), eager.shape, stride)
        assert torch.equal(ours, packet(eager)), packet
        assert ours.stride() == stride != ours.contiguous().stride(), "a dense tensor would be walked through as one row"
        assert all(new <= old for new, old in zip(stride, eager.stride(), strict=True))


def test_an_operator_that_looks_at_more_than_its_elements_keeps_the_layout():
    tensor = torch.empty(9, 512)[:, :16]
    assert with_narrow_gaps(tensor, aten.cumsum_.default) == tensor.stride()
    assert with_narrow_gaps(tensor, aten.tanh_.default) == (32, 1)


def test_wide_rows_have_gaps_of_a_line_at_most():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        gates = m.a(x)
        gates[:, :512].sigmoid_()
        return mean_square(gates)

    joint = capture(Written(forward, a=linear(16, 1024)), (noise(8, 16),))
    made = [node.meta["val"] for node in joint.ops if str(node.target.__name__).endswith("in_layout")]
    assert [tensor.stride() for tensor in made] == [(512 + 16, 1)]
