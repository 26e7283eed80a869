"""Recording what eager runs: the forward and the backward on fake tensors, operator by operator, in eager's order.

The operators are those that autograd's own engine calls, without decompositions, so a replay has eager's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from remat_planner.tracer.errors import (
    CaptureError,
    DataDependentError,
    InputsDoNotFitError,
    NothingToTrainError,
    UnsupportedOperatorError,
)
from remat_planner.tracer.joint import Operator, State, TreeOfLeaves, communicates_in_place, flatten, is_random, reads_a_number
from remat_planner.tracer.record.ambient_modes import python_random_state, without_autocast
from remat_planner.tracer.record.eager_masks import libraries_believe_eager
from remat_planner.tracer.record.gradient_edges import edges_into
from remat_planner.tracer.record.hooks import watched_hooks
from remat_planner.tracer.record.module_attributes import swapped
from remat_planner.tracer.record.provenance import Provenance, raising_line
from remat_planner.tracer.record.recording import Call, Recording, Tangent
from remat_planner.tracer.record.value_guards import KnownValues, UnknownValueError
from remat_planner.tracer.refusals import calls_compiled_function
from remat_planner.tracer.torch_private import (
    CALLS_COMPILED_CODE,
    READS_OF_FAKES,
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    TorchDispatchMode,
    backward_sequence_number,
    in_checkpoint_replaying_draws,
    recorded_graph,
    single_threaded_backward,
    to_fake,
    trace,
)

_WHAT_TO_DO = (
    "Rewrite the branch without reading the value (torch.where), move it out of the forward, or plan the blocks around it and "
    "leave the rest as it is (remat_planner.plan(model, ..., regions=...))"
)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator: writes on its node where it comes from, answers reads of known values."""

    def __init__(self, provenance: Provenance, known: KnownValues) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.in_backward = False
        self.operators: list[Operator] = []
        self._provenance = provenance
        self._known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # a question about a fake, no work
            return func(*args, **kwargs)
        origin = self._provenance.of_running_operator(in_backward=self.in_backward)
        if communicates_in_place(func):
            raise UnsupportedOperatorError(
                f"{origin.source or 'the model'}: {func} communicates in place, which a captured step cannot hold: use the "
                "functions of torch.distributed._functional_collectives, or leave the module that calls it out, by regions",
                operator=str(func),
                source=origin.source,
            )
        if func is torch.ops.aten.set_.source_Storage:
            raise views_a_storage(func, origin.source)
        if reads_a_number(func):
            try:
                return self._known.read(func, args, kwargs, origin.source)
            except UnknownValueError as error:
                raise data_dependent(func, origin.source, str(error)) from None
        autograd_node = backward_sequence_number() if self.in_backward else None
        self.operators.append(Operator(str(func), origin.module, self.in_backward, autograd_node))
        replayed = self.in_backward and is_random(func, args, kwargs) and in_checkpoint_replaying_draws()
        graph = recorded_graph()
        last = graph._root.prev
        result = func(*args, **kwargs)
        node = last.next
        while node is not graph._root:
            node.meta["module"], node.meta["source"] = origin.module, origin.source
            node.meta["in_backward"] = self.in_backward
            node.meta["replayed"] = replayed
            node.meta["operator"] = len(self.operators) - 1
            node = node.next
        self._known.follow(func, args, kwargs, result)
        return result


def data_dependent(operator: Any, source: str, why: str) -> DataDependentError:
    """The error for a read that cannot be answered."""
    return DataDependentError(
        f"{source or 'the model'}: the code reads a value from a tensor ({operator}) and goes on as it says, but the value "
        f"is not known while the step is captured: {why}. {_WHAT_TO_DO}",
        source=source,
        operator=str(operator),
    )


