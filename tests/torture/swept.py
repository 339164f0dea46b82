"""The master of a sweep that is killed: forked from a process that has everything loaded, killed by its parent.

    python swept.py faults FOLDER SEED KILLS    15 points under two seeds: 30 trials, half of them with a fault
    python swept.py twice FOLDER [blind]        a master killed when one of a point's two trials has ended
    python swept.py real FOLDER                 real training of three small networks, the master killed twice

prints as JSON what ``test_sweep_faults.py`` checks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the children of this master, too

from omegaconf import OmegaConf

from dlrun.config import compose
from dlrun.sweeps import pool as pool_module
from dlrun.sweeps import supervisor as supervisor_module
from dlrun.sweeps.nouns import Axis, Point, Settings, Space, Trial
from dlrun.sweeps.pool import Pool
from dlrun.sweeps.rules import Rules
from dlrun.sweeps.search import Search
from dlrun.sweeps.supervisor import Supervisor
from dlrun.tracking.history import History
from dlrun.tracking.run_directory import RunDirectory
from faulty_trials import METRIC, Handed, Plans, ledger, run_twice, trial, work

POINTS, SEEDS, RETRIES = 15, (0, 1), 3
FAULTS = ["raise", "exit", "exit well", "os exit", "segfault", "killed", "hang", "hang hard", "diverge", "raise"]
FAULTS += ["os exit", "segfault", "killed", "exit", "diverge"]
NAMES = [f"{number:04d}-seed{seed}" for number in range(POINTS) for seed in SEEDS]
SPACE = Space((), (Axis("model.width", values=tuple(str(number) for number in range(POINTS))),), SEEDS)
LOAD = ["dlrun.sweeps.fork_server", "dlrun.sweeps.child"]  # these trials need no more, and every master waits for it


@dataclass
class Faulty(Plans):
    """Every other trial has a fault; the faults are spread over the points by a seed."""

    def trial(self, claimed: Handed, seed: int) -> Trial:
        index = claimed.number * len(SEEDS) + seed
        fault = FAULTS[index // 2] if index % 2 == claimed.number % 2 else "none"
        return trial(self.folder, claimed.number, seed, fault=fault, steps=15, pause=0.05, value=claimed.number + 1.0)


def make(folder: Path, points: int) -> Search:
    """The study, made once."""
    search = Search.create(f"sqlite:///{folder / 'study.db'}", "swept", Settings(), SPACE, True)
    search.enqueue([Point({"model.width": str(n)}, (f"model.width={n}",)) for n in range(points)])
    return search


def master(folder: Path, planner: Any, rules: Rules, slots: int = 2, hang: float = 3.0) -> None:
    """What a process does that goes on with the sweep."""
    search = Search.open(f"sqlite:///{folder / 'study.db'}", "swept", Settings(), SPACE)
    Supervisor(search, planner, Pool(slots, threads=1, hang=hang), rules).run()


def forked(work: Callable[[], None]) -> int:
    """The number of a new process that does ``work`` and nothing else."""
    process = os.fork()
    if not process:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def over(process: int) -> bool:
    """Whether a child of this process has ended."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def children(process: int) -> list[int]:
    """Processes that were forked from a process, by /proc."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def servers(master: int) -> list[int]:
    """The fork server of a master, once there is one."""
    return [child for child in children(master) if b"forkserver" in _words(child)]


def running(master: int) -> list[int]:
    """The processes of trials."""
    return [trial for server in servers(master) for trial in children(server)]


def _words(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def gone(processes: list[int], patience: float = 30.0) -> bool:
    """Whether none of them runs any longer, before patience ends."""
    end = time.monotonic() + patience
    while any(_runs(process) for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _runs(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def torture(folder: Path, seed: int, kills: int) -> dict[str, Any]:
    """Run the sweep to its end under ``kills`` SIGKILLs; what was found on the way."""
    dice, landed, orphans = random.Random(seed), {"master": 0, "server": 0, "trial": 0}, 0
    rules = Rules(seeds=SEEDS, metric=METRIC, retries=RETRIES, work=work)
    masters = 0
    while True:
        process = forked(lambda: master(folder, Faulty(folder, []), rules))
        masters += 1
        while not over(process):
            target = dice.choices(["master", "server", "trial"], [5, 1, 6])[0]
            _let_it_work(process, folder, dice)
            if sum(landed.values()) >= kills:
                os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
            elif target == "trial" and (found := running(process)):
                kill(dice.choice(sorted(found)))
                landed["trial"] += 1
            elif target != "trial":
                below = [*servers(process), *running(process)]
                found = [process] if target == "master" else servers(process)
                for one in found[:1]:
                    kill(one)
                    landed[target] += 1
                orphans += target == "master" and not gone(below)
        if os.waitpid(process, 0)[1] == 0:
            return {"landed": landed, "orphans": orphans, "masters": masters}


def _let_it_work(process: int, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment; mostly one after the trials have begun, where there is most to lose."""
    begun = len(ledger(folder))
    end = time.monotonic() + dice.choice([1.0, 20.0, 20.0, 20.0])
    while len(ledger(folder)) == begun and not running(process) and time.monotonic() < end and not over(process):
        time.sleep(0.01)
    time.sleep(dice.uniform(0.0, 0.9))


