"""What is chosen for a node from what was timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnx_tucker.planning.menu import Menu
from onnx_tucker.planning.tuning import Option
from onnx_tucker.settings import Settings
from tests.helpers import candidate, look, two_layers


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        (Settings(), 3),  # the most accurate of those that are about as fast as the fastest, and faster than the node
        (Settings(min_speedup=1.06), 2),
        (Settings(min_speedup=2), None),
        (Settings(keep_slower=True), 4),
    ],
)
def test_the_most_accurate_chain_that_is_worth_it(settings: Settings, rank: int | None) -> None:
    [one, _] = look(two_layers())[1]
    options = [Option(candidate(one, None), 30.0)]
    for chosen, ms in ((2, 28.0), (3, 29.0), (4, 30.2)):
        chain = replace(candidate(one, "tucker2", (chosen, chosen)), predicted_error=1 / chosen)
        options.append(Option(chain, ms))
    pick = Menu([one], "", [option.candidate for option in options[1:]], options).pick(settings, on_frames=False)
    assert pick is not None
    assert pick.candidate.ranks == (None if rank is None else (rank, rank))


def test_a_chain_that_only_the_whole_model_is_against_says_so() -> None:
    [one, _] = look(two_layers())[1]
    options = [Option(candidate(one, None), 30.0), Option(candidate(one, "tucker2", (2, 2)), 20.0)]
    menu = Menu([one], "", [options[1].candidate], options)
    assert menu.beaten(Settings()) == "measured x1.50 with tucker2 2,2 alone, but no faster within the whole model"
    assert menu.beaten(Settings(min_speedup=1.6)) == "measured x1.50 with tucker2 2,2"
