"""What a sweep is to do, read from its words and checked to the last point before anything is made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dlrun.errors import ConfigError
from dlrun.sweeps.checking import Checked, check_points
from dlrun.sweeps.frozen import freeze, frozen_dirs
from dlrun.sweeps.nouns import Point, Settings, Space
from dlrun.sweeps.points import Composer, planned
from dlrun.sweeps.settings import read_settings
from dlrun.sweeps.space import read_space, split_words

SAMPLE = 200  # points of a space without end that are checked, beside every option and both ends of every interval


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        space: what is swept.
        settings: how.
        points: all points of a grid in their order; of another search those that were checked.
        count: points in all.
        checked: what all points agree on.
        composer: makes configs of points, from the frozen files.
        frozen: the folder of the frozen config files, there as long as the plan is open.
    """

    space: Space
    settings: Settings
    points: tuple[Point, ...]
    count: int
    checked: Checked
    composer: Composer
    frozen: Path

    @property
    def trials(self) -> int:
        """Points times seeds."""
        return self.count * len(self.space.seeds)


@contextmanager
def make_plan(
    words: Sequence[str],
    config_dirs: Sequence[Path],
    *,
    workers: int | None = None,
    trusted: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Plan]:
    """Read, freeze, compose and check; nothing of the plan is on disk after the context but what was copied from it.

    Args:
        words: overrides in Hydra's sweep grammar, and words for the sweep itself.
        config_dirs: the user's own folders of config files.
        workers: trials at the same time, where the command line says so.
        trusted: packages that may be named in ``_target_``.
        progress: told how many points are checked, of how many.

    Raises:
        DlrunError: the first mistake, of the kind that ``dlrun train`` would raise.
    """
    with tempfile.TemporaryDirectory(prefix="dlrun-sweep-") as place:
        frozen = Path(place) / "configs"
        freeze(config_dirs, frozen)
        folders, shipped = frozen_dirs(frozen)
        space_words, settings_words = split_words(words)
        space = read_space(space_words, folders, shipped)
        settings = read_settings(settings_words, space, folders, shipped)
        if workers is not None:
            settings = replace(settings, workers=workers)
        composer = Composer(folders, shipped)
        grid = settings.sampler == "grid"
        points = composer.grid(space) if grid or _countable(composer, space) else composer.sample(space, SAMPLE)
        if grid and settings.points is not None:
            raise ConfigError("sweep.trials is for a search; a grid tries all of its points (sweep=random draws some)")
        checked = check_points(
            composer, points, space.seeds, trusted=trusted, metric=settings.metric, progress=progress
        )
        count = len(points) if grid else planned(composer, space, settings)
        yield Plan(space, settings, tuple(points), count, checked, composer, frozen)


def _countable(composer: Composer, space: Space) -> bool:
    """Whether a search draws from so few points that all of them can be checked."""
    sizes = [len(axis.values) for axis in space.axes]
    total = 1
    for size in sizes:
        total *= size
    return space.finite and total <= SAMPLE
