import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAKES = str(Path(__file__).with_name("fakes.py"))


def python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["help"], ["train", "--oops"], ["tran"], ["completion", "bash"]]
)
def test_light_commands_import_nothing_heavy(words):
    program = (
        f"import sys; from dlrun.cli.main import main; main({words!r}); "
        "print(sorted({'torch', 'hydra', 'omegaconf', 'rich', 'numpy', 'dlrun.run'} & set(sys.modules)))"
    )
    assert python("-c", program).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["train", "--help"],
        ["train", "--cfg", "job"],
        ["show", "--config", "model=cnn"],
        ["show", "modle=cnn"],
    ],
)
def test_commands_without_a_network_never_import_torch(words):
    program = f"import sys; from dlrun.cli.main import main; main({words!r}); print(sys.modules.get('torch'))"
    assert python("-c", program).stdout.splitlines()[-1] == "None"


HEAVY = (
    *("torch._dynamo", "torch._inductor.config", "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes"),
    *(
        "sympy",
        "torchvision",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "torchmetrics",
        "optuna",
        "sqlalchemy",
        "ray",
    ),
)


@pytest.mark.parametrize(
    "words", [["model=mlp"], ["data=spiral", "model=mlp", "optimizer=rmsprop", "trainer.clip_norm=1"]], ids=" ".join
)
def test_a_training_imports_nothing_that_takes_long(words, tmp_path):
    words = ["train", "trainer.steps=3", "trainer.evaluate_steps=2", "--outputs", str(tmp_path), *words]
    program = (
        f"import sys; from dlrun.cli.main import main; code = main({words!r}); "
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python("-c", program).stdout.splitlines()[-1] == "0 []"


def test_what_torch_s_import_made_is_out_of_the_collector_s_sight(tmp_path):
    words = ["train", "trainer.steps=1", "--outputs", str(tmp_path)]
    program = (
        f"import gc; from dlrun.cli.main import main; main({words!r}); print(gc.isenabled(), gc.get_freeze_count())"
    )
    enabled, frozen = python("-c", program).stdout.split()[-2:]
    assert enabled == "True"
    assert int(frozen) > 100_000


def test_python_dash_m_runs_it():
    done = python("-m", "dlrun", "evl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'evl' is no command of dlrun; did you mean 'eval'?\n"


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [sys.executable, FAKES, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141


def test_names_that_the_terminal_cannot_spell_are_escaped():
    environment = dict(os.environ, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = python(FAKES, "train", "--cfg", "job", "name=\u00e9", env=environment)
    assert done.returncode == 0
    assert "\\xe9" in done.stdout


def test_ctrl_c_is_130():
    with subprocess.Popen([sys.executable, FAKES, "train", "slow=true"], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line == "ready\n":
                break
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130


def in_terminal(*words, **variables):
    """Run in a pseudo terminal of 100 columns; what it shows and the exit code."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, *words], stdin=slave, stdout=slave, stderr=slave,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "100"} | variables,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        ready, _, _ = select.select([master], [], [], 60)
        assert ready, "the terminal stays silent"
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return shown.decode(), child.wait(20)


def test_a_terminal_gets_the_bar_and_the_tables():
    text, code = in_terminal(FAKES, "train")
    assert code == 0
    for part in ("━", "40%", "step 40/100", "multiply-adds", "test/accuracy", "0.9123", "the loss stands still"):
        assert part in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "2\x1b[31m" not in text


def test_a_failure_gives_the_cursor_back_and_a_red_word():
    text, code = in_terminal(FAKES, "train", "fail=data")
    assert code == 3
    assert text == "\x1b[31merror:\x1b[0m table.csv, row 3: 'x' is no number\r\n"


def test_a_dumb_terminal_gets_plain_lines():
    text, code = in_terminal(FAKES, "train", TERM="dumb")
    assert code == 0
    assert "\x1b" not in text


def test_the_console_script_bounds_how_long_waiting_threads_spin() -> None:
    code = (
        "import os, dlrun.cli.main as m\n"
        "m.main = lambda: print(os.environ['GOMP_SPINCOUNT'], 'torch' in __import__('sys').modules) or 7\n"
        "m.entry()\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["3000", "False"], "set before torch loads"
    assert done.returncode == 7
