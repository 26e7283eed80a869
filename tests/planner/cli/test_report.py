"""``plan report``: each form is written beside the schedule, or where it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from remat_planner.planner.cli.exit_codes import ExitCode
from tests.planner.command_line import Call

_DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.mark.slow
def test_each_form_is_written(call: Call, folder: Path) -> None:
    shutil.copy(_DATA / "schedule_format_1.json", folder / "net.schedule.json")
    for to, name, begins in (
        ("html", "net.html", b"<!doctype html>"),
        ("perfetto", "net.trace.json", b'{"displayTimeUnit"'),
        ("memory-viz", "net.pickle", b"\x80\x04"),
        ("csv", "net.csv", b"region,step,op,"),
    ):
        run = call("report", "net.schedule.json", "--to", to)
        assert (run.code, run.out.partition(" ")[0]) == (ExitCode.OK, name), run.err
        assert (folder / name).read_bytes().startswith(begins)
    page = (folder / "net.html").read_text()
    assert "a plan with" in page  # how the plan compares with a little more memory
    assert "Schedule.load(&#39;net.schedule.json&#39;)" in page


@pytest.mark.slow
def test_what_cannot_be_written(call: Call, folder: Path) -> None:
    shutil.copy(_DATA / "region_schedule_format_1.json", folder / "net.schedule.json")
    assert "cannot be written" in call("report", "net.schedule.json", "-o", "absent/net.html").err
    assert call("report", "net.schedule.json", "-o", "page.html").code == ExitCode.OK
    assert "blocks.0" in (folder / "page.html").read_text()
    (folder / "no_curve.json").write_text('{"points": [{}]}')
    for name, message in (("no_curve.json", "is not what `plan curve --json` writes"), ("absent.json", "cannot be read")):
        run = call("report", "net.schedule.json", "--curve", name)
        assert (run.code, message in run.err) == (ExitCode.USAGE, True)
    assert call("report", "net.schedule.json", "--to", "csv").code == ExitCode.OK
