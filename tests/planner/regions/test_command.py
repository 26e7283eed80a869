"""Plans by regions on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from remat_planner.planner.cli import main


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("regions_net.py").write_text(
        "from tests.planner.regions.helpers import decoder\n\n\ndef build():\n    return decoder(layers=2)\n"
    )

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["plan", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return (caught.value.code or 0, *capsys.readouterr())

    code, out, _ = run("regions_net.py", "--budget", "70%", "--regions", "layers.*", "--verify")
    assert code == 0
    assert "2 regions planned" in out
    assert "bit for bit" in out
    assert "RegionSchedule.load('regions_net.schedule.json')" in out
    code, out, _ = run("show", "regions_net.schedule.json", "--json")
    document = json.loads(out)
    assert [name for row in document["regions"] for name in row["regions"]] == ["layers.0", "layers.1"]
    assert document["peak_bytes"] <= document["budget_bytes"]
    assert run("verify", "regions_net.schedule.json", "regions_net.py")[0] == 0
    code, _, error = run("explain", "regions_net.schedule.json", "gelu")
    assert code == 2
    assert "by regions" in error
    code, out, error = run("explain", "regions_net.schedule.json", "layers.1")
    assert code == 0, error
    assert "layers.1, in one call of its region" in out
    code, out, _ = run("regions_net.py", "--budget", "70%", "--no-verify")
    assert code == 0
    assert "2 regions planned" in out
    code, _, error = run("regions_net.py", "--budget", "70%", "--whole", "--regions", "auto")
    assert code == 2
    assert "--whole and --regions" in error
    code, _, error = run("regions_net.py", "--budget", "70%", "--whole")
    assert code == 4
    assert "--regions auto" in error
    code, _, error = run("regions_net.py", "--budget", "70%", "--regions", "layer.*")
    assert code == 4
    assert "layers.*" in error
