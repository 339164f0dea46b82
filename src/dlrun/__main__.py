"""``python -m dlrun`` is ``dlrun``."""

from dlrun.cli.main import entry

if __name__ == "__main__":
    entry()
