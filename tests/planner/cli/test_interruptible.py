"""Ctrl-C ends the command at once, in Python code and in compiled code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from tests.planner.command_line import Call, written


@pytest.mark.slow
def test_interrupted_while_solving(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("remat_planner.planner.cli.progress.Stages.started", interrupt)
    run = call("--budget", "70%", "net.py")
    assert run.code == ExitCode.INTERRUPTED
    assert "interrupted" in run.err
    assert "Traceback" not in run.err
    assert written(folder) == set()


@pytest.mark.slow
@pytest.mark.parametrize("during", ["loading", "solving"])
def test_a_real_interrupt_ends_the_process(folder: Path, during: str) -> None:
    (folder / "slow.py").write_text(
        "import time, pathlib\ndef build():\n    pathlib.Path('started.txt').touch()\n    time.sleep(600)\n"
    )
    # As in a mixed-integer program: compiled code that Python does not get a word in.
    solving = "p.schedule_step = lambda *a, **k: (open('started.txt', 'w').close(), ctypes.CDLL(None).sleep(600))"
    # Tests in the background of a script are started with interrupts ignored, and so would their children be.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    imports = "import ctypes, importlib, signal, remat_planner.planner.cli as cli"
    imports += "; p = importlib.import_module('remat_planner.planner.plan')"
    code = f"{imports}; {heard}; {solving}; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--budget", "1GB", "slow.py" if during == "loading" else "net.py"],
        env=os.environ | {"PYTHONPATH": str(Path(remat_planner.__file__).resolve().parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "started.txt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert written(folder) == {"started.txt"}
