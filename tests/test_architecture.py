"""Which room may import which, read out of the source of every module.

A room is a folder inside one of the four packages, a file that lies directly in one, or ``schedules`` as a whole. A
package's own ``__init__`` shows its public names to the other packages. CONTRIBUTING.md draws the rooms.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import networkx as nx

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = {
    "schedules": {"schedules"},
    "solvers": {"solvers", "schedules"},
    "tracer": {"tracer", "schedules"},
    "planner": {"planner", "solvers", "tracer", "schedules"},
}
_THIRD_PARTY = {
    "schedules": {"numpy", "networkx", "pydantic"},
    "solvers": {"numpy", "networkx", "pulp", "highspy", "numba"},
}
# Each room and the rooms that it imports, those of its own package without their prefix. A new arrow is a decision: write it
# down here, and leave no circle.
_TABLE = """
schedules               -
solvers.annealing       compiling deadline problem
solvers.budget_curve    deadline interface registry solve schedules
solvers.candidates      interface schedules
solvers.chain           candidates compiling interface problem
solvers.compiling       deadline
solvers.copies          chain compiling deadline interface lazy_moments problem schedules
solvers.deadline        -
solvers.errors          -
solvers.interface       deadline problem schedules
solvers.lazy_moments    deadline interface milp problem schedules
solvers.methods         annealing candidates chain compiling copies deadline interface lazy_moments milp polish problem registry
                        two_level schedules
solvers.milp            -
solvers.polish          deadline interface problem
solvers.problem         schedules
solvers.registry        errors interface
solvers.solve           deadline errors interface problem registry schedules
solvers.two_level       deadline milp problem schedules
tracer.capture          functions garbage joint passes python_state record refusals torch_higher_order torch_nested
                        torch_private torch_private_layouts torch_surroundings torch_values
tracer.costs            errors garbage joint operators schedules torch_private
tracer.draw_range       -
tracer.errors           -
tracer.fusion           torch_inductor
tracer.functions        operators torch_functions torch_higher_order torch_private torch_script torch_sparse torch_tracing
tracer.garbage          -
tracer.graph_trace      leaves torch_private torch_tracing torch_values
tracer.joint            leaves python_state torch_nested torch_private torch_sparse
tracer.lazy_types       -
tracer.leaves           -
tracer.lower            costs garbage joint operators schedules torch_convolution torch_kernel_table torch_private
tracer.on_paper         record refusals torch_higher_order torch_kernels torch_private
tracer.operators        leaves
tracer.passes           functions graph_trace joint leaves operators record refusals torch_functions torch_private
                        torch_tracing torch_values
tracer.python_state     draw_range torch_higher_order torch_nested torch_private torch_sparse
tracer.record           draw_range errors functions graph_trace joint leaves operators python_state refusals torch_functions
                        torch_higher_order torch_kernels torch_modules torch_nested torch_private torch_script torch_sparse
                        torch_surroundings torch_tracing torch_values
tracer.refusals         errors joint lazy_types operators torch_nested torch_private torch_sparse
tracer.size_expressions  -
tracer.sizes            capture joint python_state record size_expressions torch_private torch_sizes
tracer.torch_convolution  -
tracer.torch_functions  -
tracer.torch_higher_order  -
tracer.torch_kernel_table  -
tracer.torch_inductor   -
tracer.torch_kernels    torch_private
tracer.torch_modules    -
tracer.torch_nested     -
tracer.torch_private    -
tracer.torch_script     -
tracer.torch_sparse     -
tracer.torch_private_layouts  -
tracer.torch_size_nodes  size_expressions
tracer.torch_sizes      size_expressions torch_private torch_size_nodes
tracer.torch_surroundings  -
tracer.torch_tracing    -
tracer.torch_values     -
planner.apply           compile errors formatting planning regions runtime schedules tracer.refusals
planner.cli             curve errors exports formatting memory_table model_loading module_paths partition plan planning regions
                        reports training_state verified_plan verify schedules solvers solvers.registry tracer tracer.costs
