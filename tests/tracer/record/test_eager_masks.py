"""Transformers stays on its eager path: one of its names is patched during a capture."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from remat_planner.tracer import capture
from remat_planner.tracer.joint.graph import Joint
from remat_planner.tracer.record.eager_masks import libraries_believe_eager
from remat_planner.tracer.torch_private import new_fake_mode, to_fake
from tests.zoo import ZOO, Case


def test_the_patched_name_exists_and_is_restored():
    utilities = pytest.importorskip("transformers.utils.import_utils")
    fake = to_fake(new_fake_mode(), torch.ones(2))
    original = utilities.is_fake_tensor
    assert utilities.is_tracing(fake)
    with libraries_believe_eager():
        assert not utilities.is_tracing(fake)
    assert utilities.is_fake_tensor is original


def test_nothing_is_patched_without_transformers_or_without_the_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers.utils.import_utils", ModuleType("older"))
    with libraries_believe_eager():
        assert not hasattr(sys.modules["transformers.utils.import_utils"], "is_fake_tensor")
    monkeypatch.delitem(sys.modules, "transformers.utils.import_utils")
    with libraries_believe_eager():
        assert "transformers.utils.import_utils" not in sys.modules


def attention_calls(joint: Joint) -> list[tuple[bool, bool]]:
    """(is_causal, has a mask) of each fused attention in the forward."""
    found = []
    for node in joint.ops:
        if str(node.target) == "aten._scaled_dot_product_flash_attention_for_cpu.default":
            causal = node.args[4] if len(node.args) > 4 else node.kwargs.get("is_causal", False)
            found.append((bool(causal), node.kwargs.get("attn_mask") is not None))
    return found


def without_dropout(case: Case) -> Case:
    """Attention with dropout has no fused kernel on a CPU."""
    for module in case.model.modules():
        for name in ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return case


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", [(True, False)] * 2),
        ("llama", [(True, False)] * 2),
        ("bert", [(False, False)] * 2),
        ("whisper", [(False, False), (True, False), (False, False)]),  # encoder, decoder on itself, decoder on the encoder
        ("llama_padded", [(False, True)] * 2),
    ],
)
def test_attention_is_called_as_eager_calls_it(name: str, expected: list[tuple[bool, bool]]):
    torch.manual_seed(0)
    case = without_dropout(ZOO[name]())
    assert attention_calls(capture(case.model, case.args, case.kwargs, loss=case.loss)) == expected
