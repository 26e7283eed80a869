"""Objects of the standard library that a forward reads, fills or advances: right at each step, or refused by name."""

from __future__ import annotations

import array
import collections
import ctypes
import io
import itertools
import os
import queue
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer.errors import PythonStateError

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Box:
    """An object with a number, or whatever a test puts in."""

    def __init__(self, value: Any = 1.0) -> None:
        self.value = value

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        return h * self.value


class Waiting(queue.Queue):  # type: ignore[type-arg]
    """A queue."""


class Counted(itertools.count):  # type: ignore[type-arg]
    """A count."""


class Drawn:
    """An iterator that is written in Python, over one that is not."""

    def __init__(self, items: list[float]) -> None:
        self.items = iter(items)

    def __iter__(self) -> Drawn:
        return self

    def __next__(self) -> float:
        return next(self.items)


class Net(nn.Module):
    """Two layers, and between them what a test says."""

    def __init__(self, between: Callable[[Any, torch.Tensor], torch.Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.between = between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between(self, torch.tanh(self.a(x)))).square().mean()


def filled(kind: Callable[[], Any]) -> Any:
    items = kind()
    items.put(1.0)
    return items


def counting() -> Iterator[float]:
    value = 1.0
    while True:
        yield value
        value += 1


def put_aside(m: Any, h: torch.Tensor) -> torch.Tensor:
    m.s.put(h.detach().mean())
    return h


def taken(m: Any, h: torch.Tensor) -> torch.Tensor:
    return h * m.s.get()


def written(index: int) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def counted(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.s[index] = 5
        return h * m.s[index]

    return counted


def counted(m: Any, h: torch.Tensor) -> torch.Tensor:
    m.s[0] += 1
    return h * m.s[0]


def appended(m: Any, h: torch.Tensor) -> torch.Tensor:
    m.s.append(h.shape[0])
    return h * m.s[0]


def advanced(m: Any, h: torch.Tensor) -> torch.Tensor:
    return h * next(m.s)


def first(m: Any, h: torch.Tensor) -> torch.Tensor:
    return h * m.s[0]


def nothing(_m: Any, _k: int) -> None:
    """Nothing changes between the steps."""


def set_first(m: Any, k: int) -> None:
    m.s[0] = 1 + k


Between = Callable[[Any, torch.Tensor], torch.Tensor]
CASES: dict[str, tuple[Between, Callable[[], Any], Callable[[Any, int], Any]]] = {
    "an array": (first, lambda: array.array("d", [1.0, 2.0]), set_first),
    "an array that grows": (lambda m, h: h * len(m.s), lambda: array.array("d", [1.0]), lambda m, k: m.s.append(1.0)),
    "an array that is set": (written(1), lambda: array.array("i", [1, 2]), nothing),
    "an array that counts": (counted, lambda: array.array("i", [1, 2]), nothing),
    "an array that is extended": (appended, lambda: array.array("i", [1, 2]), nothing),
    "bytes that change": (first, lambda: bytearray([1, 2]), set_first),
    "bytes that are set": (written(1), lambda: bytearray([1, 2]), nothing),
    "bytes that count": (counted, lambda: bytearray([1, 2]), nothing),
    "bytes that are extended": (appended, lambda: bytearray([1, 2]), nothing),
    "a view of bytes": (first, lambda: memoryview(bytearray([1, 2])), set_first),
    "a view of bytes that counts": (counted, lambda: memoryview(bytearray([1, 2])), nothing),
    "a deque of numbers": (first, lambda: collections.deque([1.0, 2.0], maxlen=2), lambda m, k: m.s.append(1.0 + k)),
    "a deque that turns": (
        lambda m, h: (m.s.rotate(1), h * m.s[0])[1],
        lambda: collections.deque([1.0, 2.0, 3.0], maxlen=3),
        nothing,
    ),
    "a weak reference": (
        lambda m, h: h * m.s[1]().value,
        lambda: (lambda box: (box, weakref.ref(box)))(Box()),
        lambda m, k: setattr(m.s[0], "value", 1.0 + k),
    ),
    "a weak reference to another": (
        lambda m, h: h * m.s[1]().value,
        lambda: (lambda box: [box, weakref.ref(box)])(Box()),
        lambda m, k: (lambda box: m.s.__setitem__(slice(None), [box, weakref.ref(box)]))(Box(1.0 + k)),
    ),
    "a weak proxy": (
        lambda m, h: h * m.s[1].value,
        lambda: (lambda box: (box, weakref.proxy(box)))(Box()),
        lambda m, k: setattr(m.s[0], "value", 1.0 + k),
    ),
    "a weak method": (
        lambda m, h: m.s[1]()(h),
        lambda: (lambda box: (box, weakref.WeakMethod(box.__call__)))(Box()),
        lambda m, k: setattr(m.s[0], "value", 1.0 + k),
    ),
    "a weak dictionary": (
        lambda m, h: h * m.s[1]["box"].value,
        lambda: (lambda box: (box, weakref.WeakValueDictionary(box=box)))(Box()),
        lambda m, k: setattr(m.s[0], "value", 1.0 + k),
    ),
    "a weak set": (
        lambda m, h: h * len(m.s[1]),
        lambda: ([], weakref.WeakSet()),
        lambda m, k: (m.s[0].append(Box()), m.s[1].add(m.s[0][-1])),
    ),
    "a queue that is filled": (put_aside, queue.Queue, nothing),
    "a queue that is read": (
        lambda m, h: h * m.s.queue[0],
        lambda: filled(queue.Queue),
        lambda m, k: (m.s.get(), m.s.put(1.0 + k)),
    ),
    "a queue that is emptied": (taken, lambda: filled(queue.Queue), lambda m, k: m.s.put(1.0 + k)),
    "a stack that is emptied": (taken, lambda: filled(queue.LifoQueue), lambda m, k: m.s.put(1.0 + k)),
    "an ordered dictionary that the forward turns": (
        lambda m, h: (m.s.move_to_end(next(iter(m.s))), h * next(iter(m.s.values())))[1],
        lambda: collections.OrderedDict(a=1.0, b=2.0),
        nothing,
    ),
    "a simple queue": (lambda m, h: h * m.s.qsize(), lambda: filled(queue.SimpleQueue), lambda m, k: m.s.put(1.0 + k)),
    "a simple queue that is filled": (put_aside, queue.SimpleQueue, nothing),
    "a count": (advanced, lambda: itertools.count(1), nothing),
    "a cycle": (advanced, lambda: itertools.cycle([1.0, 2.0, 3.0]), nothing),
    "an iterator of a list": (advanced, lambda: iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), nothing),
    "an iterator of a range": (advanced, lambda: iter(range(1, 99)), nothing),
    "an enumeration": (lambda m, h: h * next(m.s)[0], lambda: enumerate("abcdefgh", 1), nothing),
    "a map": (advanced, lambda: map(float, range(1, 99)), nothing),
    "a chain": (advanced, lambda: itertools.chain([1.0], [2.0, 3.0, 4.0, 5.0, 6.0]), nothing),
    "a repetition": (advanced, lambda: itertools.repeat(2.0), nothing),
    "a generator": (advanced, counting, nothing),
    "an iterator that is replaced": (
        lambda m, h: (setattr(m, "s", iter([2.0])), h)[1],
        lambda: iter([1.0]),
        nothing,
    ),
    "a generator in an object": (lambda m, h: h * next(m.s.value), lambda: Box(counting()), nothing),
    "a number in C": (lambda m, h: h * m.s.value, lambda: ctypes.c_int(1), lambda m, k: setattr(m.s, "value", 1 + k)),
    "numbers in C": (first, lambda: (ctypes.c_int * 2)(1, 2), set_first),
    "numbers in C that count": (counted, lambda: (ctypes.c_int * 2)(1, 2), nothing),
    "the environment": (
        lambda m, h: h * float(os.environ.get("SOME_SCALE", "1")),
        lambda: None,
        lambda m, k: os.environ.__setitem__("SOME_SCALE", str(1 + k)),
    ),
    "the environment by getenv": (
        lambda m, h: h * float(os.getenv("SOME_SCALE", "1")),
        lambda: None,
        lambda m, k: os.environ.__setitem__("SOME_SCALE", str(1 + k)),
    ),
    "the environment that is set": (
        lambda m, h: (os.environ.__setitem__("SOME_SCALE", "2"), h * float(os.environ["SOME_SCALE"]))[1],
        lambda: None,
        lambda m, k: os.environ.pop("SOME_SCALE", None),
    ),
    "an open file": (lambda m, h: h * float(m.s.readline()), lambda: open(__file__, encoding="utf-8"), nothing),  # noqa: SIM115
    "the lines of a file": (lambda m, h: h * len(next(m.s)), lambda: open(__file__, encoding="utf-8"), nothing),  # noqa: SIM115
    "a queue of the user's": (taken, lambda: filled(Waiting), nothing),
    "an iterator of the user's": (advanced, lambda: Drawn([1.0, 2.0, 3.0]), nothing),
    "a count of the user's": (advanced, lambda: Counted(1), nothing),
    "a text buffer": (lambda m, h: h * len(m.s.getvalue()), lambda: io.StringIO("1"), lambda m, k: m.s.write("1" * (k + 1))),
    "a text buffer that is filled": (lambda m, h: (m.s.write("x"), h)[1], lambda: io.StringIO("1"), nothing),
    "a counter": (lambda m, h: h * m.s["a"], lambda: collections.Counter(a=1), lambda m, k: m.s.update(a=1)),
    "a chain of dictionaries": (
        lambda m, h: h * m.s["a"],
        lambda: collections.ChainMap({}, {"a": 1.0}),
        lambda m, k: m.s.__setitem__("a", 1.0 + k),
    ),
    "an ordered dictionary in another order": (
        lambda m, h: h * next(iter(m.s.values())),
        lambda: collections.OrderedDict(a=1.0, b=2.0),
        lambda m, k: m.s.move_to_end(next(iter(m.s))),
    ),
    "a view of a dictionary": (
        lambda m, h: h * m.s[1]["a"],
        lambda: (lambda d: (d, types.MappingProxyType(d)))({"a": 1.0}),
        lambda m, k: m.s[0].__setitem__("a", 1.0 + k),
    ),
    "values of a dictionary": (
        lambda m, h: h * sum(m.s[1]),
        lambda: (lambda d: (d, d.values()))({"a": 1.0}),
        lambda m, k: m.s[0].__setitem__("a", 1.0 + k),
    ),
    "a slice of settings": (lambda m, h: h[m.s], lambda: slice(0, 2), lambda m, k: setattr(m, "s", slice(0, 1 + k % 2))),
    "a user's string": (
        lambda m, h: h * float(m.s),
        lambda: collections.UserString("1"),
        lambda m, k: setattr(m.s, "data", str(1 + k)),
    ),
}


REFUSED = [
    *(
        name
        for name in CASES
        if name != "a counter" and any(part in name for part in ("count", "extended", "filled", "emptied"))
    ),
    *(
        "a deque that turns",
        "an ordered dictionary that the forward turns",
        "a simple queue",
        "a cycle",
        "an iterator of a list",
        "an iterator of a range",
        "an enumeration",
    ),
    *(
        "an iterator that is replaced",
        "an open file",
        "the lines of a file",
        "a queue of the user's",
        "an iterator of the user's",
    ),
    *("a map", "a chain", "a repetition", "a generator", "a generator in an object"),
]


QUICK = {"an array", "a weak reference to another", "the environment", "an ordered dictionary in another order"} | {
    *("a count", "a queue that is emptied", "an array that counts"),
}


def marked(names: Iterable[str]) -> list[Any]:
    """All of ``names`` as parameters, most of them for slow runs alone."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SCALE", "1")


def built(name: str) -> Net:
    torch.manual_seed(0)
    between, state, _ = CASES[name]
    return Net(between, s=state())


def contents(value: Any) -> Any:
    """What can be compared of an object after training."""
    if isinstance(value, (queue.Queue, queue.LifoQueue)):
        return list(value.queue)
    if isinstance(value, queue.SimpleQueue):
        return value.qsize()
    if isinstance(value, io.StringIO):
        return value.getvalue()
    if isinstance(value, (array.array, bytearray, memoryview, list, collections.deque, ctypes.Array)):
        return [v for v in value if not isinstance(v, (Box, weakref.ref))]
    return repr(value) if isinstance(value, (itertools.count, itertools.repeat)) else None


def test_an_iterator_among_the_inputs_is_refused() -> None:
    class Taking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, scales: Iterator[float]) -> torch.Tensor:
            return self.a(x).sum() * next(scales)

    with pytest.raises(
        PythonStateError, match=r"takes items from an argument or puts some in, which is a builtins\.list_iterator"
    ):
        remat_planner.plan(Taking(), (X, iter([1.0, 2.0])), budget="100%", verify=False)


def step(called: nn.Module, net: Net) -> list[torch.Tensor]:
    net.zero_grad()
    loss = called(X)
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", marked(REFUSED))
def test_what_the_next_step_would_read_is_refused_by_name(name: str) -> None:
    net = built(name)
    before = contents(net.s)
    with pytest.raises(PythonStateError, match=r"state from step to step: (the order of )?s\b|items from s(\.\w+)?\b"):
        remat_planner.plan(net, (X,), budget="100%", solver="none", verify=False)
    assert contents(net.s) == before or isinstance(net.s, itertools.count)  # a first forward may take keys from one


@pytest.mark.slow
@pytest.mark.parametrize("name", marked(name for name in CASES if name not in REFUSED))
def test_each_step_reads_what_is_there(name: str) -> None:
    change = CASES[name][2]
    net, eager = built(name), built(name)
    ours = remat_planner.apply_schedule(
        net, remat_planner.plan(net, (X,), budget="100%", solver="none", verify=False), audit=False
    )
    for k in range(3):
        change(net, k)
        if "environment" not in name:
            change(eager, k)
        found, expected = step(ours, net), step(eager, eager)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))
        assert contents(net.s) == contents(eager.s)
