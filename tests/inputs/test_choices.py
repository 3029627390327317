"""What is said where a name is none of those there are."""

from rank1_hf.inputs.choices import did_you_mean, must_be_one_of


def test_the_choices_are_named_and_the_nearest_is_asked_for() -> None:
    assert must_be_one_of("--split", "tset", ["dev", "test"]) == (
        "--split must be one of dev, test, not 'tset'; did you mean 'test'?"
    )
    assert must_be_one_of("--split", "x", ["dev", "test"]) == "--split must be one of dev, test, not 'x'"
    assert must_be_one_of("--subset", None, ["fas", "rus"]) == "--subset must be one of fas, rus"


def test_of_many_the_nearest_are_shown_first() -> None:
    names = [f"part {number}" for number in range(100)] + ["Touche2020"]
    said = must_be_one_of("--task", "touche2021", names)
    assert said.startswith("--task must be one of Touche2020, part 0, ")
    assert said.endswith("part 18 and 81 more, not 'touche2021'; did you mean 'Touche2020'?")


def test_nothing_is_asked_where_nothing_is_near() -> None:
    assert did_you_mean("score", ["qid", "docid"]) == ""
