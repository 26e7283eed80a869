"""When the kernel's compiled form on disk may be used."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from remat_planner.solvers.annealing.kernel import annealing_loop, compiling


def stand_in(folder: Path, **attributes: object) -> SimpleNamespace:
    stats = SimpleNamespace(cache_path=str(folder))
    return SimpleNamespace(
        signatures=[], stats=stats, __module__="remat_planner.solvers.annealing.kernel.entrance", **attributes
    )


def test_a_cache_older_than_any_source_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [tmp_path / name for name in ("a.py", "b.py")]
    for source in sources:
        source.write_text("")
        os.utime(source, (100, 100))
    monkeypatch.setattr(compiling, "_sources", lambda: sources)
    assert not compiling.is_compiled(stand_in(tmp_path))
    cache = tmp_path / "entrance._with_digest.locals.anneal-1.py311.nbi"
    cache.write_text("")
    os.utime(cache, (200, 200))
    assert compiling.is_compiled(stand_in(tmp_path))
    os.utime(sources[1], (300, 300))
    assert not compiling.is_compiled(stand_in(tmp_path))


def test_the_digest_covers_every_file_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(annealing_loop.__file__).parent
    assert {path.name for path in compiling._sources()} == {path.name for path in folder.glob("*.py")}
    copies = []
    for source in compiling._sources():
        copies.append(tmp_path / source.name)
        copies[-1].write_bytes(source.read_bytes())
    before = compiling.source_digest()
    monkeypatch.setattr(compiling, "_sources", lambda: copies)
    assert compiling.source_digest() == before
    copies[0].write_text(copies[0].read_text() + "\n")
    assert compiling.source_digest() != before


def test_the_digest_is_part_of_the_cache_key() -> None:
    first, second = (annealing_loop._with_digest(digest) for digest in (1, 2))
    cells = [function.py_func.__closure__ for function in (first, second)]  # type: ignore[attr-defined]
    assert [cell.cell_contents for (cell,) in cells] == [1, 2]
