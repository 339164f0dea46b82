import csv
import json
import math
import shlex

import pytest

from dlrun.errors import StorageError
from dlrun.sweeps import results
from dlrun.sweeps.csv_files import write_csv
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, Point, Settings
from dlrun.sweeps.results import collect, command_of, counts, trial_result
from dlrun.tracking.run_directory import RunDirectory
from sweep_cases import METRIC, SPACE, Known, trial_folder, write_run, write_sweep

POINT = Point({"optimizer.lr": "0.01"}, ("data=digits", "optimizer.lr=0.01"))


def one_point(folder, state=DONE, attributes=None, before=None, error=""):
    """The sweep of one point whose trials are in ``folder``."""
    known = [Known(0, state, POINT, error, attributes or {})]
    return collect(
        folder, known, name="s", metric=METRIC, higher_is_better=True, space=SPACE, settings=Settings(), before=before
    )


def damaged(folder, text):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text)


def test_a_finished_trial_is_read_whole(tmp_path):
    write_run(tmp_path / "r", curve=[0.1, 0.9, 0.8], packed=4)
    trial = trial_result(tmp_path / "r", 3, METRIC)
    assert (trial.seed, trial.status, trial.value, trial.steps, trial.packed) == (3, DONE, 0.9, 200, 4)
    assert trial.metrics["test/accuracy"] == pytest.approx(0.89)
    assert trial_result(tmp_path / "r", 3, "test/accuracy").value == pytest.approx(0.89)
    assert trial_result(tmp_path / "r", 3, "val/f1").value is None


def test_a_trial_without_a_folder_waits(tmp_path):
    assert trial_result(tmp_path / "none", 0, METRIC).status == "waiting"


def test_a_trial_runs_while_its_lock_is_held_and_waits_once_its_process_is_gone(tmp_path):
    write_run(tmp_path / "r", "running")
    run = RunDirectory(tmp_path / "r")
    run.lock()
    assert trial_result(run.path, 0, METRIC).status == "running"
    run.unlock()
    assert trial_result(run.path, 0, METRIC).status == "waiting"
    run.write_record(status="interrupted")
    assert trial_result(run.path, 0, METRIC).status == "waiting"


def test_a_pruned_trial_has_the_value_it_was_pruned_at(tmp_path):
    write_run(tmp_path / "r", PRUNED, [0.1, 0.4, 0.3])
    assert trial_result(tmp_path / "r", 0, METRIC).value == 0.3


def test_the_name_of_our_own_error_is_left_out_of_the_sentence(tmp_path):
    write_run(tmp_path / "ours", DIVERGED, error="DivergedError: the loss became NaN: step 3")
    write_run(tmp_path / "theirs", FAILED, error="ValueError: no")
    assert trial_result(tmp_path / "ours", 0, METRIC).error == "the loss became NaN: step 3"
    assert trial_result(tmp_path / "theirs", 0, METRIC).error == "ValueError: no"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\x00\xff", '{"status": "don', '{"status": null}', '{"status": ["done"]}', "[" * 100_000],
)
def test_a_damaged_record_is_one_failed_trial_and_hides_no_other(tmp_path, text):
    damaged(trial_folder(tmp_path, 0, 0), text)
    write_run(trial_folder(tmp_path, 0, 1), curve=[0.5, 0.75])
    (point,) = one_point(tmp_path).points
    assert [trial.status for trial in point.trials] == [FAILED, DONE]
    assert point.trials[0].error
    assert (point.state, point.mean, point.error) == (FAILED, 0.75, None)


@pytest.mark.parametrize(
    "record",
    [
        {"metrics": [1], "best": "x", "seconds": "long", "steps": True, "packed": "NaN"},
        {"metrics": {METRIC: "good"}, "best": {"metric": METRIC, "value": None}, "steps": "Infinity"},
        {"best": {"metric": METRIC, "value": "NaN"}},
    ],
)
def test_values_of_a_wrong_kind_are_no_values(tmp_path, record):
    for seed in SPACE.seeds:
        damaged(trial_folder(tmp_path, 0, seed), json.dumps({"status": DONE, **record}))
    (point,) = one_point(tmp_path).points
    assert (point.state, point.mean) == (DONE, None)
    assert one_point(tmp_path).ranked() == []


