"""When a compiled form on disk may be used, and what happens where none can be kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from remat_planner.solvers import compiling
from remat_planner.solvers.annealing.kernel import annealing_loop, sources
from remat_planner.solvers.deadline import Deadline


def stand_in(folder: Path) -> Callable[..., object]:
    stats = SimpleNamespace(cache_path=str(folder))
    module = "remat_planner.solvers.annealing.kernel.entrance"
    return SimpleNamespace(signatures=[], stats=stats, __module__=module, __name__="anneal")  # type: ignore[return-value]


def test_a_cache_older_than_any_source_does_not_count(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for source in files:
        source.write_text("")
        os.utime(source, (100, 100))
    assert not compiling.is_compiled(stand_in(tmp_path), files)
    cache = tmp_path / "entrance._with_digest.locals.anneal-1.py311.nbi"
    cache.write_text("")
    os.utime(cache, (200, 200))
    assert compiling.is_compiled(stand_in(tmp_path), files)
    os.utime(files[1], (300, 300))
    assert not compiling.is_compiled(stand_in(tmp_path), files)


def test_the_digest_covers_every_file_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(annealing_loop.__file__).parent
    assert {path.name for path in sources.sources()} == {path.name for path in folder.glob("*.py")}
    copies = []
    for source in sources.sources():
        copies.append(tmp_path / source.name)
        copies[-1].write_bytes(source.read_bytes())
    before = sources.digest_of_sources()
    monkeypatch.setattr(sources, "sources", lambda: copies)
    assert sources.digest_of_sources() == before
    copies[0].write_text(copies[0].read_text() + "\n")
    assert sources.digest_of_sources() != before


def test_the_digest_is_part_of_the_cache_key() -> None:
    first, second = (annealing_loop._with_digest(digest) for digest in (1, 2))
    cells = [function.py_func.__closure__ for function in (first, second)]  # type: ignore[attr-defined]
    assert [cell.cell_contents for (cell,) in cells] == [1, 2]


def test_without_a_folder_for_compiled_forms_each_process_compiles_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def njit(*, cache: bool = False, **options: object) -> Callable[..., object]:
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available")  # as numba says it
        return lambda function: function

    monkeypatch.setattr(compiling.numba, "njit", njit)
    compiling._say_that_nothing_is_kept.cache_clear()
    with caplog.at_level(logging.WARNING, "remat_planner"):
        assert compiling.entrance(len) is len
        assert compiling.entrance(max) is max
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1


def test_compiling_does_not_outlast_the_time_limit() -> None:
    assert compiling.in_time(Deadline(1.0), compiled=True)
    assert not compiling.in_time(Deadline(1.0), compiled=False)
    assert compiling.in_time(Deadline(compiling.COMPILING + 60), compiled=False)
