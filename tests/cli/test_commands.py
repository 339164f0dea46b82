import json
from pathlib import Path

import pytest

from dlrun.cli.commands import BY_NAME, COMMANDS

TO_PREDICT = ("--prompt", "--length", "--temperature", "--top-k", "--count", "--seed")


def test_the_surface_is_frozen():
    options = {c.name: sorted(flag for o in c.options for flag in o.flags if flag not in ("-h",)) for c in COMMANDS}
    shared = ["--debug", "--help"]
    assert options == {
        "train": sorted(
            (
                "--multirun -m --cfg -c --resolve --package -p --config-dir -cd --outputs --json " + " ".join(shared)
            ).split()
        ),
        "sweep": sorted(
            (
                "--workers --dry-run --again --resume --worker --config-dir -cd --outputs --json " + " ".join(shared)
            ).split()
        ),
        "eval": sorted([*shared, "--split", "--outputs", "--json"]),
        "predict": sorted([*shared, *TO_PREDICT, "--output", "--outputs", "--json"]),
        "resume": sorted([*shared, "--outputs", "--json"]),
        "show": sorted([*shared, "--config", "--config-dir", "-cd", "--json"]),
        "profile": sorted(
            [*shared, "--steps", "--trace", "--try-compile", "--config-dir", "-cd", "--outputs", "--json"]
        ),
        "list": sorted([*shared, "--config-dir", "-cd", "--json"]),
        "runs": sorted([*shared, "--sort", "--filter", "--limit", "--sweep", "--all", "--outputs", "--json"]),
        "board": sorted([*shared, "--port", "--host", "--outputs"]),
        "completion": shared,
    }


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(dlrun, words):
    code, out, err = dlrun(*words)
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_each_command_explains_itself(dlrun, name):
    assert dlrun(name, "--help") == dlrun("help", name)
    code, out, _ = dlrun(name, "-h")
    assert code == 0
    assert out.startswith(f"usage: dlrun {name}")
    assert all(flag in out for option in BY_NAME[name].options for flag in option.flags)


def test_help_of_train_teaches_overrides_and_names_the_groups(dlrun):
    _, out, _ = dlrun("train", "--help")
    assert "dlrun train model=cnn optimizer=adam" in out
    for group in ("model", "optimizer", "loss", "data"):
        assert f"\n  {group} " in out


def test_version(dlrun):
    from dlrun import __version__

    assert dlrun("--version") == (0, f"dlrun {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["train", "model=cnn", "+x=1", "~y"], ["model=cnn", "+x=1", "~y"]),
        (["model=cnn"], ["model=cnn"]),
        (["+x=1"], ["+x=1"]),
        (["--outputs", "o", "train", "model=cnn"], ["model=cnn"]),
        (["--outputs=o", "model=cnn"], ["model=cnn"]),
        (["train"], []),
        (["train", "a=-1", "--", "--b"], ["a=-1", "--b"]),
    ],
)
def test_overrides_reach_the_trainer(dlrun, fakes, words, overrides):
    assert dlrun(*words)[0] == 0
    assert fakes.CALLS[-1][1] == overrides


def test_train_passes_folder_command_and_trust(dlrun, fakes):
    code, _, _ = dlrun("train", "trust=[a, b.c]", "x=1", "--outputs", "o", "-cd", "d", "--config-dir=e", "trust=a")
    assert code == 0
    assert fakes.CALLS[0] == ("compose", ["x=1"], [Path("d"), Path("e")])
    _, words, root, command, trusted = fakes.CALLS[1]
    assert (words, root, trusted) == (["x=1"], Path("o"), ("a", "b.c"))
    assert command[:4] == ["dlrun", "train", "trust=[a, b.c]", "x=1"]


def test_train_in_a_pipe_is_plain_and_complete(dlrun):
    _, out, err = dlrun("train")
    assert err == ""
    assert "\x1b" not in out
    assert "10 classes\\x1b]0;x\\x07" in out
    lines = out.splitlines()
    assert any(
        line.split() == ["step", "epoch", "train/loss", "val/loss", "val/accuracy", "baseline", "accuracy"]
        for line in lines
    )
    assert any(line.split() == ["100", "1.0", "1.500", "0.5000", "0.9000", "0.1011"] for line in lines)
    assert any(line.split() == ["test/accuracy", "0.9123", "0.1011"] for line in lines)
    assert lines[-1].split() == ["run", "outputs/2026-11-21/143005-mlp-adam-k7f2"]


