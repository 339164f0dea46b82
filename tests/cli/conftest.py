import importlib.util
import sys
from pathlib import Path

import pytest


def load_fakes():
    path = Path(__file__).with_name("fakes.py")
    spec = importlib.util.spec_from_file_location("cli_fakes", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cli_fakes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fakes_module():
    return load_fakes()


@pytest.fixture
def fakes(fakes_module, monkeypatch):
    """Everything below the command line is faked; ``fakes.CALLS`` has what was called."""
    import dlrun.config

    for name, module in fakes_module.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(dlrun.config, "compose", fakes_module.compose)
    fakes_module.CALLS.clear()
    return fakes_module


@pytest.fixture
def dlrun(fakes, capsys, tmp_path, monkeypatch):
    """Call ``dlrun WORDS`` in a folder without runs; gives the exit code, standard output and standard error."""
    from dlrun.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call