def test_a_history_that_cannot_be_read_is_an_empty_curve(tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    assert results.curve(tmp_path, METRIC) == []
    assert results.curve(tmp_path / "none", METRIC) == []


def test_a_curve_keeps_what_is_finite_in_order(tmp_path):
    rows = [{"step": 0, METRIC: 0.1}, {"step": 1, "train/loss": 2}, {"step": 2, METRIC: "NaN"}, {"step": 3, METRIC: 1}]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "val')
    assert results.curve(tmp_path, METRIC) == [(0.0, 0.1), (3.0, 1.0)]


def test_mean_and_standard_error_over_the_seeds_that_are_done(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), curve=[0.5])
    write_run(trial_folder(tmp_path, 0, 1), curve=[0.75])
    (point,) = one_point(tmp_path).points
    # s = 0.25 / sqrt(2), s / sqrt(2) = 0.125
    assert (point.state, point.mean) == (DONE, 0.625)
    assert point.error == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("statuses", "state"),
    [((DONE, DONE), DONE), ((DONE, PRUNED), PRUNED), ((PRUNED, DIVERGED), DIVERGED), ((FAILED, DIVERGED), FAILED)],
)
def test_a_point_is_as_good_as_its_worst_trial(tmp_path, statuses, state):
    for seed, status in enumerate(statuses):
        write_run(trial_folder(tmp_path, 0, seed), status)
    assert one_point(tmp_path, state).points[0].state == state


def test_a_point_goes_on_until_its_last_trial_has_ended(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), curve=[0.5])
    (point,) = one_point(tmp_path, "running").points
    assert (point.state, [trial.status for trial in point.trials]) == ("running", [DONE, "waiting"])
    assert one_point(tmp_path, "waiting").points[0].state == "waiting"


def test_seeds_that_a_pruned_point_never_ran_are_left_out(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), PRUNED, [0.1, 0.2])
    result = one_point(tmp_path, PRUNED)
    assert [trial.seed for trial in result.points[0].trials] == [0]
    assert counts(result) == {PRUNED: 1, "waiting": 0}


def test_a_point_that_failed_before_it_had_a_folder_says_why(tmp_path):
    (point,) = one_point(tmp_path, FAILED, error="no space left").points
    assert [(trial.status, trial.error) for trial in point.trials] == [(FAILED, "no space left")]


def test_a_point_that_failed_for_want_of_its_metric_names_the_trial_without_it(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), curve=[0.5])
    write_run(trial_folder(tmp_path, 0, 1), metrics={"val/loss": 1.0})
    (point,) = one_point(tmp_path, FAILED, error="not in every run").points
    assert [(trial.status, trial.error) for trial in point.trials] == [(DONE, ""), (FAILED, "not in every run")]


def test_an_equal_finished_run_stands_in_for_a_trial(tmp_path):
    write_run(tmp_path / "elsewhere", curve=[0.9])
    write_run(trial_folder(tmp_path, 0, 1), curve=[0.5])
    (point,) = one_point(tmp_path, DONE, {"reused": {"0": str(tmp_path / "elsewhere")}}).points
    assert [(t.reused, t.value, t.folder.name) for t in point.trials] == [
        (True, 0.9, "elsewhere"),
        (False, 0.5, "0000-seed1"),
    ]


def lost_point(folder, state, value, reused):
    known = [Known(0, state, POINT, attributes={"reused": reused}, value=value)]
    result = collect(folder, known, name="s", metric=METRIC, higher_is_better=True, space=SPACE, settings=Settings())
    return result.points[0]


def test_a_run_that_was_taken_over_and_then_deleted_leaves_its_point_done(tmp_path):
    write_run(trial_folder(tmp_path, 0, 1), curve=[0.5])
    point = lost_point(tmp_path, DONE, 0.75, {"0": str(tmp_path / "deleted")})
    assert (point.state, point.mean) == (DONE, 0.75)
    assert [(t.status, t.value, "is gone" in t.error) for t in point.trials] == [(DONE, 1.0, True), (DONE, 0.5, False)]


@pytest.mark.parametrize(("state", "value"), [(DONE, 0.75), (PRUNED, 0.25), (DIVERGED, None)])
def test_a_point_whose_runs_were_all_deleted_has_ended_as_the_study_says(tmp_path, state, value):
    point = lost_point(tmp_path, state, value, {})
    assert (point.state, point.mean) == (state, value if state == DONE else None)
    assert point.trials[0].value == value
    assert "is gone" in point.trials[0].error


