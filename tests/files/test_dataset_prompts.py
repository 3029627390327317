"""Dataset prompts: those that ship, and those from files."""

import json
from pathlib import Path

import pytest

from rank1_hf.files.dataset_prompts import built_in_prompts, dataset_prompt, fill, read_prompts
from rank1_hf.files.inputs import InputError

DIFFERENT_RELEVANCE = (
    "ArguAna Touche2020Retrieval.v3 SciFact FEVER ClimateFEVER SCIDOCS TRECCOVID NFCorpus FiQA2018 QuoraRetrieval "
    "DBPedia"
)
BRIGHT = (
    "biology earth_science economics psychology robotics stackoverflow sustainable_living pony leetcode aops "
    "theoremqa_theorems theoremqa_questions"
)


def test_every_template_has_one_place_for_the_query_and_ends_with_it() -> None:
    for template in built_in_prompts().values():
        assert template.count("FILL_QUERY_HERE") == 1
        assert template.endswith(": FILL_QUERY_HERE")
        assert "\n" not in template


@pytest.mark.parametrize("task", DIFFERENT_RELEVANCE.split())
def test_what_is_relevant_otherwise_has_a_template(task: str) -> None:
    assert dataset_prompt(built_in_prompts(), task, "default") is not None


def test_each_subset_of_bright_has_its_own() -> None:
    templates = [dataset_prompt(built_in_prompts(), "BrightRetrieval", subset) for subset in BRIGHT.split()]
    assert None not in templates
    assert len(set(templates)) == 12


def test_a_plain_question_stays_as_it_is() -> None:
    assert fill(dataset_prompt(built_in_prompts(), "MSMARCO"), "what?") == "what?"


def test_a_query_is_text_wherever_it_stands() -> None:
    assert fill("Find FILL_QUERY_HERE.", r"\1 {x} FILL_QUERY_HERE") == r"Find \1 {x} FILL_QUERY_HERE."


def test_the_subset_comes_before_the_task() -> None:
    prompts = {"T": "a", "T/s": "b", "T_u": "c"}  # the last as in the rank1 authors' own prompts
    names = (("T",), ("T", "s"), ("T", "u"), ("T", "x"), ("U", "s"))
    assert [dataset_prompt(prompts, *name) for name in names] == ["a", "b", "c", "a", None]


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    prompts = {"SciFact": "Find\tFILL_QUERY_HERE", "A/b": "für FILL_QUERY_HERE"}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts, indent="\t"))
    (tmp_path / "prompts.yaml").write_text('SciFact: "Find\\tFILL_QUERY_HERE"\nA/b: für FILL_QUERY_HERE\n', "utf-8")
    assert read_prompts(tmp_path / "prompts.json") == read_prompts(tmp_path / "prompts.yaml") == prompts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot read"),
        ("- a list", "must map task names"),
        ("T: [FILL_QUERY_HERE]", "'T' must be a string"),
        ("T: no place", "'T' has no FILL_QUERY_HERE"),
        ("!!python/object/apply:os.getcwd []", "cannot read"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "prompts.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / "prompts.yaml")
