import pytest

from dlrun.cli.main import main

MISTAKES = [
    (["tran"], 2, "'tran' is no command of dlrun; did you mean 'train'?"),
    (["help", "evl"], 2, "'evl' is no command of dlrun; did you mean 'eval'?"),
    (["zzz"], 2, "'zzz' is no command of dlrun; there are: board, completion, eval, "),
    (["train", "--multrun"], 2, "'dlrun train' has no option '--multrun'; did you mean '--multirun'?"),
    (["--multrun", "model=cnn"], 2, "did you mean '--multirun'?"),
    (["runs", "--x"], 2, "'dlrun runs' has no option '--x'; "),
    (["train", "--outputs"], 2, "--outputs wants a value; write 'dlrun train --outputs DIR'"),
    (["train", "--outputs="], 2, "--outputs wants a value"),
    (["train", "--json=1"], 2, "--json takes no value"),
    (["train", "--cfg", "jbo"], 2, "--cfg cannot be 'jbo'; did you mean 'job'?"),
    (["train", "--resolve"], 2, "--resolve goes with --cfg; write 'dlrun train --cfg job --resolve'"),
    (["train", "-p", "optimizer"], 2, "--package goes with --cfg"),
    (
        ["train", "--cfg", "job", "-p", "optimzer"],
        2,
        "--package optimzer: the config has no such key; did you mean 'optimizer'?",
    ),
    (["train", "--cfg", "job", "-p", "a[["], 2, "--package a[[: "),
    (["train", "--cfg", "job", "-m", "a=1,2"], 2, "--cfg prints one config and --multirun makes many"),
    (["train", "modle=cnn"], 2, "modle=cnn: there is no group or key 'modle'; did you mean 'model'?"),
    (["train", "trust=[my-pkg]"], 2, "trust takes names of Python packages, not 'my-pkg'"),
    (["train", "trust="], 2, "trust takes names of Python packages, not ''"),
    (["train", "-m", "optimizer.lr=1,2", "modle=cnn"], 2, "did you mean 'model'?"),
    (["eval"], 2, "'dlrun eval' wants a RUN: a directory, a unique part of a name, or last"),
    (["predict"], 2, "'dlrun predict' wants a RUN"),
    (["resume"], 2, "'dlrun resume' wants a RUN"),
    (["eval", "nothing"], 2, "there is no run 'nothing' under outputs"),
    (["eval", "last", "more"], 2, "'dlrun eval' takes one RUN; 'more' is too many"),
    (["eval", "last", "--split", "tset"], 2, "--split cannot be 'tset'; did you mean 'test'?"),
    (["predict", "last", "--length", "0"], 2, "--length wants a whole number from 1 to 100000, not '0'"),
    (["predict", "last", "--count", "x"], 2, "--count wants a whole number from 1 to 10000, not 'x'"),
    (["predict", "last", "--temperature", "warm"], 2, "--temperature wants a number of at least 0, such as 0.8, not"),
    (["predict", "last", "--temperature=nan"], 2, "--temperature wants a number of at least 0"),
    (["predict", "last", "--output", "-", "--json"], 2, "--json and --output - both write to standard output"),
    (["predict", "last", "no.csv"], 3, "there is no file or folder 'no.csv' to predict from"),
    (["profile", "--steps", "0"], 2, "--steps wants a whole number from 1 to 1000000, not '0'"),
    (["profile", "modle=cnn"], 2, "did you mean 'model'?"),
    (["list", "optimzer"], 2, "there is no group 'optimzer'; did you mean 'optimizer'?"),
    (["runs", "model"], 2, "'dlrun runs' takes no words; 'model' is too many"),
    (["runs", "--limit", "0"], 2, "--limit wants a whole number of at least 1, not '0'"),
    (["runs", "--limit", "many"], 2, "--limit wants a whole number of at least 1, not 'many'"),
    (["runs", "--limit", "-3"], 2, "--limit wants a whole number of at least 1, not '-3'"),
    (["runs", "--filter", "digits"], 2, "--filter takes KEY=VALUE, not 'digits'"),
    (["runs", "--filter", "modell=mlp"], 2, "--filter modell: no run has such a key; did you mean 'model'?"),
    (
        ["runs", "--sort", "test/acuracy"],
        2,
        "--sort test/acuracy: no run has such a key; did you mean 'test/accuracy'?",
    ),
    (["board", "x"], 2, "'dlrun board' takes no words"),
    (["board", "--port", "70000"], 2, "--port wants a whole number from 1 to 65535, not '70000'"),
    (["completion"], 2, "'dlrun completion' wants the name of a shell"),
    (["completion", "zhs"], 2, "there is no completion for 'zhs'; did you mean 'zsh'?"),
    (["completion", "zsh", "bash"], 2, "'bash' is too many"),
    (["train", "fail=data"], 3, "table.csv, row 3: 'x' is no number"),
    (["train", "fail=locked"], 5, "process 7 works on this run"),
    (["train", "fail=diverged"], 6, "the loss became NaN at step 7"),
    (
        ["train", "fail=full"],
        7,
        "the disk is full at '/o/x'; free some space or choose another place with --outputs DIR",
    ),
    (["train", "fail=readonly"], 7, "the disk is read-only"),
    (["train", "fail=memory"], 8, "lower trainer.batch_size (and raise trainer.accumulate"),
    (["train", "fail=accelerator"], 8, "lower trainer.batch_size"),
    (["train", "fail=allocator"], 8, "lower trainer.batch_size"),
    (["train", "fail=interrupt"], 130, "interrupted"),
    (["eval", "a\x1b[31m\nb"], 2, "there is no run 'a\\x1b[31m\\nb'"),
]


@pytest.mark.parametrize(("words", "code", "sentence"), MISTAKES, ids=[" ".join(map(ascii, m[0])) for m in MISTAKES])
def test_a_mistake_gets_one_sentence_and_its_exit_code(dlrun, words, code, sentence):
    got, out, err = dlrun(*words)
    assert got == code
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


def test_debug_keeps_the_exception(fakes):
    with pytest.raises(fakes.FAILURES["fail=data"].__class__):
        main(["train", "fail=data", "--debug"])


def test_a_bug_keeps_its_traceback(dlrun):
    code, _, err = dlrun("train", "fail=bug")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert err.splitlines()[-1].startswith("error: this is a bug of dlrun; please report it")


def test_the_word_error_is_red_on_a_terminal_alone(monkeypatch, capsys):
    import sys

    from dlrun.cli.failures import say

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    say("x")
    monkeypatch.setenv("NO_COLOR", "1")
    say("x")
    assert capsys.readouterr().err == "\x1b[31merror:\x1b[0m x\nerror: x\n"
