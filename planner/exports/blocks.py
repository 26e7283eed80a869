"""The modules of a model that a checkpoint can wrap, and why it cannot wrap others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from remat_planner.planner.errors import ExportError
from remat_planner.planner.exports.result import Request
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.planning import repeated_blocks


def blocks_of(request: Request, form: str) -> list[str]:
    """Paths of the blocks that the step runs: the repeated ones, or else all that stand in lists.

    Raises:
        ExportError: the model has no blocks, or their forward has side effects.
    """
    blocks = [name for name in _trained_blocks(request.model) or _listed(request.model) if request.step.ops_of(name)]
    if not blocks:
        raise ExportError(
            f"{type(request.model).__name__} has no blocks to checkpoint, that is modules in a list (nn.ModuleList, or alike "
            "in an nn.Sequential): train with the schedule itself (remat_planner.apply_schedule)",
            form=form,
        )
    refuse_caches(request, blocks, form)
    return blocks


def _trained_blocks(model: nn.Module) -> list[str]:
    return [name for name, block in repeated_blocks(model).items() if any(p.requires_grad for p in block.parameters())]


def refuse_caches(request: Request, blocks: list[str], form: str) -> None:
    """Refuse a block that fills a cache of keys and values: its recomputation would append to the cache again.

    The step's graph does not show a cache, so the configuration of transformers' models decides.

    Raises:
        ExportError: a model is configured to fill one.
    """
    for name, module in request.model.named_modules():
        if getattr(getattr(module, "config", None), "use_cache", False):
            where = f"model.{name}" if name else "model"
            raise ExportError(
                f"{type(module).__name__} is configured to keep a cache of keys and values, which a checkpoint around "
                f"{merged_names(blocks)} would fill twice, for wrong gradients: set {where}.config.use_cache = False and "
                "plan again",
                form=form,
                names=tuple(blocks),
            )


def obstacle(request: Request, module: str) -> str | None:
    """Why a checkpoint around ``module`` would not give eager's step; None where it does."""
    step = request.step
    calls = step.joint.calls.get(module, 0)
    if calls != 1:
        return f"{module} is called {calls} times in a step, and a name tells its calls apart only if there is one"
    for i in step.ops_of(module):
        op = step.graph.ops[i]
        if op.pinned is not None:
            return f"{op.name} must run once ({op.pinned})"
        if step.node(i).meta["once"]:
            return f"{op.name} updates running statistics, and would do so twice"
        if "generator" in step.node(i).meta:
            return f"{op.name} draws from a torch.Generator of its own, which torch.utils.checkpoint does not set back"
    return None


def refuse_obstacles(request: Request, modules: list[str], form: str) -> None:
    """Refuse ``modules`` of which one cannot be checkpointed, for a form that offers no choice.

    Raises:
        ExportError: one cannot.
    """
    for module in modules:
        if (why := obstacle(request, module)) is not None:
            raise ExportError(
                f"{form} would run {module} again, but {why}: train with the schedule itself (remat_planner.apply_schedule), "
                "or export to another form",
                form=form,
                names=(module,),
            )


def parts_of(model: nn.Module, blocks: Sequence[str]) -> dict[str, list[str]]:
    """Paths of the blocks and of all modules inside them, by the name relative to the block: "" for the blocks themselves."""
    parts: dict[str, list[str]] = {}
    for block in blocks:
        for relative, _ in model.get_submodule(block).named_modules():
            parts.setdefault(relative, []).append(f"{block}.{relative}" if relative else block)
    return parts


def nothing_to_checkpoint(obstacles: Mapping[str, str | None], blocks: Sequence[str], form: str) -> ExportError:
    """The error for a model of which no block, nor a part of one, can be wrapped; ``obstacles`` says why, by path."""
    reason = next((why for block in blocks if (why := obstacles[block])), "none of them holds anything for the backward")
    return ExportError(
        f"no module can be checkpointed: {reason}. Train with the schedule itself (remat_planner.apply_schedule)",
        form=form,
        names=tuple(blocks),
    )


def left_out(obstacles: Mapping[str, str | None], blocks: Sequence[str]) -> list[str]:
    """A note on the blocks that cannot be wrapped whole, if any."""
    out = [block for block in blocks if obstacles[block] is not None]
    return [f"blocks that are not wrapped whole: {merged_names(out)}, as {obstacles[out[0]]}"] if out else []


def _listed(model: nn.Module) -> list[str]:
    """The outermost modules that stand in an ``nn.ModuleList``."""
    listed: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in listed):
            listed += [f"{name}.{child}" if name else child for child, _ in module.named_children()]
    return listed
