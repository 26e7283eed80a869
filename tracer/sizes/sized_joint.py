"""A captured step with symbolic sizes, which is written for any sizes that meet its conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import (
    CapturedLoss,
    ChainCall,
    Guard,
    Guards,
    Joint,
    RecordedForward,
    has_symbol_inside,
    number_from_sizes,
    rewritten,
    tensors_of,
)
from remat_planner.tracer.size_expressions import Box, Expression, UndecidedError
from remat_planner.tracer.sizes.errors import NotSizedError
from remat_planner.tracer.sizes.fakes import Fakes, TensorForm, TensorForms, ToCompute
from remat_planner.tracer.torch_private import hashable, is_symbolic, new_fake_mode, number_of
from remat_planner.tracer.torch_sizes import SymbolicSizes

_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments besides nodes: nothing in them can depend on a size unseen."""


class _Numbers:
    """The expressions of symbolic numbers, each once."""

    def __init__(self) -> None:
        self.expressions: dict[Any, int] = {}

    def __call__(self, value: Any) -> Any:
        """``value``; where it is symbolic, what says that it is to be computed."""
        if not is_symbolic(value):
            return value
        expression = hashable(value)
        if expression.is_number:
            return expression.value
        return ToCompute(self.expressions.setdefault(expression, len(self.expressions)))


class _Conditions:
    """Whether the answers to some questions are those of the capture."""

    def __init__(self, sizes: SymbolicSizes, questions: Sequence[Any]) -> None:
        self._are_in_bounds = sizes.are_in_bounds
        self.questions = questions
        self._answers = sizes.function(questions)
        self._expected = tuple(map(sizes.answer, questions))

    def __call__(self, sizes: Sequence[float]) -> bool:
        if not self._are_in_bounds(sizes):
            return False
        try:
            return self._answers(*sizes) == self._expected
        except ArithmeticError:  # some number cannot be computed for these sizes
            return False


@dataclass(frozen=True)
class OtherSizes:
    """Sizes within the bounds of a capture for which the step is another one, or takes more bytes.

    Attributes:
        boxes: these sizes: the least and the largest of each symbol.
        why: what is asked of the sizes there, or what takes more bytes.
    """

    boxes: list[Box]
    why: str


