"""Lightning: a callback that plans a module of the LightningModule at the first batch, in the trainer's precision.

python examples/training/with_lightning.py
"""

import tempfile
from collections.abc import Callable
from typing import Any

import lightning
import torch
from _checked import Checked, check
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner


class Planned(lightning.Callback):
    """Trains ``module.<name>`` within ``budget``.

    ``inputs(batch)`` are the arguments that the training step calls it with, ``loss(output, batch)`` is what becomes of its
    output.
    """

    def __init__(self, name: str, budget: int | str, inputs: Callable[[Any], tuple], loss: Callable[[Any, Any], torch.Tensor]):
        self.name, self.budget, self.inputs, self.loss = name, budget, inputs, loss
        self.schedule: remat_planner.Schedule | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, _: int) -> None:
        if self.schedule is None:
            inner = module.get_submodule(self.name)
            with trainer.precision_plugin.forward_context():
                self.schedule = remat_planner.plan(
                    inner, self.inputs(batch), loss=lambda output: self.loss(output, batch), budget=self.budget, time_limit=5
                )
            module.set_submodule(self.name, remat_planner.apply_schedule(inner, self.schedule))


class Classifier(lightning.LightningModule):
    """A LightningModule as one writes it; nothing in it knows about the plan."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64)) for _ in range(4)]
        self.net = nn.Sequential(*blocks, nn.Linear(64, 10))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        inputs, labels = batch
        self.log("validation", cross_entropy(self.net(inputs), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(callbacks: list[lightning.Callback]) -> Classifier:
    torch.manual_seed(0)
    model = Classifier()
    data = torch.utils.data.TensorDataset(torch.randn(2048, 64), torch.randint(10, (2048,)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            precision="bf16-mixed",
            gradient_clip_val=1.0,
            accumulate_grad_batches=2,
            callbacks=callbacks,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(data, batch_size=512)
        trainer.fit(model, loader, loader)
    return model


def main() -> Checked:
    planned = Planned(
        "net", "80%", inputs=lambda batch: (batch[0],), loss=lambda output, batch: cross_entropy(output, batch[1])
    )
    eager, model = train([]), train([planned])
    assert planned.schedule is not None
    inputs, labels = torch.randn(512, 64), torch.randint(10, (512,))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):  # as Lightning does
            loss = cross_entropy(model.net.train()(inputs), labels)
        loss.backward()

    return check(eager, model, planned.schedule, step)


if __name__ == "__main__":
    main()
