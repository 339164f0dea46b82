"""The benchmark of packs runs from end to end; what it measures on a busy machine is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_it_writes_a_row_for_each_size_and_keeps_other_machines(repository: Path, tmp_path: Path) -> None:
    words = ["--quick", "--device", "cpu", "--cases", "784-16-10, an order", "--results", str(tmp_path)]
    (tmp_path / "packing.json").write_text(json.dumps({"cuda: another": {"context": {"date": "then"}, "rows": []}}))
    program = repository / "scripts" / "bench" / "packing.py"
    done = subprocess.run([sys.executable, program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    machines = json.loads((tmp_path / "packing.json").read_text())
    assert next(iter(machines)) == "cuda: another"
    (here,) = (found for name, found in machines.items() if name != "cuda: another")
    assert [(row["lanes"], row["threads"]) for row in here["rows"]] == [(1, 1), (4, 1)]
    for row in here["rows"]:
        assert row["per_second"].keys() == {"serial", "eager"}
        assert all(found["low"] > 0 for found in row["per_second"].values())
        assert row["over_serial"] == row["over_best_other"]
    text = (tmp_path / "packing.md").read_text()
    assert text == done.stdout.rstrip() + "\n"
    assert "| MLP 784-16-10, an order each | 4 | 1 |" in text
    assert "## cuda: another" in text
