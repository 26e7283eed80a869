"""The commands of docs/tutorial.md in a terminal, recorded as text: docs/session.md.

    python -m benchmarks.session

``tests/test_docs.py`` runs the same commands, and compares the headings and the losses with those of the recording.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
RECORDING = _ROOT / "docs" / "session.md"
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
_HEAD = """# A session

The commands of [the tutorial](tutorial.md), and what they print; `python -m benchmarks.session` recorded it. The model is that
of the tutorial, `train.py` limits the process to 320 MB for a step.

```text
"""
_TRACEBACK = re.compile(r"^Traceback.*?\n(?=\w)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command as it was typed, what it printed on stdout and stderr, and whether it is to fail."""

    text: str
    printed: str
    code: int
    fails: bool


def commands(folder: Path) -> Iterator[Command]:
    """Run the tutorial in ``folder``: its files are written, its commands run as they come."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUTF8": "1"}
    plan = folder / "plan"  # the command, as an installation would put it on the path
    plan.write_text(f'#!/bin/sh\nexec {sys.executable} -m remat_planner "$@"\n')
    plan.chmod(0o755)
    environment["PATH"] = f"{folder}:{Path(sys.executable).parent}:{environment['PATH']}"
    for language, title, text in _BLOCK.findall((_ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if language == "python":
            (folder / title).write_text(text)
        elif language == "bash":
            run = subprocess.run(["bash", "-ec", text], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
            yield Command(text.strip(), run.stderr + run.stdout, run.returncode, fails=title == "fails")


def recorded(session: Iterator[Command]) -> str:
    """The page of the session."""
    parts = [f"$ {command.text}\n{_shortened(command.printed)}\n" for command in session]
    return _HEAD + "\n".join(parts) + "```\n"


def headings(printed: str) -> set[str]:
    """The headings of reports, and what training prints: the lines that are the same each time."""
    return {line for line in map(str.rstrip, printed.splitlines()) if re.fullmatch(r"[A-Z][A-Za-z ]+|step \d: loss .*", line)}


def _shortened(printed: str) -> str:
    """Without the frames of a traceback, and the ends of long lines."""
    printed = _TRACEBACK.sub("Traceback (most recent call last):\n  ...\n", printed)
    return "\n".join(line.rstrip() if len(line) <= 110 else f"{line[:107]}..." for line in printed.strip().splitlines())


def main() -> None:
    """Write the recording."""
    with tempfile.TemporaryDirectory() as folder:
        RECORDING.write_text(recorded(commands(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main()
