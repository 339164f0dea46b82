"""The loop over a sweep: every trial ends once, what has ended is never run again, what was killed goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dlrun.config import compose
from dlrun.errors import ConfigError, StorageError
from dlrun.sweeps.child import OUTPUT, Link, run_trials
from dlrun.sweeps.endings import ending_of
from dlrun.sweeps.jobs import Job
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, Ending, Trial
from dlrun.sweeps.open_point import OpenPoint
from dlrun.sweeps.parties import Change, Halt
from dlrun.sweeps.pool import Pool
from dlrun.sweeps.rules import Rules
from dlrun.sweeps.supervisor import Supervisor
from dlrun.tracking.run_directory import RunDirectory
from faulty_trials import METRIC, Handed, MemoryStudy, Plans, ledger, record, run_twice, trial, work


def supervise(
    study: MemoryStudy, plans: Any, slots: int = 2, hang: float = 60.0, stop: bool = False, **rules: Any
) -> tuple[Halt, list[Change]]:
    """Run a sweep; with ``stop`` this process is sent SIGTERM once a trial has done a step."""
    found: list[Change] = []

    def on_change(changes: Sequence[Change]) -> None:
        found.extend(changes)
        if stop and any(text.startswith("step") for text in supervisor.running.values()):
            supervisor.on_change = found.extend
            os.kill(os.getpid(), signal.SIGTERM)

    rules = {"seeds": (0,), "metric": METRIC, "work": work} | rules
    pool = Pool(slots, hang=hang, threads=1)
    supervisor = Supervisor(study, plans, pool, Rules(**rules), on_change)
    halt = supervisor.run()
    assert not pool.jobs
    assert not supervisor.running or halt.signal
    return halt, found


def kinds(changes: Sequence[Change], number: int) -> list[str]:
    return [change.kind for change in changes if change.number == number]


def test_all_seeds_of_all_points_are_run_and_their_means_told(tmp_path: Path) -> None:
    study = MemoryStudy(3)
    halt, changes = supervise(study, Plans(tmp_path, [{"value": v} for v in (0.1, 0.2, 0.3)]), seeds=(0, 1))
    assert halt == Halt(0, ())
    assert {number: told[:2] for number, told in study.told.items()} == {
        0: (DONE, 0.1),
        1: (DONE, 0.2),
        2: (DONE, pytest.approx(0.3)),
    }
    assert sorted(name for what, name, _ in ledger(tmp_path) if what == "ended") == [
        f"{number:04d}-seed{seed}" for number in range(3) for seed in range(2)
    ]
    assert sorted(kinds(changes, 0)) == ["ended", "ended", "point", "started", "started"]
    assert study.reclaimed == [None], "nobody else works on it: what was left lying is freed once"
    assert study.beats == []


FAULTS = {
    "none": (DONE, 0, ""),
    "raise": (FAILED, 1, "ValueError: a planted mistake"),
    "exit": (FAILED, 1, "SystemExit: 3"),
    "os exit": (FAILED, 4, "its process ended with exit code 4 without a word"),
    "segfault": (FAILED, 139, "its process was ended by signal 11 (SIGSEGV, segmentation fault)"),
    "killed": (FAILED, 137, "perhaps the system ran out of memory"),
    "hang hard": (FAILED, 137, "no sign of life for 5 seconds (sweep.hang)"),
    "diverge": (DIVERGED, 6, "train/loss became nan at step 2"),
}


def test_every_kind_of_end_leaves_one_terminal_record_and_takes_nothing_else_with_it(tmp_path: Path) -> None:
    study, plans = MemoryStudy(len(FAULTS)), Plans(tmp_path, [{"fault": fault} for fault in FAULTS])
    _, changes = supervise(study, plans, hang=5.0)
    for number, (status, code, error) in enumerate(FAULTS.values()):
        state, _, attributes = study.told[number]
        found = record(trial(tmp_path, number))
        assert (state, found["status"], found["exit_code"]) == (status, status, code)
        assert error in attributes.get("error", "")
        assert error in str(found.get("error") or "")
        assert kinds(changes, number).count("ended") == 1
    assert run_twice(tmp_path) == []
    assert kinds(changes, list(FAULTS).index("killed")).count("again") == 1, "once more, from its checkpoint"
    assert record(trial(tmp_path, list(FAULTS).index("killed")))["kills"] == 2


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    study = MemoryStudy(1)
    _, changes = supervise(study, Plans(tmp_path, [{"fault": "killed", "once": True}]))
    assert study.told[0][:2] == (DONE, 0.5)
    assert kinds(changes, 0) == ["started", "again", "started", "ended", "point"]
    assert record(trial(tmp_path))["attempts"] == 2
    assert study.values == {}, "without a pruner nobody is asked"


def test_without_retries_it_fails_at_once(tmp_path: Path) -> None:
    study = MemoryStudy(1)
    _, changes = supervise(study, Plans(tmp_path, [{"fault": "killed", "once": True}]), retries=0)
    assert study.told[0][0] == FAILED
    assert "again" not in kinds(changes, 0)


def test_what_has_ended_is_never_run_again(tmp_path: Path) -> None:
    plans = Plans(tmp_path, [{}, {"fault": "raise"}, {"fault": "diverge"}])
    first, second = MemoryStudy(3), MemoryStudy(3)
    supervise(first, plans)
    before = ledger(tmp_path)
    _, changes = supervise(second, plans)  # the study has forgotten everything, the disk has not
    assert ledger(tmp_path) == before
    assert {number: told[0] for number, told in second.told.items()} == {0: DONE, 1: FAILED, 2: DIVERGED}
    assert second.told[1][2]["error"] == first.told[1][2]["error"]
    assert all("started" not in kinds(changes, number) for number in range(3))


def test_a_pruned_point_runs_no_other_seed_and_a_good_one_waits_for_its_first(tmp_path: Path) -> None:
    study = MemoryStudy(2, worse={1})
    supervise(study, Plans(tmp_path, [{"value": 0.25}, {"value": 0.125}]), seeds=(5, 6), pruning=True)
    assert study.told[0][:2] == (DONE, 0.25)
    assert study.told[1][:2] == (PRUNED, 0.25)  # its value at step 2
    begun = [name for what, name, _ in ledger(tmp_path) if what == "begun"]
    assert sorted(begun) == ["0000-seed5", "0000-seed6", "0001-seed5"]
    assert begun.index("0000-seed6") > begun.index("0000-seed5")
    assert study.values[0] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)], "of the first seed alone"


def test_a_first_seed_that_failed_ends_its_point_under_a_pruner(tmp_path: Path) -> None:
    study = MemoryStudy(1)
    supervise(study, Plans(tmp_path, [{"fault": "raise"}]), seeds=(0, 1), pruning=True)
    assert study.told[0][0] == FAILED
    assert [name for _, name, _ in ledger(tmp_path)] == ["0000-seed0"]


def test_an_equal_finished_run_is_taken_over(tmp_path: Path) -> None:
    supervise(MemoryStudy(1), Plans(tmp_path / "before", [{"value": 0.75}]))
    equal = tmp_path / "before" / "0000-seed0"
    study = MemoryStudy(1)
    plans = Plans(tmp_path / "now", [{"value": 0.25}], reused={"0000-seed1": equal})
    _, changes = supervise(study, plans, seeds=(0, 1))
    assert study.told[0] == (DONE, 0.5, {"reused": {"1": str(equal)}})
    assert [name for what, name, _ in ledger(tmp_path / "now") if what == "begun"] == ["0000-seed0"]
    assert "reused" in kinds(changes, 0)


class Broken(Plans):
    """Its first point cannot be composed."""

    def trial(self, claimed: Handed, seed: int) -> Trial:
        if claimed.number == 0:
            raise ConfigError("model.hiden: 'model' has no key 'hiden'; did you mean 'hidden'?")
        return super().trial(claimed, seed)

    def reuse(self, one: Trial) -> Path | None:
        raise ConfigError("what is wrong with a trial is for its own run to say")


def test_a_point_that_cannot_be_composed_fails_alone(tmp_path: Path) -> None:
    study = MemoryStudy(2)
    supervise(study, Broken(tmp_path, [{}, {}]))
    assert study.told[0][0] == FAILED
    assert "did you mean 'hidden'" in study.told[0][2]["error"]
    assert study.told[1][0] == DONE


def part(job: Job, link: Link) -> None:
    """Packs of three are refused; those of two go well."""
    if len(job.trials) == 3:
        link.apart("one by one they are faster")
    else:
        work(job, link)


def test_packs_are_made_of_what_waits(tmp_path: Path) -> None:
    study, plans = MemoryStudy(4), Plans(tmp_path, [{}] * 4, ahead=2)
    _, changes = supervise(study, plans, slots=1)
    assert [told[0] for told in study.told.values()] == [DONE] * 4
    assert "trained in a pack" in (trial(tmp_path, 1).folder / OUTPUT).read_text()
    assert [change.text for change in changes if change.kind == "started"] == ["in a pack of 2"] * 4


def test_trials_that_had_better_not_pack_are_run_one_by_one(tmp_path: Path) -> None:
    study, plans = MemoryStudy(3), Plans(tmp_path, [{}] * 3, ahead=3)
    _, changes = supervise(study, plans, slots=1, work=part)
    assert [told[0] for told in study.told.values()] == [DONE] * 3
    assert plans.parted == ["one by one they are faster"]
    assert [change.kind for change in changes if change.kind in ("again", "apart")] == ["apart"]
    assert [change.number for change in changes if change.kind == "started"] == [0, 1, 2, 0, 1, 2]


def test_when_a_pack_breaks_its_unfinished_trials_are_run_alone(tmp_path: Path) -> None:
    study, plans = MemoryStudy(3), Plans(tmp_path, [{}, {"fault": "os exit", "once": True}, {}], ahead=3)
    _, changes = supervise(study, plans, slots=1)
    assert [told[0] for told in study.told.values()] == [DONE] * 3
    assert run_twice(tmp_path) == []
    again = [change for change in changes if change.kind == "again"]
    assert [change.number for change in again] == [2, 1]
    assert "its pack broke (its process ended with exit code 4" in again[0].text


def locked(job: Job, link: Link) -> None:
    """What a trial says whose run is in other hands."""
    if job.trials[0].number == 0:
        link.ended(0, Ending(FAILED, error="the run is in the hands of process 7", exit_code=5))
    else:
        work(job, link)


def test_a_trial_that_another_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    study = MemoryStudy(2)
    halt, changes = supervise(study, Plans(tmp_path, [{}, {}]), work=locked)
    assert halt.postponed == (0,)
    assert list(study.told) == [1]
    assert kinds(changes, 0) == ["started", "postponed"]


def locked_once(job: Job, link: Link) -> None:
    """A trial whose run is in other hands the first time."""
    mark = job.trials[0].folder.parent / "locked"
    if job.trials[0].number == 0 and not mark.exists():
        mark.touch()
        link.ended(0, Ending(FAILED, error="the run is in the hands of process 7", exit_code=5))
    else:
        work(job, link)


def test_a_point_that_comes_back_is_beaten_for_and_its_deaths_are_seen(tmp_path: Path) -> None:
    study = MemoryStudy(2)
    reclaim, back = study.reclaim, []

    def dies(grace: float | None) -> list[int]:
        if any(0 not in beat for beat in study.beats) and not back:  # it was left, and nobody has it
            back.append(0)
            study.waiting.append(0)
        return reclaim(grace)

    study.reclaim = dies  # type: ignore[method-assign]
    plans = Plans(tmp_path, [{"fault": "killed", "once": True, "pause": 0.1}, {"pause": 0.5}])
    halt, changes = supervise(study, plans, grace=0.2, work=locked_once)
    assert halt.postponed == ()
    assert study.told[0][:2] == (DONE, 0.5)
    assert kinds(changes, 0) == ["started", "postponed", "started", "again", "started", "ended", "point"]
    left = next(i for i, beat in enumerate(study.beats) if 0 not in beat)
    assert any(0 in beat for beat in study.beats[left:])


class Away(MemoryStudy):
    """Its database is away the first ``times`` times that each method is called."""

    times = 2

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name not in ("ask", "report_all", "finish", "beat"):
            return found
        calls = self.__dict__.setdefault("calls", {})

        def asked(*given: Any, **named: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] <= self.times:
                raise StorageError("the database cannot be used: planted")
            return found(*given, **named)

        return asked


def test_a_database_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.sweeps.patience.PAUSE", 0.01)
    study = Away(1)
    _, changes = supervise(study, Plans(tmp_path, [{"pause": 0.1}]), pruning=True, grace=0.2)
    assert study.told[0][:2] == (DONE, 0.5)
    assert study.values[0] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert [0] in study.beats
    assert [c.text for c in changes if c.kind == "warning"] == [
        "the database cannot be used: planted; it is tried again"
    ]


def save_when_asked(job: Job, link: Link) -> None:
    """It waits for the answer to an evaluation, then for the signal, upon which it saves."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    link.evaluated(0, 1, 0.5, True)
    while not stop:
        signal.pause()
    (job.trials[0].folder / "saved").touch()


