"""Every benchmark of dlrun as one program.

    python scripts/bench [COMMAND] [options]

    steps           time per training step: nine cases, dlrun beside hand-written loops and other runners
    cold            from Enter to the first training step, and the commands that only look
    data            images per second: resident data and streamed folders beside DataLoaders
    observability   what logging, TensorBoard, progress, history and checkpoints cost, counted
    memory          peak memory beside the hand-written loop's
    packing         packs of trials (packing.py; its own options follow)
    all             all but packing, one after the other; the default

Every table is measured in interleaved runs: each way once per repeat, in turning order; ratios are of runs within one
repeat. Results go to scripts/bench/results/COMMAND-HARDWARE-N-threads.{md,json}.

A command of your own joins the table of steps:

    python scripts/bench steps --extra mine='python mine.py {case} {batch} {steps} {device} {seed} {data}'

Its last line on standard output is JSON with ``seconds`` and ``steps``, and where it can ``parameters`` and ``metric``;
``{data}`` is a file for torch.load with ``x``, ``y``, ``val_x`` and ``val_y``. Also known: {epochs}, {threads}.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from importlib import import_module
from pathlib import Path

import torch
from tables import RESULTS

COMMANDS = ("steps", "cold", "data", "observability", "memory")
MODULES = {"data": "pipeline"}
REPEATS = {"steps": 5, "cold": 5, "data": 5, "observability": 7, "memory": 1}


def _extra(text: str) -> tuple[str, str]:
    name, found, command = text.partition("=")
    if not found or not name or not command:
        raise argparse.ArgumentTypeError(f"{text}: takes NAME=COMMAND")
    return name, command


def arguments(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="all", choices=[*COMMANDS, "packing", "all"])
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder with FashionMNIST/raw")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of every way; 0: each one's own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", nargs="+", default=[], help="of steps, observability and memory, by name")
    parser.add_argument("--ways", nargs="+", default=[], help="of steps, cold and memory; all that are installed")
    parser.add_argument("--extra", type=_extra, action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--dlrun", nargs="+", default=[], metavar="OVERRIDE", help="for dlrun: engine=eager")
    parser.add_argument("--quick", action="store_true", help="a trial of this program in seconds; no figures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    options.extra = dict(options.extra)
    return options


def main(words: list[str]) -> int:
    if words[:1] == ["packing"]:
        program = Path(__file__).resolve().parent / "packing.py"
        sys.argv = [str(program), *words[1:]]
        runpy.run_path(str(program), run_name="__main__")
        return 0
    options = arguments(words)
    asked = options.repeats
    for command in COMMANDS if options.command == "all" else (options.command,):
        options.repeats = asked or (1 if options.quick else REPEATS[command])
        path = import_module(MODULES.get(command, command)).measure(options)
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
