import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlrun.cli.commands import BY_NAME, COMMANDS
from dlrun.cli.complete import candidates


def words(line):
    return [word for word, _ in candidates(line)]


def test_commands():
    assert words("dlrun ") == [*BY_NAME, "help"]
    assert words("dlrun r") == ["resume", "runs"]
    assert words("dlrun help sh") == ["show"]
    assert words("dlrun --v") == ["--version"]
    assert words("dlrun nothing ") == []
    assert all(meaning for _, meaning in candidates("dlrun "))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_options_of_each_command(command):
    assert words(f"dlrun {command.name} --") == [option.name for option in command.options]


def test_groups_options_and_keys():
    assert "model=" in words("dlrun train mod")
    assert "optimizer=adam" in words("dlrun train model=mlp optimizer=a")
    assert dict(candidates("dlrun train optimizer=ad"))["optimizer=adam"]
    assert words("dlrun train optimizer=adam optimizer.l") == ["optimizer.lr="]
    assert "model=mlp" in words("dlrun model=m")
    assert "model=mlp" in words("dlrun train trust=[x] --json --outputs o model=m")
    assert "model=mlp" in words("dlrun show model=m")
    assert "optimizer" in words("dlrun list opt")
    assert "optimizer" in words("dlrun train --cfg job --package opt")


def test_values_of_options(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert words("dlrun eval --split v") == ["val"]
    assert words("dlrun train --cfg ") == ["job", "all"]
    assert words("dlrun train --outputs f") == ["folder/"]
    assert words("dlrun train --outputs=f") == ["--outputs=folder/"]
    assert words("dlrun predict --output f") == ["file.csv", "folder/"]
    assert words("dlrun train data=csv data.path=fi") == ["data.path=file.csv"]
    assert words(f"dlrun train data.root={tmp_path}/fo") == [f"data.root={tmp_path}/folder/"]
    assert words("dlrun runs --sort -mod") == ["-model"]
    assert words("dlrun runs --limit ") == []


def test_groups_of_a_config_dir(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# my own\nhidden: 3\n")
    assert words(f"dlrun train --config-dir {tmp_path} model=mi") == ["model=mine"]


def test_names_of_runs_newest_first(tmp_path):
    for name in ("2026-11-20/100000-mlp-adam-aaaa", "2026-11-21/090000-cnn-adam-bbbb"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "in.csv").touch()
    found = ["last", "090000-cnn-adam-bbbb", "100000-mlp-adam-aaaa"]
    assert words(f"dlrun eval --outputs {tmp_path} ") == found
    assert words(f"dlrun resume --outputs {tmp_path} 1") == found[2:]
    assert words(f"dlrun predict --outputs={tmp_path} last {tmp_path}/i") == [f"{tmp_path}/in.csv"]
    assert words(f"dlrun eval {tmp_path}/2026-11-2") == [f"{tmp_path}/2026-11-20/", f"{tmp_path}/2026-11-21/"]


def test_shells_have_a_script():
    assert words("dlrun completion ") == ["bash", "zsh", "fish"]


def test_a_half_typed_line_is_silent_and_torch_stays_away():
    program = (
        "import sys; from dlrun.cli.main import main; "
        "assert main(['__complete', 'dlrun train optimizer=adam optimizer.']) == 0; "
        "assert main(['__complete', 'dlrun train model=[[[ optimizer=nothing a']) == 0; "
        "assert main(['__complete', 'dlrun eval ']) == 0; "
        "assert main(['__complete', '']) == 0; "
        "assert main(['__complete']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "optimizer.lr=\n" in done.stdout
    assert done.stderr == ""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a script in a real shell in which 'dlrun' is this one."""
    program = tmp_path / "bin" / "dlrun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlrun "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path('/usr/bin')}:{Path('/bin')}")
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(name, script):
        if shutil.which(name) is None:
            pytest.skip(f"there is no {name} here")
        flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
        done = subprocess.run([name, *flags, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


BASH = """
eval "$(dlrun completion bash)"
ask() {{
  COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDBREAKS="{breaks}"
  compopt() {{ :; }}
  _dlrun
  printf '%s\\n' "${{COMPREPLY[@]}}"
}}
ask "dlrun tr"
ask "dlrun train optimizer=adamw"
ask "dlrun train optimizer=adam optimizer.l"
ask "dlrun eval --split v"
complete -p dlrun
"""


def test_bash_replaces_the_piece_after_the_equals_sign_alone(shell):
    out = shell("bash", BASH.format(breaks=" =:"))
    assert out.splitlines() == ["train", "adamw", "optimizer.lr=", "val", "complete -F _dlrun dlrun"]


def test_bash_replaces_the_whole_word_where_equals_breaks_none(shell):
    assert shell("bash", BASH.format(breaks=" ")).splitlines()[1] == "optimizer=adamw"


def test_fish(shell):
    script = """dlrun completion fish | source
    complete -C 'dlrun tr'
    complete -C 'dlrun train optimizer=adamw'
    complete -C 'dlrun eval --split v'
    complete -C 'dlrun res'"""
    lines = shell("fish", script).splitlines()
    assert [line.split("\t")[0] for line in lines] == ["train", "optimizer=adamw", "val", "resume"]
    assert lines[0].split("\t")[1] == BY_NAME["train"].meaning


class Zsh:
    """An interactive zsh in a pseudo terminal: zsh completes in its line editor alone, so the keys are typed."""

    def __init__(self):
        self.master, slave = pty.openpty()
        environment = dict(os.environ, TERM="dumb", COLUMNS="200")
        self.child = subprocess.Popen(
            ["zsh", "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def type(self, keys, expected):
        """Press the keys; what is shown until ``expected`` is."""
        os.write(self.master, keys.encode())
        shown = ""
        while expected not in shown and select.select([self.master], [], [], 20)[0]:
            shown += os.read(self.master, 65536).decode().replace("\a", "")
        return shown

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.master)


def test_zsh(shell):
    assert shell("zsh", "true") == ""
    zsh = Zsh()
    try:
        start = """PS1=; autoload -Uz compinit; compinit -u -D; eval "$(dlrun completion zsh)"; echo RE'A'DY\n"""
        assert "READY" in zsh.type(start, "READY")
        for typed, completed in [
            ("dlrun tra", "dlrun train "),
            ("dlrun train optimizer=adamw", "optimizer=adamw "),
            ("dlrun train optimizer=adam optimizer.l", "optimizer.lr="),
            ("dlrun eval --split v", "--split val "),
        ]:
            assert completed in zsh.type(f"\x15{typed}\t", completed)
    finally:
        zsh.close()
