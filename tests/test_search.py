"""The level search, on functions instead of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from napari_hyperthumb.search import Trial, search_level

Function = Callable[[float], float]


def search(function: Function, wanted: float, **options: float):
    """Both trials and the levels that were tried."""
    levels: list[float] = []

    def measure(level: float) -> tuple[float, float]:
        levels.append(level)
        return function(level), level

    settings = {"low": -4, "high": 1, "start": 0, "slope": 0.85, "tolerance": 0.01} | options
    below, above = search_level(measure, wanted, **settings)
    return below, above, levels


SHAPES: dict[str, Function] = {
    "a line": lambda x: 8 + 0.85 * x,
    "a steeper line": lambda x: 8 + 3.0 * x,
    "a flat line": lambda x: 8 + 0.15 * x,
    "bent": lambda x: 8 + 0.6 * x + 0.3 * max(x, 0) ** 2,
    "bent at -1": lambda x: 8 + (0.4 * x if x > -1 else -0.4 + 0.9 * (x + 1)),
    "with ripples": lambda x: 8 + 0.8 * x + 0.003 * math.sin(60 * x),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at", [-3.5, -1.2, -0.6, 0.0, 0.3, 0.97])
def test_what_is_found_lies_just_below_the_wanted(shape, at):
    function = SHAPES[shape]
    wanted = function(at)
    below, _, levels = search(function, wanted)
    assert below is not None
    assert wanted - 0.01 <= below.value <= wanted
    assert below.value == function(below.level) and below.result == below.level
    assert len(levels) <= 9


def test_trials_enclose_the_wanted():
    below, above, _ = search(lambda x: 8 + 1.3 * x, 8.4321, tolerance=1e-9, trials=6)
    assert below.value <= 8.4321 < above.value
    assert below.level < above.level


def test_no_level_is_tried_twice_and_none_outside_of_the_bounds():
    for wanted in (2.0, 7.9, 8.3, 9.9):
        _, _, levels = search(lambda x: 8 + 0.85 * math.tanh(3 * x), wanted, tolerance=1e-6)
        assert len(levels) == len(set(levels))
        assert all(-4 <= level <= 1 for level in levels)


def test_too_much_gives_the_highest_level_and_nothing_above():
    below, above, levels = search(lambda x: 8 + x, 20)
    assert (below.level, above) == (1, None)
    assert len(levels) <= 3


def test_too_little_gives_nothing_below_and_the_lowest_level_above():
    below, above, levels = search(lambda x: 8 + x, 1)
    assert below is None
    assert above.level == -4
    assert len(levels) <= 3


def test_steps_are_found_from_below():
    below, above, levels = search(lambda x: math.floor(4 * x), 1.5, tolerance=0.01)
    assert (below.value, above.value) == (1, 2)
    assert len(levels) <= 14


def test_constant_function_ends():
    below, _, levels = search(lambda x: 5.0, 6.0)
    assert below.value == 5
    assert len(levels) <= 14
    below, above, _ = search(lambda x: 5.0, 4.0)
    assert below is None and above.value == 5


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_number_of_trials_is_kept(trials):
    _, _, levels = search(lambda x: 8 + 0.3 * x**3, 8.2, tolerance=0, trials=trials)
    assert len(levels) == trials


def test_start_beyond_the_bounds_is_moved_inside():
    _, _, levels = search(lambda x: x, 0.5, start=7.0)
    assert levels[0] == 1
    assert Trial(0.5, 1.0, "result").result == "result"
