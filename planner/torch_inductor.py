"""The private names of PyTorch around inductor's partitioner.

``tests/planner/partition/test_torch_inductor.py`` tries each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx

__all__ = [
    "compiled_frame",
    "compiled_with",
    "convolves_images",
    "divided",
    "error_within",
    "given_bytes",
    "merged",
    "most_compilations",
    "outside_tracing",
    "overwritten_inputs",
    "partitioner_missing",
]

Partition = Callable[[fx.GraphModule, int, Sequence[int]], tuple[fx.GraphModule, fx.GraphModule]]
"""(joint graph, number of forward results, positions of parameters and buffers among its inputs) -> forward and backward."""


def partitioner_missing() -> str:
    """Why this release of PyTorch lets no other partitioner into inductor; "" where it does."""
    try:
        from torch._inductor import config
        from torch._inductor.custom_graph_pass import CustomPartitionerFn  # noqa: F401
    except ImportError as error:
        return str(error)
    return "" if hasattr(config, "custom_partitioner_fn") else "torch._inductor.config has no custom_partitioner_fn"


def compiled_with(partition: Partition, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """Compile a graph that Dynamo captured as ``torch.compile`` does, with ``partition`` in the place of its partitioner."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.custom_graph_pass import CustomPartitionerFn

    def call(_self: object, gm: fx.GraphModule, _inputs: Sequence[object], **settings: Any) -> Any:
        return partition(gm, settings["num_fwd_outputs"], settings.get("static_lifetime_input_indices") or ())

    members = {"__call__": call, "uuid": lambda _self: None}  # no cache: a partition from there would come without its figures
    partitioner = type("Partitioner", (CustomPartitionerFn,), members)()
    # The partition cannot be part of a cache's key, so the caches of whole graphs are left out; those of kernels stay.
    # Inductor keeps a buffer for a later one of its size where its own estimate of the peak allows it. That estimate leaves out
    # what was saved for the backward, so the real peak would rise.
    patches = {
        "custom_partitioner_fn": partitioner,
        "fx_graph_cache": False,
        "fx_graph_remote_cache": False,
        "allow_buffer_reuse": False,
    }

    def compile_graph(graph: fx.GraphModule, *args: Any, **settings: Any) -> Any:
        # Before any convolution inductor lays four-dimensional tensors out in channels_last. That means nothing to one over a
        # line, and makes the loops before it five times slower.
        with config.patch(layout_optimization=config.layout_optimization and convolves_images(graph)):
            return compile_fx_inner(graph, *args, **settings)

    return compile_fx(module, inputs, inner_compile=compile_graph, config_patches=patches)


def convolves_images(module: fx.GraphModule) -> bool:
    """Whether a graph of operators has a convolution over two or more dimensions."""
    found = module.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
    return any(node.all_input_nodes[0].meta["val"].dim() > 3 for node in found)


def given_bytes(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[int, tuple[int, Any]]:
    """Bytes of the memory of the leaves among the ``inputs`` of a graph that Dynamo captured.

    For each memory, by its key: those that it has now, and those of the fake in the graph, which may depend on sizes.
    """
    found = {}
    for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if isinstance(value, torch.Tensor) and value.is_leaf:
            storage, fake = value.untyped_storage(), node.meta.get("example_value", value)
            found[storage._cdata] = storage.nbytes(), fake.untyped_storage().nbytes()
    return found


def overwritten_inputs(joint: fx.Graph) -> tuple[int, ...]:
    """Positions of the inputs of a joint graph that the caller of its forward overwrites after it, as running statistics."""
    results = joint.output_node().meta.get("desc") or ()
    overwritten = [result.mutated_input for result in results if hasattr(result, "mutated_input")]
    descriptions = [node.meta.get("desc") for node in joint.find_nodes(op="placeholder")]
    return tuple(k for k, description in enumerate(descriptions) if description is not None and description in overwritten)


def compiled_frame() -> tuple[int, int]:
    """Which function ``torch.compile`` is compiling, and the how manieth compilation of it this is."""
    compiling = torch._guards.CompileContext.current_compile_id()
    if compiling is None or compiling.frame_id is None:
        return 0, 0
    return compiling.frame_id, compiling.frame_compile_id or 0


def most_compilations() -> int:
    """How often ``torch.compile`` compiles the function that it is compiling; for further inputs it runs it as it is."""
    return int(torch._dynamo.config.recompile_limit)


def error_within(error: Exception) -> Exception:
    """The error of a backend that ``torch.compile`` has wrapped in one of its own; others as they are."""
    from torch._dynamo.exc import BackendCompilerFailed

    return error.inner_exception if isinstance(error, BackendCompilerFailed) else error


def outside_tracing() -> AbstractContextManager[Any]:
    """A context in which operators run on real tensors while a graph is traced or partitioned."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    return unset_fake_temporarily()


def merged(joint: fx.GraphModule) -> None:
    """Compute what the joint graph computes twice only once, as ``torch.compile`` does."""
    from torch._functorch.compile_utils import fx_graph_cse

    joint.graph.eliminate_dead_code()
    joint.graph = fx_graph_cse(joint.graph)
    joint.recompile()


def divided(
    joint: fx.GraphModule,
    saved: Sequence[fx.Node],
    numbers: Sequence[fx.Node],
    forward_results: int,
    static: Sequence[int],
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Forward and backward of ``joint``. The forward returns ``saved`` to the backward, which recomputes all else late.

    It also returns those of ``numbers``, which depend on sizes, that the backward reads.
    """
    from torch._functorch import partitioners
    from torch._functorch.partitioners import raise_getitems  # type: ignore[attr-defined]

    primals = [node for node in joint.graph.nodes if node.op == "placeholder" and str(node.target).startswith("primals")]
    forward, backward = partitioners._extract_fwd_bwd_modules(
        joint,
        list(saved),
        list(numbers),
        num_fwd_outputs=forward_results,
        static_lifetime_input_nodes=torch.utils._ordered_set.OrderedSet(primals[k] for k in static),
    )
    backward = partitioners.reordering_to_mimic_autograd_engine(backward)
    return raise_getitems(forward), raise_getitems(backward)