@dataclass(frozen=True)
class SizedJoint:
    """A step that was captured with symbols for some sizes of its inputs.

    Attributes:
        dims: index among the inputs, and dimension, of each of these sizes.
        leaves: index among the inputs of each number that is a symbol too. Wherever ``sizes`` are given, these numbers follow,
            and then those of ``attributes``.
    """

    dims: tuple[tuple[int, int], ...]
    leaves: tuple[int, ...]
    _joint: Joint  # its nodes have forms in the place of fakes, and numbers to compute among their arguments
    _loss: CapturedLoss | None
    _forms: TensorForms
    _compute: Callable[..., tuple[Any, ...]]
    _same: list[tuple[int, int]]
    _holds: _Conditions
    _holds_nearby: _Conditions
    _constants: Mapping[str, tuple[Any, ...]]
    _sizes: SymbolicSizes
    _expressions: list[Any]  # of the numbers
    _texts: Mapping[str, ToCompute] = field(default_factory=dict)

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Path of the module, and name, of each attribute that is a symbol."""
        return tuple(self._joint.attributes)

    @classmethod
    def of(
        cls,
        joint: Joint,
        sizes: SymbolicSizes,
        dims: Sequence[tuple[int, int]],
        leaves: Sequence[int] = (),
    ) -> SizedJoint:
        """The captured ``joint``, which is taken apart.

        Raises:
            NotSizedError: something in it depends on sizes in a way that is not followed.
        """
        if joint.forward.functions is not None and joint.forward.functions.causes:
            raise NotSizedError("an autograd.Function runs as it is")
        specs = (joint.output_spec, *(effect.spec for effect in joint.effects.made))
        objects = [template[0] for spec in specs for template in spec.templates if template is not None]
        if any(map(has_symbol_inside, (*objects, *(leaf.constant for leaf in joint.outputs)))):
            raise NotSizedError("an object that it returns, or leaves behind, holds a size")
        numbers = _Numbers()
        forms = TensorForms(numbers)
        graphs = [joint.graph.graph] if joint.loss is None else [joint.graph.graph, joint.loss.graph.graph]
        constants = _constant_bytes(joint, dict.fromkeys(index for index, _ in dims), numbers)
        geometries: dict[Any, Any] = {}
        for graph in graphs:
            for node in graph.nodes:
                _take_apart(node, numbers, forms, geometries)
        forms.release()
        outputs = tuple(replace(leaf, constant=numbers(leaf.constant)) for leaf in joint.outputs)
        loss = joint.loss
        if loss is not None:
            lifetimes = tuple(replace(lifetime, bytes=numbers(lifetime.bytes)) for lifetime in loss.lifetimes)
            loss = replace(loss, lifetimes=lifetimes)
        texts = {text: numbers(size) for text, size in joint.forward.sizes.items()}
        given = tuple(map(numbers, joint.constant_leaves))
        attributes = {place: numbers(number) for place, number in joint.attributes.items()}
        joint = replace(
            joint,
            constant_leaves=given,
            attributes=attributes,
            outputs=outputs,
            guards=_guards_with(joint.guards, numbers),
            loss=None,
        )
        conditions = sizes.conditions()
        lasting = [condition for condition in conditions if not sizes.is_about_single_sizes(condition)]
        return cls(
            tuple(dims),
            tuple(leaves),
            joint,
            loss,
            forms,
            sizes.function(list(numbers.expressions)),
            sizes.same,
            _Conditions(sizes, conditions),
            _Conditions(sizes, lasting),
            constants,
            sizes,
            list(numbers.expressions),
            texts,
        )

    def other_sizes(self, names: Sequence[str]) -> list[OtherSizes]:
        """The sizes within the bounds of the capture for which it does not hold, or takes more bytes.

        For all others, each storage of the step is at most as large as for the sizes of the capture.

        Args:
            names: of the symbols, for the texts.

        Raises:
            NotSizedError: there are too many.
        """
        sizes, found = self._sizes, []
        for question in self._holds.questions:
            found.append(self._where_not(question, sizes.answer(question), sizes.in_words(question, names)))
        for number, name in self._named_storages().items():
            question = sizes.no_more(self._expressions[number])
            text = sizes.in_words(self._expressions[number], names)
            found.append(self._where_not(question, True, f"the bytes of {name}, {text}"))
        return [other for other in found if other.boxes]

    def _where_not(self, question: Expression, answer: bool, why: str) -> OtherSizes:
        try:
            return OtherSizes(self._sizes.where_not(question, answer), why)
        except UndecidedError as error:
            raise NotSizedError(f"the sizes are too many to try for {why}") from error

    def _named_storages(self) -> dict[int, str]:
        """For each number of bytes of a storage that is computed from sizes, the operator that makes such a storage first."""
        named: dict[int, str] = {}
        graphs = [self._joint.graph.graph] if self._loss is None else [self._joint.graph.graph, self._loss.graph.graph]
        for node in (node for graph in graphs for node in graph.nodes):
            for form in _forms_of(node):
                size = self._forms.storages[form.storage].bytes
                if isinstance(size, ToCompute):
                    where = ", ".join(filter(None, (node.meta.get("module"), node.meta.get("source"))))
                    name = node.meta.get("name", node.name)
                    named.setdefault(size.number, f"{name} ({where})" if where else name)
        for lifetime in () if self._loss is None else self._loss.lifetimes:
            if isinstance(lifetime.bytes, ToCompute):
                named.setdefault(lifetime.bytes.number, "the loss")
        return named

    def holds(self, sizes: Sequence[float]) -> bool:
        """Whether the step is the captured one for these sizes."""
        return self._has_same(sizes) and self._holds(sizes)

    def holds_nearby(self, sizes: Sequence[float]) -> bool:
        """Whether it is for sizes around these. These may be others by chance, as a length that equals the number of heads."""
        return self._has_same(sizes) and self._holds_nearby(sizes)

    def _has_same(self, sizes: Sequence[float]) -> bool:
        return all(sizes[k] == sizes[first] for k, first in self._same)

    def numbers(self, sizes: Sequence[float]) -> tuple[Any, ...]:
        """All numbers of the step that are computed from sizes."""
        return self._compute(*sizes)

    def storage_bytes(self, numbers: Sequence[Any]) -> list[int]:
        """The bytes of all storages of the step, and of what the loss allocates besides."""
        of_storages = [_number(storage.bytes, numbers) for storage in self._forms.storages.values()]
        of_loss = () if self._loss is None else self._loss.lifetimes
        return of_storages + [_number(lifetime.bytes, numbers) for lifetime in of_loss]

    def forms_with(self, nodes: str, numbers: Sequence[Any]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shape and strides of the placeholders of one kind, ``"input_nodes"`` or ``"tangent_nodes"``."""
        forms = (node.meta["val"] for node in getattr(self._joint, nodes))
        return [
            (tuple(_number(n, numbers) for n in form.shape), tuple(_number(n, numbers) for n in form.stride)) for form in forms
        ]

    def for_call(self, joint: Joint, numbers: Sequence[Any]) -> Joint:
        """``joint``, which ``at`` has written for other sizes, with all that a call with these ``numbers`` asks of it."""
        nodes = [leaf.node for leaf in joint.outputs]
        return replace(
            joint,
            constant_leaves=tuple(_number(leaf, numbers) for leaf in self._joint.constant_leaves),
            attributes={place: _number(number, numbers) for place, number in self._joint.attributes.items()},
            outputs=tuple(
                replace(leaf, node=node, constant=_number(leaf.constant, numbers))
                for leaf, node in zip(self._joint.outputs, nodes, strict=True)
            ),
            guards=_guards_with(self._joint.guards, lambda value: _number(value, numbers)),
            forward=self._forward_with(numbers),
        )

    def at(self, sizes: Sequence[float]) -> Joint:
        """The step for these sizes. Numbers among arguments say how they are computed (``tracer.joint.SizeNumber``)."""
        numbers = self.numbers(sizes)
        fakes = Fakes(new_fake_mode(), self._forms.storages, lambda value: _number(value, numbers))
        graph, node_of = _written(self._joint.graph, numbers, fakes)
        joint = self._joint
        written = replace(
            rewritten(joint, graph, node_of, [node_of[node] for node in joint.ops]),
            loss=None if self._loss is None else _written_loss(self._loss, numbers, fakes),
            constants={kind: tuple(_number(size, numbers) for size in bytes_) for kind, bytes_ in self._constants.items()},
        )
        return self.for_call(written, numbers)

    def _forward_with(self, numbers: Sequence[Any]) -> RecordedForward:
        return self._joint.forward.with_sizes({text: _number(size, numbers) for text, size in self._texts.items()})