planner.codegen         distributed torch_private training_state schedules tracer.joint tracer.torch_private
planner.copies          errors schedules
planner.compile         codegen errors torch_private tracer.operators
planner.curve           plan planning reports schedules solvers
planner.distributed     tracer.lazy_types
planner.errors          formatting
planner.exports         apply errors gpu_allocator module_paths planning runtime schedules tracer tracer.functions
                        tracer.joint tracer.operators tracer.torch_private
planner.first_step      apply errors formatting plan planning runtime torch_private schedules tracer
planner.formatting      -
planner.gpu_allocator   schedules solvers
planner.integrations    apply errors first_step
planner.measurement     distributed torch_private tracer.costs tracer.joint tracer.python_state tracer.record
                        tracer.torch_private
planner.memory_table    errors planning reports training_state schedules tracer tracer.joint tracer.record
planner.model_loading   formatting tracer.errors tracer.on_paper tracer.operators tracer.record tracer.torch_private
planner.module_paths    -
planner.partition       compile errors formatting measurement plan planning torch_inductor torch_symbols schedules solvers.milp
                        tracer.costs
                        tracer.fusion tracer.joint tracer.refusals
planner.plan            errors module_paths planning regions runtime verified_plan schedules solvers tracer tracer.refusals
planner.planning        codegen errors formatting gpu_allocator module_paths training_state schedules solvers
                        solvers.problem solvers.registry tracer
                        tracer.costs tracer.errors tracer.joint tracer.lower tracer.on_paper tracer.python_state tracer.record
                        tracer.refusals tracer.sizes tracer.torch_private tracer.torch_script tracer.torch_sparse
planner.regions         distributed errors formatting measurement module_paths planning runtime torch_private training_state
                        schedules solvers solvers.milp tracer tracer.costs tracer.errors tracer.joint
                        tracer.lazy_types tracer.record tracer.refusals tracer.torch_private
planner.reports         formatting gpu_allocator measurement module_paths planning schedules solvers
planner.runtime         codegen compile copies distributed errors formatting planning torch_private training_state schedules
                        tracer tracer.functions tracer.joint tracer.lower tracer.python_state tracer.record tracer.sizes
planner.torch_inductor  -
planner.torch_private   -
planner.torch_symbols   -
planner.training_state  distributed errors measurement module_paths torch_private schedules tracer tracer.costs
planner.verified_plan   distributed errors formatting measurement planning training_state verify schedules tracer.costs
                        tracer.torch_private
planner.verify          apply distributed errors measurement planning regions runtime training_state schedules
                        tracer.costs tracer.joint tracer.python_state tracer.record
