"""The checkpointing of every n-th layer that Hugging Face transformers does itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from remat_planner.planner.errors import ExportError
from remat_planner.planner.exports.blocks import refuse_caches, refuse_obstacles
from remat_planner.planner.exports.result import Export, Request, Trial, answer, best

FORM = "transformers"


def export_transformers(request: Request) -> Export:
    """The largest n that fits, or no checkpointing.

    Raises:
        ExportError: the model is not one of transformers, or has no layers that transformers checkpoints; the installed version
            lacks ``every_n_layers``; a layer must not run twice.
    """
    layers = _layers(request)
    refuse_caches(request, layers, FORM)
    step = request.step
    trials = [Trial({"activation_checkpointing": False}, step.cost())]
    if trials[0].cost.peak_bytes > request.budget:
        refuse_obstacles(request, layers, FORM)
        for n in range(1, len(layers) + 1):
            setting = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": n}}
            trials.append(Trial(setting, step.cost([step.region(layer) for layer in layers[::n]])))
    chosen = best(trials, request.budget)
    return answer(request, FORM, chosen, _code(chosen, layers))


def _layers(request: Request) -> list[str]:
    """The layers that transformers counts, in its order."""
    model = request.model
    try:
        from transformers import PreTrainedModel
        from transformers.modeling_layers import GradientCheckpointingLayer
    except ImportError as error:
        raise ExportError(f"transformers cannot be imported here ({error}): install it", form=FORM) from error
    if not isinstance(model, PreTrainedModel):
        raise ExportError(
            f"{type(model).__name__} is not a model of transformers, whose setting this is: export to modules or sac",
            form=FORM,
        )
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None or "every_n_layers" not in inspect.signature(enable).parameters:
        from transformers import __version__

        raise ExportError(
            f"transformers {__version__} has no every_n_layers (activation_checkpointing_enable of 5.23 has): upgrade it, or "
            "export to modules",
            form=FORM,
        )
    layers = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    flagged = [name for name, module in model.named_modules() if hasattr(module, "gradient_checkpointing")]
    others = _checkpointing_themselves(request, flagged, layers)
    if not model.supports_gradient_checkpointing or not layers or others:
        raise ExportError(
            f"{type(model).__name__} has no layers that transformers checkpoints one by one: export to modules or sac",
            form=FORM,
            names=tuple(others),
        )
    return layers


def _checkpointing_themselves(request: Request, flagged: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Modules other than layers whose code calls the checkpoint function: the layers do not show what these recompute."""
    model = request.model
    sources = {name: inspect.getsource(type(model.get_submodule(name))) for name in flagged if name not in layers}
    return [name for name, source in sources.items() if "_gradient_checkpointing_func(" in source]


def _code(chosen: Trial, layers: Sequence[str]) -> str:
    if not chosen.setting["activation_checkpointing"]:
        return "# the step fits without activation checkpointing: leave it off\n"
    n = chosen.setting["activation_checkpointing_kwargs"]["every_n_layers"]
    return (
        f"# {len(layers[::n])} of {len(layers)} layers. For the Trainer:\n"
        f'#   TrainingArguments(activation_checkpointing=True, activation_checkpointing_kwargs={{"every_n_layers": {n}}})\n'
        "\n"
        "\n"
        "def wrap(model):\n"
        '    """Checkpoint the layers, in place."""\n'
        f"    model.activation_checkpointing_enable(every_n_layers={n})\n"
    )
