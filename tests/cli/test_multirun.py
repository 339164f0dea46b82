import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dlrun.cli import multirun

FAKES = str(Path(__file__).with_name("fakes.py"))


@pytest.fixture(autouse=True)
def _real_processes_of_the_fake(fakes, monkeypatch):
    monkeypatch.setattr(multirun, "child_command", lambda words: [sys.executable, FAKES, "train", *words])


def test_a_failing_point_does_not_stop_the_rest(capfd):
    from dlrun.cli.main import main

    assert main(["train", "-m", "lr=1", "fail=no,data,not", "--outputs", "o"]) == 3  # the code of the point that failed
    out, err = capfd.readouterr()
    assert "error: table.csv, row 3" in out  # at once, where the point's screen is
    table = [line.split() for line in out.splitlines()[-4:]]
    assert table[0] == ["point", "status", "result", "time", "run"]
    assert [row[:2] for row in table[1:]] == [["fail=no", "done"], ["fail=data", "failed"], ["fail=not", "done"]]
    assert table[1][2:4] == ["test/accuracy", "0.9123"]
    assert err == "error: 1 of 3 points failed\n"


def test_json_has_a_row_per_point(dlrun):
    code, out, _ = dlrun("train", "--multirun", "lr=1,2", "--json", "trust=[p]")
    rows = json.loads(out)
    assert code == 0
    assert [row["varied"] for row in rows] == [["lr=1"], ["lr=2"]]
    assert [row["overrides"] for row in rows] == [["lr=1"], ["lr=2"]]
    assert [row["metrics"]["test/accuracy"] for row in rows] == [0.91234, 0.91234]


def test_a_mistake_in_the_last_point_starts_none(dlrun, monkeypatch):
    monkeypatch.setattr(multirun.subprocess, "Popen", None)
    code, out, err = dlrun("train", "-m", "modle=mlp,cnn")
    assert (code, out) == (2, "")
    assert "did you mean 'model'?" in err


def test_a_signal_ends_the_point_and_the_grid(dlrun, monkeypatch):
    popen = multirun.subprocess.Popen

    def start(*words, **options):
        child = popen([sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()"], **options)
        assert child.stdout.readline() == "1\n"
        send = child.send_signal
        child.send_signal = lambda number: (send(number), sent.append(number))
        reader = child.communicate
        child.communicate = lambda: (os.kill(os.getpid(), signal.SIGTERM), reader())[1]
        return child

    sent = []
    monkeypatch.setattr(multirun.subprocess, "Popen", start)
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = dlrun("train", "-m", "a=1,2,3")
    assert code == 143
    assert sent == [signal.SIGTERM]
    assert "2 of 3 points were not started" in err
    assert out.count("failed") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_swept_names_what_differs():
    assert multirun.swept([["a=1", "b=1"], ["a=1", "b=2"]]) == [["b=1"], ["b=2"]]
    assert multirun.swept([["a=1"]]) == [[]]