def _take_apart(node: fx.Node, numbers: _Numbers, forms: TensorForms, geometries: dict[Any, Any]) -> None:
    """Put forms in the place of the fakes of ``node``, and numbers to compute in the place of symbolic ones."""
    target = node.target
    if isinstance(target, FunctionType):
        kept = [cell.cell_contents for cell in target.__closure__ or ()]
        if any(is_symbolic(value) or isinstance(value, torch.Tensor) for value in kept):
            raise NotSizedError(f"{target.__qualname__} has sizes of its own")
    arguments: Any = fx.node.map_aggregate((node.args, node.kwargs), numbers)
    for leaf in pytree.tree_leaves(arguments):
        if not isinstance(leaf, (*_PLAIN, fx.Node, ToCompute)):
            raise NotSizedError(f"{target} gets a {type(leaf).__name__}")
    node.args, node.kwargs = arguments

    def form(leaf: Any) -> Any:
        return forms.of(leaf) if isinstance(leaf, torch.Tensor) else numbers(leaf)

    if "val" not in node.meta:
        return
    tensors = tensors_of(node)
    node.meta["val"] = pytree.tree_map(form, node.meta["val"])
    for tensor, geometry in zip(tensors, _forms_of(node), strict=True):
        hint = (geometry.storage, *map(number_of, (*tensor.shape, *tensor.stride(), tensor.storage_offset())), tensor.dtype)
        if not geometries.setdefault(hint, geometry).is_view_as(geometry):
            raise NotSizedError("two views of a tensor are equal for these sizes alone")