def test_train_json_keeps_standard_output_for_json(dlrun):
    code, out, err = dlrun("train", "--json")
    assert code == 0
    assert json.loads(out) == {
        "path": "outputs/2026-11-21/143005-mlp-adam-k7f2",
        "status": "done",
        "exit_code": 0,
        "metrics": {"test/loss": 0.4567891, "test/accuracy": 0.91234},
    }
    assert "0.9123" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--cfg", "job"],
            "optimizer:\n  lr: 0.01\n  rate: ${optimizer.lr}\n  none: null\ntrainer:\n  devices: 1\nwords:\n- a=1\n",
        ),
        (["-c", "job", "-p", "optimizer", "--resolve"], "# @package optimizer\nlr: 0.01\nrate: 0.01\nnone: null\n"),
        (["--cfg=job", "--package=optimizer.lr"], "# @package optimizer.lr\n0.01\n"),
        (["--cfg=job", "--package=optimizer.none"], "# @package optimizer.none\nNone\n"),
    ],
)
def test_cfg_prints_and_trains_nothing(dlrun, fakes, words, expected):
    assert dlrun("train", "a=1", *words) == (0, expected, "")
    assert [call[0] for call in fakes.CALLS] == ["compose"]


def test_cfg_all_adds_what_dlrun_was_told(dlrun):
    _, out, _ = dlrun("train", "a=1", "--cfg", "all", "--outputs", "o")
    assert "dlrun:\n  outputs: o\n" in out
    assert "optimizer:\n  lr: 0.01" in out


def test_eval(dlrun, fakes):
    code, out, _ = dlrun("eval", "last", "--split", "val", "trust=mypkg")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines.count(["val/loss", "nan"]) == lines.count(["val/accuracy", "0.9000"]) == 1
    assert fakes.CALLS[-1][2:] == ("val", ("mypkg",))
    _, out, _ = dlrun("eval", "last", "--json")
    assert json.loads(out)["metrics"] == {"test/loss": "NaN", "test/accuracy": 0.9}


