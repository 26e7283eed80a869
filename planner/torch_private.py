"""All private names of torch that the planner uses.

A PyTorch release that moves one of them breaks this file and no other.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import Node
from torch.fx import graph_module as graph_modules
from torch.fx.experimental.proxy_tensor import make_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import optimizer as optimizers
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode


def below_autograd() -> AbstractContextManager[None]:
    """A context in which operators skip autograd's layer. It would record nothing; in-place ops still bump version counters."""
    return torch._C._AutoDispatchBelowAutograd()


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without its support for ``torch.func`` transforms, in half the time. Not for use inside of one."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def function_behind(node: object) -> type[torch.autograd.Function] | None:
    """The custom function whose backward the autograd node runs; None for the node of an operator."""
    return getattr(node, "_forward_cls", None)


def inside_transform() -> bool:
    """Whether the caller runs inside of a ``torch.func`` transform (``grad``, ``vmap``, ...)."""
    return torch._C._are_functorch_transforms_active()


def stands_for_many(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a batch of tensors to code inside of ``vmap``, or of ``torch.autograd.grad`` for many gradients."""
    return torch._C._functorch.is_batchedtensor(tensor) or torch._C._functorch.is_legacy_batchedtensor(tensor)


def coordinates_and_values(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The entries of a sparse COO tensor as they are, those of one place not yet summed."""
    return tensor._indices(), tensor._values()


def runs_hooks(parameter: torch.Tensor) -> bool:
    """Whether a backward runs hooks for the gradient of ``parameter`` besides the project's: an optimizer may step there."""
    hooks = [hook for of in (parameter._backward_hooks, parameter._post_accumulate_grad_hooks) for hook in (of or {}).values()]
    return any(str(getattr(hook, "__module__", "")).partition(".")[0] != "remat_planner" for hook in hooks)


def version_of(tensor: torch.Tensor) -> int | None:
    """How often ``tensor`` was changed in place, as a backward compares what it saved; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version


def set_version(tensor: torch.Tensor, version: int) -> None:
    """Let ``tensor`` count as changed in place ``version`` times: for changes that were undone, bit by bit."""
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def forget_removed_hooks(tensor: torch.Tensor) -> None:
    """Have backwards pass by the hooks of ``tensor`` where all of them are removed: they would go on asking for its hooks."""
    if tensor._backward_hooks is not None and not tensor._backward_hooks:
        tensor._backward_hooks = None


def forget_source_with(module: fx.GraphModule) -> None:
    """Free the source text of the generated code of ``module`` with it: torch.fx keeps each for good, for tracebacks."""
    weakref.finalize(module, _forget_source, module.forward.__code__.co_filename)


def _forget_source(key: str) -> None:
    graph_modules._loader.eval_cache.pop(key, None)
    linecache.cache.pop(key, None)


def graph_is_kept() -> bool:
    """Whether the running backward was called with ``retain_graph=True``."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_run_by_backward(node: Node) -> bool:
    """Whether the running backward calls ``node``, or returns the gradient that arrives there."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf whose gradient torch.autograd.grad returns
        return True


def current_backward() -> int:
    """Number of the running backward; -1 outside of one."""
    return torch._C._current_graph_task_id()


def binding_modules() -> tuple[object, ...]:
    """The modules that hold the generated Python bindings of operators."""
    return torch, torch._C._nn, torch._C._linalg, torch._C._fft, torch._C._special  # type: ignore[attr-defined]


def is_view_operator(target: object) -> bool:
    """Whether ``target`` is an operator whose results alias its arguments and which writes nothing."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    returns = target._schema.returns
    return bool(returns) and not target._schema.is_mutable and all(r.alias_info is not None for r in returns)


def writes_to_argument(node: fx.Node, position: int) -> bool:
    """Whether the node's operator changes its argument at ``position`` in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    info = arguments[position].alias_info if position < len(arguments) else None
    return info is not None and info.is_write


@contextmanager
def meta_optimized_as(device: str) -> Iterator[None]:
    """A context in which ``torch.optim`` treats parameters on the meta device as if they were on ``device``."""
    names = ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices")
    originals = {name: getattr(optimizers, name) for name in names}
    for name, original in originals.items():
        supported = original()
        setattr(optimizers, name, lambda s=supported: [*s, *(["meta"] if device in s else [])])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(optimizers, name, original)


def inductor_supports(operator: torch._ops.OpOverload) -> bool:
    """Whether inductor generates code for an operator, instead of calling its kernel."""
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.lowering import fallbacks, lowerings

    if operator in select_decomp_table():
        return True
    return operator in lowerings and operator not in fallbacks


def inductor_missing(device: torch.device) -> str:
    """What inductor needs to compile for ``device`` and this machine lacks; "" where it lacks nothing."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "a C++ compiler (install g++, or name one in CXX)"
        return ""
    return "" if has_triton() else "Triton (pip install triton)"


def compiled_by_inductor(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[[list[Any]], Any]:
    """Inductor's code for a graph of operators: it takes a list of tensors, which it empties, and returns a sequence.

    ``inputs`` are fake tensors. The results have the strides of the fake tensors in ``meta["val"]`` of the graph's results.
    ``module`` is changed.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.inductor_prims import force_stride_order

    graph = module.graph
    for node in graph.nodes:
        if node.target is torch.ops.aten.view.default:
            # A decomposed operator may return other strides, and a view of these may be impossible.
            node.target = torch.ops.aten.reshape.default
    output = graph.output_node()
    with graph.inserting_before(output):
        output.args = fx.node.map_arg(
            output.args,
            lambda node: (
                node if node.op == "placeholder" else graph.call_function(force_stride_order, (node, node.meta["val"].stride()))
            ),
        )
    module.recompile()
    mode = next((tensor.fake_mode for tensor in inputs if isinstance(tensor, FakeTensor)), None) or FakeTensorMode()
    with config.patch(fallback_random=True):  # random draws are eager's
        with mode, torch.no_grad():
            traced = make_fx(module, decomposition_table=select_decomp_table())(*inputs)
        output = traced.graph.output_node()
        returned: Any = output.args[0]
        output.meta["user_visible_output_idxs"] = [k for k, node in enumerate(returned) if isinstance(node, fx.Node)]
        return compile_fx_inner(traced, list(inputs))


def storage_of(tensor: torch.Tensor) -> Callable[[], bool]:
    """Whether the memory of ``tensor`` is still allocated, as a function that does not keep it so."""
    reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    return lambda: not reference.expired()  # type: ignore[no-untyped-call]


def inside_function_mode(but: type[TorchFunctionMode]) -> bool:
    """Whether a ``TorchFunctionMode`` other than of class ``but`` is active in this thread; a default device is one."""
    return any(not isinstance(mode, but) for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def leave_function_mode(mode: TorchFunctionMode) -> None:
    """Take ``mode`` off this thread's stack of function modes, wherever in the stack it is, if it still is.

    A backward runs its nodes with the stack of its caller, and puts that back: what was entered in a node is gone after it.
    """
    above: list[TorchFunctionMode] = []
    while torch._C._len_torch_function_stack():
        top = _pop_mode()  # type: ignore[no-untyped-call]
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        _push_mode(other)  # type: ignore[no-untyped-call]
