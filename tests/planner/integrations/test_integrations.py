"""A budget inside of other trainers: eager's parameters, and a step within the budget."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from remat_planner import TransformError, integrations
from remat_planner.planner.runtime import call_of, is_planned_module

OPTIONS = {"time_limit": 2, "verify": False}


def _net() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 16)) for _ in range(2)]
    return nn.Sequential(*blocks, nn.Linear(16, 10))


def _data(number: int) -> torch.utils.data.TensorDataset:
    torch.manual_seed(1)
    return torch.utils.data.TensorDataset(torch.randn(number, 16), torch.randint(10, (number,)))


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.slow
def test_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        num_hidden_layers=1, hidden_size=16, intermediate_size=32, num_attention_heads=2, vocab_size=64, use_cache=False
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    eager = copy.deepcopy(model)
    rows = torch.randint(64, (8, 32)).tolist()
    used: list[Any] = []

    class Looks(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
            used.append(vars(model).get("forward"))

    def train(model: nn.Module, callbacks: list[Any]) -> None:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=2,
            seed=3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()

    budget = integrations.TrainerBudget("75%", **OPTIONS)
    train(eager, [])
    train(model, [budget, Looks()])
    assert _same(model, eager)
    assert all(used)
    assert "forward" not in vars(model) or vars(model)["forward"] not in used


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = _net()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    planned: list[bool] = []

    class Looks(lightning.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            planned.append(is_planned_module(module.net))

    def train(callbacks: list[Any]) -> nn.Module:
        module = Classifier()
        torch.manual_seed(2)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=callbacks, default_root_dir=str(tmp_path), **quiet
        )
        trainer.fit(module, torch.utils.data.DataLoader(_data(192), batch_size=64))
        return module

    assert _same(train([integrations.LightningBudget("net", "80%", **OPTIONS), Looks()]), train([]))
    assert planned == [True, True, True]


@pytest.mark.slow
def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(2)
        for _ in range(3):
            inputs, labels = _data(64).tensors
            accelerator.backward(cross_entropy(model(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()

    eager, net = _net(), _net()
    train(*accelerator.prepare(eager, torch.optim.SGD(eager.parameters(), lr=0.1)))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    model, optimizer = integrations.prepare(accelerator, net, sgd, budget="80%", **OPTIONS)
    train(model, optimizer)
    assert _same(net, eager)
    assert call_of(model).schedule.budget > 0


def test_a_sharding_accelerator_is_refused() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from accelerate.utils import DistributedType

    class Sharding:
        distributed_type = DistributedType.FSDP

    with pytest.raises(TransformError, match="prepare the model first, and plan it by regions"):
        integrations.prepare(Sharding(), _net(), budget="80%")  # type: ignore[arg-type]
