"""The verdict names the heaviest cause, with a command, and claims nothing that was not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dlrun.data.facts import Facts
from dlrun.profiling.advice import Seen, findings, verdict
from dlrun.profiling.operators import Operators
from dlrun.profiling.phases import DATA, WATCH
from dlrun.profiling.report import split
from dlrun.profiling.sources import Source
from dlrun.profiling.timings import Span, Timings
from dlrun.profiling.trials import Trial, Trials

NOTHING = Operators(10, [], 0.0, 0.0, [], [], 0.0, 0.0)
IMAGES = Facts("photos", "image", (3, 8, 8), "classification", sizes={"train": 100, "val": 0, "test": 0})


def one(value: float) -> Span:
    return Span(value, value, value)


def seen(phases: dict[Any, float], rows: dict[str, float] | None = None, **more: Any) -> Seen:
    whole = sum(phases.values())
    timings = Timings(
        one(whole), one(whole), 0.0, {key: one(value) for key, value in phases.items()}, {}, rows or {}, {}, False,
        None, 10, 5, 0.0, 0.0,
    )  # fmt: skip
    usual: dict[str, Any] = {
        "step": split(timings, 50, None, 0.01, 600.0), "timings": timings, "evaluation_share": 0.0,
        "evaluate_every": 100, "log_every": 50, "operators": NOTHING, "trials": Trials(), "facts": IMAGES,
        "workers": None, "peak_share": 0.25, "on_device": False,
    }  # fmt: skip
    return Seen(**(usual | more))


WORK = {("", "forward"): 3.0, ("", "backward"): 6.0, ("", "optimizer"): 1.0}


def test_data_wait_is_named_with_what_helps() -> None:
    found = verdict(seen(WORK | {DATA: 30.0}, workers=1), ["model=cnn", "data.memory=0.001"])
    assert found.sentence.startswith("data wait is 75% of a step")
    assert found.estimate == pytest.approx(4)
    assert found.kind == "bound"
    assert found.words[0].startswith(("data.memory=", "trainer.workers="))
    assert found.command == f"dlrun train model=cnn {found.words[0]}" or "data.memory=0.001" in found.command


def test_a_number_of_workers_that_reads_faster_is_recommended_by_its_measurement() -> None:
    sources = [Source(0, 30.0), Source(2, 15.0)]
    found = verdict(seen(WORK | {DATA: 30.0}, workers=0, trials=Trials(sources=sources)), [])
    assert found.words == ("trainer.workers=2",)
    assert found.kind == "measured"
    assert found.estimate == pytest.approx(40 / 15)
    assert "15,000.0 ms by 2 workers, 30,000.0 ms by 0 as now" in found.sentence


def test_batches_made_in_memory_have_no_workers_to_add() -> None:
    found = verdict(seen(WORK | {DATA: 30.0}), [])
    assert found.words == ()
    assert found.command == ""


def test_a_slow_callback_is_named_without_a_setting_that_would_not_help() -> None:
    found = verdict(seen(WORK | {(WATCH, "Mine"): 10.0}), [])
    assert "logging and saving are 50% of a step, most of it Mine" in found.sentence
    assert found.words == ()
    assert found.estimate == pytest.approx(2)


def test_dear_rows_come_more_seldom() -> None:
    found = verdict(seen(WORK, rows={"TensorBoard": 500.0}), [])
    assert found.words == ("tracking.every=500",)


def test_evaluation_can_be_most_of_the_time() -> None:
    found = verdict(seen(WORK, evaluation_share=0.8), ["trainer.evaluate_steps=1"])
    assert "80% of the training's time" in found.sentence
    assert found.command == "dlrun train trainer.evaluate_steps=1000"
    assert found.estimate == pytest.approx(1 / 0.28)


def test_a_measured_gain_is_cut_to_the_part_of_the_step_that_was_tried() -> None:
    tried = Trials([Trial(("trainer.threads=1",), Span(2.0, 1.9, 2.1), 1.0)])
    found = verdict(seen(WORK | {DATA: 1.5}, trials=tried), [])
    assert found.words == ("trainer.threads=1",)
    assert "2.00 times as fast (1.90 to 2.10)" in found.sentence
    assert found.kind == "measured"
    assert found.estimate == pytest.approx(11.5 / 6.5)


def test_what_is_not_clearly_faster_is_not_recommended() -> None:
    tried = Trials([Trial(("precision=bf16",), Span(1.3, 0.9, 1.6), 1.0)])
    found = verdict(seen(WORK, trials=tried), [])
    assert found.words == ()
    assert found.estimate is None
    assert found.sentence.startswith("nothing stands in the way: the largest part is backward, 60% of a step")
    assert "25.0% of the device's peak; nothing that was tried is clearly faster" in found.sentence


def test_a_larger_batch_says_why() -> None:
    trial = Trial(("trainer.batch_size=128",), Span(1.8, 1.7, 1.9), 1.0, "a caution")
    found = verdict(seen(WORK, trials=Trials([trial], fixed=0.89)), [])
    assert found.sentence.startswith("89% of the step does not depend on its batch")
    assert found.caution == "a caution"
    operators = replace(NOTHING, busy=1.0, kernel_calls=143.0)
    found = verdict(seen(WORK, trials=Trials([trial]), operators=operators, on_device=True), [])
    assert found.sentence.startswith("the step is launch-bound: its 143 kernels keep the GPU busy 10% of the time")


def test_packing_is_for_sweeps_and_never_the_verdict() -> None:
    tried = Trials([Trial(("seeds=8", "launcher=packed"), one(9.0), 1.0, "for sweeps: 8 trials trained as one")])
    found = verdict(seen(WORK, trials=tried), [])
    assert found.words == ()
    assert found.also == (
        "for sweeps: 8 trials trained as one: 9.00 times as fast (measured): dlrun sweep seeds=8 launcher=packed",
    )


def test_the_heaviest_comes_first_and_the_others_are_told() -> None:
    tried = Trials([Trial(("trainer.threads=1",), Span(1.2, 1.2, 1.2), 1.0)])
    both = seen(WORK | {DATA: 30.0}, trials=tried, workers=1)
    assert len(findings(both)) == 2
    found = verdict(both, [])
    assert "data wait" in found.sentence
    assert "trainer.threads=1" in found.also[0]