"""
_ROW = re.compile(r"^(\S+)((?:[^\n]|\n )*)", re.MULTILINE)


def _full_name(room: str, other: str) -> str:
    return other if other.partition(".")[0] in _PACKAGES else f"{room.partition('.')[0]}.{other}"


_MAY_IMPORT = {
    room: {_full_name(room, other) for other in others.split() if other != "-"} for room, others in _ROW.findall(_TABLE)
}
_MODULES = [path for package in _PACKAGES for path in sorted((_ROOT / package).rglob("*.py"))]
_OUTSIDERS = [path for folder in ("benchmarks", "examples") for path in sorted((_ROOT / folder).rglob("*.py"))]
_PREFIX = "remat_planner."
_MOST_LINES = 400


def module_of(path: Path) -> str:
    """ "planner.reports.terminal" for its file, "planner.reports" for that folder's ``__init__``."""
    parts = path.relative_to(_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module lies in; for ``solvers``, ``tracer`` and ``planner`` themselves, their public names."""
    parts = module.split(".")
    return parts[0] if parts[0] == "schedules" else ".".join(parts[:2])


@cache
def imported(path: Path) -> list[tuple[int, str, list[str]]]:
    """Line, module and names of every import, wherever in the file it stands."""
    found: list[tuple[int, str, list[str]]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found.append((node.lineno, "a relative import" if node.level else node.module or "", names))
    return found


def is_file(module: str) -> bool:
    return (_ROOT / module.replace(".", "/")).with_suffix(".py").exists()


@cache
def public_names(module: str) -> list[str]:
    """What a room exports, by its ``__all__``."""
    names: list[str] = import_module(module).__all__
    return names


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module, without the prefix, of every import of this project's own."""
    for line, module, names in imported(path):
        if module.startswith(_PREFIX):
            inside = module.removeprefix(_PREFIX)
            for name in names:  # "from remat_planner.solvers import registry" is an import of the file
                hidden = inside in _PACKAGES and is_file(f"{inside}.{name}") and name not in public_names(module)
                yield line, f"{inside}.{name}" if hidden else inside


def imports_that_a_room_may_not(path: Path) -> Iterator[str]:
    module = module_of(path)
    package, room = module.partition(".")[0], room_of(module)
    for line, name in own_imports(path):
        if name.partition(".")[0] not in _PACKAGES[package]:
            yield f"{path}:{line}: {package} must not import {name}"
        elif room not in _PACKAGES and room_of(name) not in {room, *_MAY_IMPORT[room]}:
            yield f"{path}:{line}: {room} must not import {room_of(name)}"
    third_party = _THIRD_PARTY.get(package)
    for line, name, _ in imported(path):
        top = name.partition(".")[0]
        if top in {"tests", "examples", "benchmarks", "a relative import", *_PACKAGES}:
            yield f"{path}:{line}: imports {name}"
        elif third_party is not None and top not in {"remat_planner", *third_party, *sys.stdlib_module_names}:
            yield f"{path}:{line}: {package} must not import {name}"


def imports_that_a_room_does_not_export(path: Path) -> Iterator[str]:
    room = room_of(module_of(path))
    for line, module, names in imported(path):
        inside = module.removeprefix(_PREFIX)
        if not module.startswith(_PREFIX) or room_of(inside) == room:
            continue
        other = room_of(inside)
        if other in _PACKAGES or (_ROOT / other.replace(".", "/")).is_dir():
            if inside != other:
                yield f"{path}:{line}: import from {_PREFIX}{other}, not from a file inside that room"
            public = public_names(module)
            if unknown := [name for name in names if name not in public and not is_file(f"{inside}.{name}")]:
                yield f"{path}:{line}: {module} does not export {', '.join(unknown)}"
        elif private := [name for name in names if name.startswith("_")]:
            yield f"{path}:{line}: {', '.join(private)} is private to {module}"


def test_a_room_imports_what_it_may() -> None:
    assert [wrong for path in _MODULES for wrong in imports_that_a_room_may_not(path)] == []


def test_outsiders_import_what_a_room_exports() -> None:
    assert [wrong for path in (*_MODULES, *_OUTSIDERS) for wrong in imports_that_a_room_does_not_export(path)] == []


def test_there_are_no_circles() -> None:
    rooms = nx.DiGraph([(room, other) for room, others in _MAY_IMPORT.items() for other in others])
    assert list(nx.simple_cycles(rooms)) == []
    files: nx.DiGraph[str] = nx.DiGraph()
    for path in _MODULES:
        files.add_edges_from((module_of(path), name) for _, name in own_imports(path) if name != module_of(path))
    inits = [name for name in files if name in _MAY_IMPORT and not is_file(name)] + list(_PACKAGES)
    files.remove_nodes_from(set(inits) & set(files))  # a room's __init__ only hands names on
    assert list(nx.simple_cycles(files)) == []


def test_the_table_is_the_house() -> None:
    rooms = {room_of(module_of(path)) for path in _MODULES}
    assert rooms - set(_PACKAGES) | {"schedules"} == set(_MAY_IMPORT)
    used: dict[str, set[str]] = {room: set() for room in _MAY_IMPORT}
    for path in _MODULES:
        if (room := room_of(module_of(path))) in used:
            used[room] |= {room_of(name) for _, name in own_imports(path)} - {room}
    assert used == _MAY_IMPORT, "an arrow that nothing uses leaves the table"


def test_a_file_is_short() -> None:
    assert [path for path in _MODULES if len(path.read_text(encoding="utf-8").splitlines()) > _MOST_LINES] == []


def test_the_rule_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import torch.nn\n    from remat_planner.tracer.costs import x\n    from . import sibling\n")
    assert imported(file) == [
        (2, "torch.nn", []),
        (3, "remat_planner.tracer.costs", ["x"]),
        (4, "a relative import", ["sibling"]),
    ]
