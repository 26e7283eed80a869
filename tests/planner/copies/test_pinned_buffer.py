"""The pieces of a pinned buffer."""

from __future__ import annotations

import pytest
import torch

from remat_planner.planner.copies import host_pool, pinned_buffer
from remat_planner.planner.copies.pinned_buffer import PinnedBuffer
from remat_planner.planner.errors import OffloadError

PAGE = 4096


def test_pieces_are_powers_of_two_and_together_what_is_asked_for() -> None:
    sizes: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        sizes.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    buffer = PinnedBuffer(11 * PAGE - 5, allocate)
    assert sizes == [8 * PAGE, 2 * PAGE, PAGE]
    content = torch.randint(256, (11 * PAGE,), dtype=torch.uint8)
    for offset in range(0, 11 * PAGE, PAGE):
        for size in (1, PAGE, 4 * PAGE, 11 * PAGE - offset):
            size = min(size, 11 * PAGE - offset)
            parts = buffer.parts(offset, size)
            for part, source in zip(parts, content[offset : offset + size].split([p.nbytes for p in parts]), strict=True):
                part.copy_(source)
            assert torch.equal(torch.cat(buffer.parts(offset, size)), content[offset : offset + size])
    assert torch.equal(torch.cat(buffer.parts(0, 11 * PAGE)), content)


def test_an_empty_buffer_has_no_pieces() -> None:
    assert PinnedBuffer(0, lambda _: pytest.fail("nothing to allocate")).parts(0, 0) == []


def test_refused_memory_is_told_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(pinned_buffer.resource, "getrlimit", lambda _: (65_536, 65_536))
    with pytest.raises(OffloadError, match=r"refuses 1,000,000 bytes of pinned.*out of memory.*65,536.*ulimit -l") as caught:
        host_pool._pinned(1_000_000)
    assert (caught.value.pool, caught.value.needed, caught.value.available) == ("host", 1_000_000, 65_536)