def test_what_cannot_have_changed_is_not_read_again(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), curve=[0.5])
    write_run(trial_folder(tmp_path, 0, 1), "interrupted")
    running, waiting = (one_point(tmp_path, state) for state in ("running", "waiting"))
    for seed in (0, 1):
        (trial_folder(tmp_path, 0, seed) / "run.json").write_text(json.dumps({"status": FAILED, "error": "new"}))
    ends = [one_point(tmp_path, "running", before=running), one_point(tmp_path, FAILED, before=waiting)]
    assert [[trial.status for trial in end.points[0].trials] for end in ends] == [[DONE, FAILED]] * 2
    assert one_point(tmp_path, "waiting", before=waiting).points[0] is waiting.points[0]
    assert one_point(tmp_path, FAILED, before=ends[1]).points[0] is ends[1].points[0]


def test_the_best_trial_is_the_best_seed_of_the_best_point(tmp_path):
    result = write_sweep(tmp_path)
    point, trial = results.best_trial(result)
    assert point == result.ranked()[0]
    assert trial.value == max(t.value for t in point.trials)
    assert results.best_trial(one_point(tmp_path / "empty")) is None


def test_points_that_are_not_proposed_yet_are_counted_as_waiting(tmp_path):
    known = [Known(0, "waiting", POINT)]
    result = collect(
        tmp_path, known, name="s", metric=METRIC, higher_is_better=True, space=SPACE, settings=Settings(), planned=5
    )
    assert counts(result)["waiting"] == 10


def test_a_command_survives_the_shell():
    point = Point({}, ("data=csv", "data.path=my file's.csv", "model.hidden=[64,64]", "+a={b:1}", "x=$HOME"))
    words = shlex.split(command_of(point, 7, ["--config-dir", "my conf"]))
    assert words == ["dlrun", "train", *point.overrides, "trainer.seed=7", "--config-dir", "my conf"]


def test_the_csv_files_hold_what_is_known(tmp_path):
    result = write_sweep(tmp_path)
    nan = trial_folder(tmp_path, 11, 0)
    (nan / "run.json").write_text(json.dumps({"status": DIVERGED, "metrics": {"val/loss": "NaN"}, "error": 'a,\n"b"'}))
    result = collect(
        tmp_path, [Known(p.number, p.state, p.point) for p in result.points], name="s", metric=METRIC,
        higher_is_better=True, space=SPACE, settings=Settings(),
    )  # fmt: skip
    points_file, trials_file = write_csv(result, tmp_path)
    with points_file.open(newline="") as file:
        points = list(csv.DictReader(file))
    with trials_file.open(newline="") as file:
        trials = list(csv.DictReader(file))
    ranked = result.ranked()
    assert [int(row["number"]) for row in points[: len(ranked)]] == [point.number for point in ranked]
    assert [row["rank"] for row in points] == [*map(str, range(1, len(ranked) + 1))] + [""] * (30 - len(ranked))
    assert float(points[0]["mean"]) == ranked[0].mean
    assert float(points[0]["standard_error"]) == ranked[0].error
    assert (points[0]["n"], points[0]["state"]) == ("2", DONE)
    assert points[0]["optimizer.lr"] == ranked[0].point.values["optimizer.lr"]
    assert sum(row["model.hidden"] == "" for row in points) == sum(
        "model.hidden" not in p.point.values for p in ranked
    ) + sum("model.hidden" not in p.point.values for p in result.points if p.mean is None)
    (row,) = (row for row in trials if row["number"] == "11" and row["seed"] == "0")
    assert (row["val/loss"], row["status"], row["folder"]) == ("", DIVERGED, "0011-seed0")
    assert row["error"] == 'a,\n"b"'
    assert len(trials) == sum(len(point.trials) for point in result.points)
    assert not any(cell == "nan" for row in trials for cell in row.values())


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError):
        write_csv(one_point(tmp_path), tmp_path / "missing")


def test_a_mean_is_never_made_of_infinities(tmp_path):
    write_run(trial_folder(tmp_path, 0, 0), best={"metric": METRIC, "value": "Infinity"})
    write_run(trial_folder(tmp_path, 0, 1), curve=[0.5])
    (point,) = one_point(tmp_path).points
    assert point.trials[0].value == math.inf
    assert (point.mean, point.error) == (0.5, None)