def test_when_the_database_stays_away_what_runs_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.sweeps.supervisor.patiently", lambda ask: ask())
    study = MemoryStudy(1)

    def away(reports: Any) -> set[int]:
        raise StorageError("planted")

    study.report_all = away  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="planted"):
        supervise(study, Plans(tmp_path, [{}]), pruning=True, work=save_when_asked)
    assert (trial(tmp_path).folder / "saved").exists()
    assert study.told == {}


def test_with_other_workers_it_beats_and_frees_what_dead_ones_had(tmp_path: Path) -> None:
    study = MemoryStudy(1)
    supervise(study, Plans(tmp_path, [{"pause": 0.05}]), grace=0.2)
    assert set(study.reclaimed) == {0.2}
    assert [0] in study.beats


@pytest.mark.parametrize(
    ("endings", "state", "value"),
    [
        ([Ending(DONE, 1.0), Ending(DONE, 2.0)], DONE, 1.5),
        ([Ending(DONE, 1.0), Ending(DIVERGED)], DIVERGED, 1.0),
        ([Ending(DIVERGED), Ending(FAILED), Ending(DONE, 2.0)], FAILED, 2.0),
        ([Ending(PRUNED, 0.5)], PRUNED, 0.5),
        ([Ending(DONE, 1.0), Ending(DONE, None)], FAILED, 1.0),
        ([Ending(DONE, float("nan"))], FAILED, None),
    ],
)
def test_the_worst_trial_is_the_state_of_a_point(endings: list[Ending], state: str, value: float | None) -> None:
    found = OpenPoint(Handed(0, None), [], endings=dict(enumerate(endings))).ending(METRIC)  # type: ignore[arg-type]
    assert (found.status, found.value) == (state, value)
    assert found.status != FAILED or found.error or any(ending.status == FAILED for ending in endings)