def twice(folder: Path, blind: bool) -> dict[str, Any]:
    """Kill the master when one of a point's trials has ended and the other has not; then go on with the sweep.

    A ``blind`` supervisor does not look at what is on disk: the checker must find that a trial was run twice.
    """
    if blind:
        supervisor_module.ending_of = lambda folder, metric: None
    plans = Halves(folder, [])
    rules = Rules(seeds=SEEDS, metric=METRIC, work=work)
    for count in (1, 2):
        process = forked(lambda: master(folder, plans, rules, slots=1))
        while [name for what, name, _ in ledger(folder) if what == "begun"].count("0000-seed1") < count:
            assert not over(process), "the sweep cannot have ended: its second trial takes minutes"
            time.sleep(0.01)
        kill(process)
        os.waitpid(process, 0)
    return {"twice": run_twice(folder), "begun": [name for _, name, _ in ledger(folder)]}


class Halves(Plans):
    """The first seed takes a moment, the others minutes."""

    def trial(self, claimed: Handed, seed: int) -> Trial:
        return trial(self.folder, claimed.number, seed, steps=5000 if seed else 2, pause=0.05 if seed else 0.0)


class Real(Plans):
    """Small networks on the digits, with a checkpoint every 20 steps."""

    def trial(self, claimed: Handed, seed: int) -> Trial:
        words = ["model=mlp", "model.hidden=[8]", "data=digits", "tracking=minimal", "trainer.steps=600"]
        words += ["trainer.checkpoint_every=20", f"optimizer.lr={10 ** -(claimed.number + 1)}"]
        path = self.folder / f"{claimed.number:04d}-seed{seed}"
        return Trial(claimed.number, seed, path, OmegaConf.to_yaml(compose(words)), ("dlrun", "train", *words))


def real(folder: Path) -> dict[str, Any]:
    """Kill the master twice while it trains, each time when there is a new checkpoint of a trial that has not ended."""
    rules = Rules(seeds=(0,), metric="val/accuracy")
    resumed = []
    for number in (0, 1, None):
        process = forked(lambda: master(folder, Real(folder, []), rules, slots=1, hang=600.0))
        if number is not None:
            checkpoints = folder / f"{number:04d}-seed0" / "checkpoints"
            while not list(checkpoints.glob("step-*.ckpt")):
                time.sleep(0.002)
            kill(process)
            resumed.append(RunDirectory(checkpoints.parent).record()["status"])
        code = os.waitpid(process, 0)[1]
    paths = [folder / f"{number:04d}-seed0" for number in range(3)]
    return {
        "code": code,
        "resumed": resumed,
        "records": [RunDirectory(path).record() for path in paths],
        "steps": [[row["step"] for row in History(path / "history.jsonl").rows()] for path in paths],
    }


def summary(folder: Path) -> dict[str, Any]:
    """What the disk and the study say at the end of the sweep with faults."""
    search = Search.open(f"sqlite:///{folder / 'study.db'}", "swept", Settings(), SPACE)
    records = {name: RunDirectory(folder / name).record() for name in NAMES}
    return {
        "twice": run_twice(folder),
        "trials": {
            name: [record["status"], record["exit_code"], record.get("error"), record.get("kills", 0)]
            for name, record in records.items()
        },
        "points": [[point.state, point.value, point.error] for point in search.points()],
    }


def main() -> None:
    """Do what the words say and print what came of it."""
    what, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    points = 3 if what == "real" else POINTS
    make(folder, points).close()
    if what == "real":
        found = real(folder)
    else:
        pool_module.PRELOADED = LOAD
        found = twice(folder, "blind" in words) if what == "twice" else torture(folder, int(words[0]), int(words[1]))
    print(json.dumps(found | (summary(folder) if what == "faults" else {})))


if __name__ == "__main__":
    main()