def views_a_storage(operator: Any, source: str) -> UnsupportedOperatorError:
    """The error for a view of bytes that a graph of tensors cannot name; cuDNN's recurrent layers see their weights so."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} views a storage rather than a tensor, which a captured step cannot hold. "
        "nn.LSTM, nn.GRU and nn.RNN on a GPU do so for cuDNN: plan the blocks around them and leave them to eager "
        "(remat_planner.plan(model, ..., regions=...)), or run them without cuDNN (torch.backends.cudnn.flags(enabled=False))",
        operator=str(operator),
        source=source,
    )


def record(
    call: Call, mode: FakeTensorMode, choose_tangents: Callable[[Any, list[Any], TreeOfLeaves], list[Tangent]]
) -> Recording:
    """Record one step of ``call``.

    ``choose_tangents(output, leaves, spec)`` says at which output leaves gradients arrive.
    """
    model, state, originals = call.model, call.state, call.inputs
    fakes = [[to_fake(mode, t) for t in tensors] for tensors in (state.parameters, state.buffers, originals)]
    found: dict[str, Any] = {}
    casts_are_cached = torch.is_autocast_cache_enabled()

    def joint(parameters: list[torch.Tensor], buffers: list[torch.Tensor], inputs: list[torch.Tensor]) -> Any:
        # A trace turns it off, and then a weight that is read twice is cast twice: other sums of its gradients than eager's.
        torch.set_autocast_cache_enabled(casts_are_cached)
        known, provenance = KnownValues(), Provenance(model)
        parameters = [p.detach().requires_grad_(o.requires_grad) for p, o in zip(parameters, state.parameters, strict=True)]
        inputs = [t.detach().requires_grad_(o.requires_grad) for t, o in zip(inputs, originals, strict=True)]
        for kind, stand_ins, reals in (("buffer", buffers, state.buffers), ("input", inputs, originals)):
            for i, (fake, real) in enumerate(zip(stand_ins, reals, strict=True)):
                known.add_leaf(kind, i, fake, real)
        replacement = {id(o): p for o, p in zip((*state.parameters, *state.buffers), (*parameters, *buffers), strict=True)}
        recorder = Recorder(provenance, known)
        wanted = [t for t in (*parameters, *inputs) if t.requires_grad]
        following = (libraries_believe_eager(), provenance.following(), watched_hooks(model))
        with swapped(model, replacement) as effects, _arrivals(wanted) as arrivals, following[0], following[1], following[2]:
            drawn = python_random_state()
            with mode, recorder:
                args, kwargs = call.arguments(inputs)
                output = run_user_code(model, args, kwargs)
            calls = dict(provenance.calls)
            if python_random_state() != drawn:
                raise DataDependentError(
                    "the forward draws from the random generator of Python or NumPy: the captured step would repeat what it "
                    "does with this one draw in every step. Draw with torch, and use the draw in tensors, not in a branch. "
                    f"{_WHAT_TO_DO}",
                    source="",
                    operator="random",
                )
            found_leaves, spec = flatten(output)
            _check_outputs(found_leaves, buffers, state, inputs)
            tangents = choose_tangents(output, found_leaves, spec)
            del output
            nodes, arriving = [], []
            with mode:
                for tangent in tangents:
                    leaf = found_leaves[tangent.output]
                    arriving.append(torch.empty_strided(leaf.shape, tangent.stride, dtype=leaf.dtype, device=leaf.device))
                    nodes.append(recorded_graph()._root.prev.name)
            edges = edges_into(wanted, [found_leaves[t.output] for t in tangents])
            recorder.in_backward = True
            # Outside of the caller's autocast, as PyTorch's documentation asks for.
            with mode, recorder, single_threaded_backward(), without_autocast():
                gradients = run_backward([found_leaves[t.output] for t in tangents], wanted, arriving)
        places = {id(t): (kind, i) for kind, ts in _by_kind(parameters, buffers, inputs) for i, t in enumerate(ts)}
        tensors = [i for i, leaf in enumerate(found_leaves) if isinstance(leaf, torch.Tensor)]
        found.update(
            constants=[None if isinstance(leaf, torch.Tensor) else leaf for leaf in found_leaves],
            differentiable=tuple(i for i in tensors if found_leaves[i].requires_grad),
            output_spec=spec,
            tensor_outputs=tuple(tensors),
            same_as={i: places[id(found_leaves[i])] for i in tensors if id(found_leaves[i]) in places},
            tangents=tuple(zip(nodes, tangents, strict=True)),
            operators=recorder.operators,
            arrivals=tuple(arrivals),
            edges=edges,
            calls=calls,
            known=known,
            effects=effects,
        )
        return [found_leaves[i] for i in tensors], gradients

    module = trace(joint, *fakes)
    return Recording(module=module, **found)


@contextmanager
def _arrivals(wanted: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Places among ``wanted`` in the order in which a backward hands their gradients over."""
    found: list[int] = []
    hooks = [t.register_hook(lambda _, k=k: found.append(k)) for k, t in enumerate(wanted)]  # type: ignore[no-untyped-call]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _by_kind(parameters: Any, buffers: Any, inputs: Any) -> tuple[tuple[str, Any], ...]:
    return ("parameter", parameters), ("buffer", buffers), ("input", inputs)