def test_predict_shows_some_rows_and_names_the_file(dlrun, fakes, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("a\n1\n")
    code, out, _ = dlrun("predict", "last", str(file), "--output", "p.csv")
    assert code == 0
    assert "cat\\x1b[31m       0.9877" in out
    assert out.count("row ") == 20
    assert out.splitlines()[-1] == "and 5 more, all in p.csv"
    assert fakes.CALLS[-1][2:4] == ([file], Path("p.csv"))
    _, out, _ = dlrun("predict", "last", str(file), "--json")
    assert json.loads(out).keys() == {"path", "predictions"}
    assert len(json.loads(out)["predictions"]) == 25


def test_predict_prints_a_text_and_passes_what_was_wished(dlrun, fakes):
    words = ["predict", "last", "--prompt", "say", "--length=7", "--temperature", "0.5", "--top-k", "3", "--seed", "9"]
    code, out, _ = dlrun(*words)
    assert code == 0
    assert out.splitlines() == ["said", "all in outputs/2026-11-21/143005-mlp-adam-k7f2/predictions/1.csv"]
    wishes = fakes.CALLS[-1][4]
    assert (wishes.prompt, wishes.length, wishes.temperature, wishes.top_k, wishes.seed) == ("say", 7, 0.5, 3, 9)
    assert wishes.count is None
    assert json.loads(dlrun(*words, "--json")[1])["text"] == "said"
    assert dlrun(*words, "--output", "-")[1] == "said\n"


def test_resume_takes_overrides(dlrun, fakes):
    code, out, err = dlrun("resume", "last", "trainer.epochs=5", "--json")
    assert code == 0
    assert fakes.CALLS[-1][2] == ["trainer.epochs=5"]
    assert json.loads(out)["metrics"] == {"test/accuracy": 0.9}
    assert err == "note: the run is finished\n"


def test_show_prints_every_layer_and_the_sums(dlrun):
    code, out, _ = dlrun("show", "model=resnet")
    assert code == 0
    assert "hidden:\n  - 64" in out
    assert out.count("Linear") == 60
    assert ["all", "124,800", "123k"] in [line.split() for line in out.splitlines()]
    _, out, _ = dlrun("show", "--json")
    shown = json.loads(out)
    assert (shown["parameters"], len(shown["layers"]), shown["config"]) == (124800, 60, {"model": {"hidden": [64]}})
    assert shown["choices"][0] == {"what": "data", "chosen": "digits", "why": "1,797 images"}


def test_show_config_prints_the_config_alone(dlrun):
    code, out, _ = dlrun("show", "--config", "model=resnet")
    assert code == 0
    assert "- model=resnet" in out
    assert "Conv" not in out
    _, out, _ = dlrun("show", "--config", "--json")
    assert list(json.loads(out)) == ["config"]


def test_list(dlrun):
    code, everything, _ = dlrun("list")
    assert code == 0
    assert "\n  adam " in everything
    _, one, _ = dlrun("list", "optimizer")
    assert one.startswith("optimizer\n")
    assert "loss\n" not in one
    assert len(one.splitlines()) > 10
    _, out, _ = dlrun("list", "optimizer", "loss", "--json")
    assert list(json.loads(out)) == ["optimizer", "loss"]
    assert all(json.loads(out)["optimizer"].values())


def test_list_has_the_groups_of_a_config_dir(dlrun, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# my own\nhidden: 3\n")
    lines = dlrun("list", "model", "--config-dir", str(tmp_path))[1].splitlines()
    assert ["mine", "my", "own"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["dddd", "cccc", "bbbb", "aaaa"]),
        (["--limit", "2"], ["dddd", "cccc"]),
        (["--sort", "test/accuracy"], ["aaaa", "dddd", "cccc", "bbbb"]),
        (["--sort", "-seconds"], ["dddd", "aaaa", "cccc", "bbbb"]),
        (["--sort", "run"], ["aaaa", "bbbb", "cccc", "dddd"]),
        (["--sort=-data.name"], ["bbbb", "aaaa", "dddd", "cccc"]),
        (["--filter", "status=done"], ["dddd", "aaaa"]),
        (["--filter", "data=digits"], ["aaaa"]),
        (["--filter", "run=*cnn*", "--filter", "status=div*"], ["bbbb"]),
        (["--filter", "status=nothing"], []),
    ],
)
def test_runs_are_sorted_filtered_and_limited(dlrun, words, names):
    code, out, _ = dlrun("runs", *words, "--json")
    assert code == 0
    assert [record["path"][-4:] for record in json.loads(out)] == names


def test_runs_table_has_the_key_metric_and_the_time(dlrun):
    lines = dlrun("runs")[1].splitlines()
    assert lines[0].split() == ["run", "status", "data", "model", "optimizer", "steps", "metric", "time", "created"]
    assert "test/r2 0.5000" in lines[1]
    assert "1:01:40" in lines[1]
    assert lines[4].split() == [
        *["100000-mlp-adam-aaaa", "done", "digits", "mlp", "adam", "1,200", "test/accuracy", "0.9700", "1:05"],
        *["2026-11-20", "10:00"],
    ]


def test_runs_of_an_empty_folder(dlrun):
    code, out, err = dlrun("runs", "--outputs", "empty")
    assert (code, out) == (0, "")
    assert err == "there are no runs under empty; 'dlrun train' makes one\n"
    assert dlrun("runs", "--outputs", "empty", "--json")[1] == "[]\n"


def test_board_becomes_tensorboard_on_this_machine_only(dlrun, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr("dlrun.cli.board.os.execv", lambda program, words: started.append(words))
    monkeypatch.setattr("dlrun.cli.board.FIRST_PORT", 47006)
    _, out, err = dlrun("board", "--outputs", str(tmp_path))
    words = started[0]
    assert words[1:5] == ["-m", "tensorboard.main", "--logdir", str(tmp_path)]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert f"http://127.0.0.1:{words[words.index('--port') + 1]}/" in out
    assert err == ""
    _, out, err = dlrun("board", "--host", "0.0.0.0", "--port", "6123", "--outputs", str(tmp_path / "none"))
    assert started[1][-4:] == ["--host", "0.0.0.0", "--port", "6123"]
    assert "no password" in err
    assert "no runs" in out


def test_board_takes_the_next_free_port(monkeypatch):
    import socket

    from dlrun.cli import board

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(board, "FIRST_PORT", port)
        assert board.free_port("127.0.0.1") > port