class Real(Plans):
    """Real training, of a tiny network on the digits."""

    def trial(self, claimed: Handed, seed: int) -> Trial:
        words = ["model=mlp", "model.hidden=[8]", "data=digits", "tracking=minimal", f"trainer.seed={seed}"]
        config = compose([*words, *self.plans[claimed.number].get("words", [])])
        folder = self.folder / f"{claimed.number:04d}-seed{seed}"
        return Trial(claimed.number, seed, folder, OmegaConf.to_yaml(config), ("dlrun", "train", *words))


def test_real_trials_are_runs_with_their_values_saved_by_a_signal_and_gone_on_with(tmp_path: Path) -> None:
    long = ["trainer.steps=4000", "trainer.evaluate_steps=500", "trainer.checkpoint_every=100"]
    plans = Real(tmp_path, [{"words": ["trainer.steps=40"]}, {"words": long}, {"words": ["optimizer.lr=1e30"]}])
    first = MemoryStudy(3)
    first.waiting = [1]
    halt, _ = supervise(first, plans, stop=True, work=run_trials, metric="auto")
    assert halt.signal == signal.SIGTERM
    assert first.told == {}, "the point is left as it is"
    stopped = RunDirectory.open(tmp_path / "0001-seed0").record()
    assert stopped["status"] == "interrupted"
    second = MemoryStudy(3)
    halt, _ = supervise(second, plans, work=run_trials, metric="auto")
    assert halt.signal == 0
    assert {number: told[0] for number, told in second.told.items()} == {0: DONE, 1: DONE, 2: DIVERGED}
    records = [RunDirectory.open(tmp_path / f"000{number}-seed0").record() for number in range(3)]
    assert second.told[1][1] == records[1]["best"]["value"] > 0.5
    assert records[1]["attempts"] == 2
    assert (records[0]["sweep"]["name"], records[0]["sweep"]["point"]) == (tmp_path.name, 0)
    text = (tmp_path / "0001-seed0" / OUTPUT).read_text()
    assert "note: stopped at step" in text
    assert "note: going on from step" in text
    rows = [json.loads(line) for line in (tmp_path / "0001-seed0" / "history.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "val/accuracy" in row]
    assert steps == sorted(set(steps)), "each evaluation once, as in a run that was never stopped"
    assert ending_of(tmp_path / "0000-seed0", "val/loss") is not None