def _forms_of(node: fx.Node) -> list[TensorForm]:
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, TensorForm)]


def _number(value: Any, numbers: Sequence[Any]) -> Any:
    return numbers[value.number] if isinstance(value, ToCompute) else value


def _guards_with(guards: Guards, numbers: Callable[[Any], Any]) -> Guards:
    """``guards`` with ``numbers(argument)`` in the place of each argument of their calls."""

    def call(of: ChainCall) -> ChainCall:
        args, kwargs = pytree.tree_map(numbers, (of.args, of.kwargs))
        return replace(of, args=args, kwargs=kwargs)

    def step(of: ChainCall | Guard) -> ChainCall | Guard:
        return replace(of, call=call(of.call)) if isinstance(of, Guard) else call(of)

    groups = (replace(group, steps=tuple(map(step, group.steps)), _seen=[]) for group in guards.groups)
    return replace(guards, groups=tuple(groups))


def _constant_bytes(joint: Joint, inputs: Iterable[int], numbers: _Numbers) -> dict[str, tuple[Any, ...]]:
    """``Joint.constants`` in which these inputs have as many bytes as their sizes say."""
    left = list(joint.constants["inputs"])
    sized = []
    for index in inputs:
        size = joint.input_nodes[index].meta["val"].untyped_storage().nbytes()
        left.remove(number_of(size))
        sized.append(numbers(size))
    return {**joint.constants, "inputs": (*left, *sized)}


def _written(module: fx.GraphModule, numbers: Sequence[Any], fakes: Fakes) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A copy of a graph for these numbers, and the node of it for each node."""
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}

    def argument(value: Any) -> Any:
        return number_from_sizes(numbers[value.number], value.number) if isinstance(value, ToCompute) else value

    def value(leaf: Any) -> Any:
        return fakes.of(leaf) if isinstance(leaf, TensorForm) else _number(leaf, numbers)

    for node in module.graph.nodes:
        copied = node_of[node] = graph.node_copy(node, node_of.__getitem__)
        copied.args, copied.kwargs = fx.node.map_aggregate((copied.args, copied.kwargs), argument)
        if "val" in node.meta:
            copied.meta["val"] = pytree.tree_map(value, node.meta["val"])
            copied.meta["shape"] = pytree.tree_map(
                lambda leaf: tuple(map(argument, leaf.shape)) if isinstance(leaf, TensorForm) else None, node.meta["val"]
            )
    return fx.GraphModule(module, graph), node_of


def _written_loss(loss: CapturedLoss, numbers: Sequence[Any], fakes: Fakes) -> CapturedLoss:
    graph, node_of = _written(loss.graph, numbers, fakes)
    return CapturedLoss(
        graph=graph,
        forward=tuple(node_of[node] for node in loss.forward),
        backward=tuple(node_of[node] for node in loss.backward),
        outputs=tuple(node_of[node] for node in loss.outputs),
        lifetimes=tuple(replace(lifetime, bytes=_number(lifetime.bytes, numbers)) for lifetime in loss.lifetimes),
    )