def run_user_code(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the user's code; what it raises is told apart into what the capture cannot do and what does not fit.

    Raises:
        DataDependentError: an operator's output has a shape that depends on values.
        InputsDoNotFitError: the code itself raised.
        ModelNotSupportedError: the code calls a compiled function.
    """
    try:
        return function(*args, **kwargs)
    except CaptureError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise data_dependent(error.func, raising_line(error), "the size of the result depends on it") from error
    except Exception as error:
        source = raising_line(error)
        if any(text in str(error) for text in READS_OF_FAKES):
            raise data_dependent("its memory", source, str(error).rstrip(".")) from error
        if CALLS_COMPILED_CODE in str(error):
            raise calls_compiled_function(source) from error
        raise InputsDoNotFitError(
            f"{source or 'the model'}: the model's own code raised {type(error).__name__} when called on these inputs: "
            f"{str(error).rstrip('.')}. Check that a plain call of the model on them works",
            source=source,
        ) from error


def _check_outputs(leaves: list[Any], buffers: Sequence[torch.Tensor], state: State, inputs: Sequence[torch.Tensor]) -> None:
    if not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise NothingToTrainError(
            f"no output of the model depends on a parameter that requires a gradient: it returns {kinds}. "
            "Return the tensors that the loss is made from, not detached, and call it in a mode in which it is trained"
        )
    for slot, buffer in zip(state.buffer_slots, buffers, strict=True):
        if buffer.requires_grad:
            raise UnsupportedOperatorError(
                f"the forward writes activations with a gradient into buffer {slot.name}: the next step's backward would run "
                f"through this one's. Detach what is written ({slot.name}.copy_(new.detach()))",
                operator="aten::copy_",
                source="",
            )
    for i, tensor in enumerate(inputs):
        if tensor.grad_fn is not None:
            raise UnsupportedOperatorError(
                f"the forward changes tensor input {i} in place, and the change has a gradient. Clone the input first",
                operator="aten::copy_",
                source="",
            )


def run_backward(
    outputs: list[torch.Tensor], wanted: list[torch.Tensor], arriving: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    try:
        torch.autograd.backward(outputs, arriving)
        gradients = [w.grad for w in wanted]
    except CaptureError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise data_dependent(error.func, raising_line(error), "the size of the result depends on it") from error
    except Exception as error:
        source = raising_line(error)
        raise UnsupportedOperatorError(
            f"{source or 'the backward'}: the backward raised {type(error).__name__} while it was captured: {error}",
            operator="",
            source=source,
        ) from error
    for gradient in gradients:
        if gradient is not None and gradient.layout is not torch.strided:
            raise UnsupportedOperatorError(
                f"a parameter's gradient is sparse ({gradient.layout}): only dense gradients can be planned. "
                "Build the embedding with sparse=False",
                operator=str(gradient.layout),
                source="",
            )
    return list(gradients)
