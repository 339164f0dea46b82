"""The hparams tab and the text tab, written into the run's own event file so that no second run appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Value = bool | int | float | str


def session(values: Mapping[str, Value], metric_names: Sequence[str]) -> tuple[Any, Any, Any]:
    """Summaries of the experiment, of the session's start and of its successful end.

    Args:
        values: the hyperparameters; a bool is shown as ``true`` or ``false``.
        metric_names: scalar tags whose last value the tab shows.
    """
    from torch.utils.tensorboard.summary import hparams

    shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}
    experiment, start, end = hparams(shown, dict.fromkeys(metric_names, 0.0))
    return experiment, start, end


def text(tag: str, content: str) -> Any:
    """A ``Summary`` with text for the text tab, shown with fixed-width letters."""
    return markdown(tag, "\n".join("    " + line for line in content.splitlines()))


def markdown(tag: str, content: str) -> Any:
    """A ``Summary`` with text for the text tab, read as Markdown."""
    from torch.utils.tensorboard.summary import text as summary

    return summary(tag, content)
