"""Where a plan is written: a file, or stdout."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from remat_planner.planner.cli.arguments import PlanArguments
from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.output import SafeConsole
from remat_planner.planner.model_loading import DEFAULT_NAME
from remat_planner.schedules import RegionSchedule, Schedule

_STDOUT = Path("-")


@dataclass(frozen=True)
class Saved:
    """Where a schedule is.

    Attributes:
        path: its file, as the user named it; None on stdout.
        failure: why it is not where the user wanted it, and where it is; empty if it is there.
    """

    path: str | None
    failure: str = ""


@dataclass(frozen=True)
class Target:
    """Where a plan is to be written.

    Attributes:
        named: as the user named it, or the default.
        file: the same, from the root on: the model's code may change the current folder.
    """

    named: Path
    file: Path

    @staticmethod
    def of(asked: PlanArguments) -> Target:
        """The target of a call, after checking that it can be written.

        Raises:
            UsageError: it cannot, or ``-o -`` and ``--json`` both want stdout.
        """
        named = asked.output or _default_output(asked.model)
        if named == _STDOUT:
            if asked.as_json:
                raise UsageError("-o - and --json both print a document to stdout: name a file with -o, or leave --json out")
        else:
            check_writable(named)
        return Target(named, named.absolute())

    @property
    def is_stdout(self) -> bool:
        """Whether the schedule goes to stdout, and the report to stderr."""
        return self.named == _STDOUT

    def report_to(self, result: SafeConsole) -> SafeConsole:
        """The console of the report."""
        return SafeConsole(stderr=True) if self.is_stdout else result

    def save(self, schedule: Schedule | RegionSchedule, result: SafeConsole) -> Saved:
        """Write the schedule; where the target takes it no longer, write it to the folder of temporary files."""
        if self.is_stdout:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "schedule.json"
                schedule.save(file)
                result.write(file.read_text(encoding="utf-8") + "\n")
            return Saved(None)
        try:
            schedule.save(self.file)
        except OSError as error:
            failure = f"{self.named} cannot be written ({error.strerror or error})"
        else:
            return Saved(str(self.named))
        try:
            rescue = Path(tempfile.mkdtemp(prefix="plan-")) / self.named.name
            schedule.save(rescue)
        except OSError:
            return Saved(None, f"{failure}, nor is there room for temporary files: make room, and plan again")
        return Saved(str(rescue), f"{failure}; the plan is in {rescue}")


def _default_output(model: str) -> Path:
    place, _, name = model.rpartition(":") if ":" in model else (model, "", DEFAULT_NAME)
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return Path(f"{stem}.schedule.json" if name == DEFAULT_NAME else f"{stem}-{name}.schedule.json")
