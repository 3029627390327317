"""What is recommended of several ways, by their definition, and where a model does not fit."""

import pytest
import torch

from rank1_hf.models.cards import GIB
from rank1_hf.models.planning import MemoryPlan, family_config
from rank1_hf.models.recommendation import Way, best_that_fits, candidates, fastest_that_fits, why_too_large


def way(model: str, billions: float, quantization: str | None, room: int, speed: float | None = 1.0) -> Way:
    plan = MemoryPlan(weights=1, reserve=1, kv_per_token=1, kv_tokens=room, rows=room, pairs_per_minute=speed)
    return Way(model, int(billions * 1e9), quantization, plan, room)


def test_the_best_is_the_largest_with_enough_room():
    four, many = way("32b", 32, "4bit", 4), way("14b", 14, "4bit", 120)
    assert best_that_fits([four, many, way("3b", 3, None, 256)]) is many


def test_of_one_model_the_least_quantized_with_enough_room_is_the_best():
    ways = [way("7b", 7, None, 5), way("7b", 7, "8bit", 40), way("7b", 7, "4bit", 90)]
    assert best_that_fits(ways) is ways[1]
    assert best_that_fits(reversed(ways)) is ways[1]


def test_where_nothing_has_enough_room_the_most_is_the_best():
    ways = [way("7b", 7, "4bit", 2), way("3b", 3, "4bit", 20), way("0.5b", 0.5, None, 10)]
    assert best_that_fits(ways) is ways[1]


def test_the_fastest_judges_the_most_pairs_a_minute_and_of_equal_ones_the_largest():
    ways = [way("a", 1, "8bit", 9, 50.0), way("a", 1, None, 9, 50.0), way("b", 2, "4bit", 9, 40.0)]
    assert fastest_that_fits(ways) is ways[1]


def test_what_does_not_fit_is_neither():
    none = [way("32b", 32, None, 0, None)]
    assert best_that_fits(none) is fastest_that_fits(none) is None
    assert best_that_fits([]) is None


def test_what_needs_another_library_or_is_of_others_is_no_candidate():
    ways = [
        way("jhu-clsp/rank1-7b", 7, "4bit", 9),
        way("jhu-clsp/rank1-7b-awq", 7, "awq", 9),
        way("songtingyu/limrank", 7, None, 9),
    ]
    assert candidates(ways) == ways[:1]


@pytest.mark.usefixtures("sizes_are_known")
def test_a_model_that_does_not_fit_is_refused_with_what_would():
    config = family_config("rank1-14b")
    assert why_too_large(config, torch.bfloat16, "4bit", 18 * GIB) is None
    said = "its weights take 27.5 GiB and the GPU has 18.0 GiB free; quantization='4bit' would fit, and device_map="
    assert said in why_too_large(config, torch.bfloat16, None, 18 * GIB), "the best of the family is this model, too"


@pytest.mark.usefixtures("sizes_are_known")
def test_what_is_quantized_already_cannot_be_quantized_again():
    reason = why_too_large(family_config("rank1-14b-awq"), torch.float16, "awq", 8 * GIB)
    assert "free; jhu-clsp/rank1-" in reason


@pytest.mark.usefixtures("sizes_are_known")
def test_where_nothing_fits_the_reason_says_so():
    reason = why_too_large(family_config("rank1-0.5b"), torch.bfloat16, "4bit", GIB // 10)
    assert "a smaller model, or a larger GPU, would fit" in reason
