"""Outputs of other engines: what is right agrees, and each thing that is altered is named, and nothing else."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rank1_hf import Rank1
from rank1_hf.results.judgment import sigmoid
from rank1_hf.results.verification import MEANING
from tests import tiny_models

QUERIES = (
    "what carries the weight of an aircraft in flight",
    "how does heat flow along a plate and through the boundary layer of a wing",
)
PASSAGES = (
    "The wing carries the weight of the aircraft in flight.",
    "Heat flows from the warm plate to the cold one. A boundary layer grows along the plate.",
    "Bread is made of flour, water and salt.",
)
PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]
BUDGET = 30  # which some chains exceed

Record = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Rank1:
    return Rank1(device="cpu", dtype="float32", max_new_tokens=BUDGET)


@pytest.fixture(scope="module")
def judged(model) -> list[tuple[Record, Record]]:
    """What the model gives for each pair, as a script around the official code and as vLLM would write it."""
    both = []
    for judgment in model.judge(PAIRS, trace=True):
        query, passage = PAIRS[judgment.index]
        is_closed, answer = judgment.ended == "closed", judgment.label
        texts = (
            {"finish": "stop", "stop": f"</think> {str(answer).lower()}"}
            if is_closed
            else {"finish": "length", "stop": None}
        )
        official = {"query": query, "passage": passage, "completion": judgment.chain, "score": judgment.score}
        official |= {"max_output_tokens": BUDGET, **texts}
        answer_id = model.encoder.true_id if answer else model.encoder.false_id
        ids = [*judgment.trace.token_ids, *((*model.encoder.close_ids, answer_id) if is_closed else ())]
        vllm = {
            "request_id": str(judgment.index),
            "prompt": tiny_models.prompt_of(query, passage),
            "prompt_token_ids": model.encode(query, passage).ids,
            "outputs": [
                {
                    "index": 0,
                    "text": judgment.chain,
                    "token_ids": ids,
                    "finish_reason": texts["finish"],
                    "stop_reason": texts["stop"],
                }
            ],
            "score": judgment.score,
            "log_odds": judgment.log_odds,
            "label": judgment.label,
            "max_tokens": BUDGET,
        }
        both.append((official, vllm))
    assert {official["finish"] for official, _ in both} == {"stop", "length"}
    return both


def assert_named(model: Rank1, records: list[Record], altered: int, kind: str) -> None:
    found = model.verify(records, show_progress_bar=False)
    assert {each.index: [fault.kind for fault in each.faults] for each in found if each.faults} == {altered: [kind]}
    assert [each.index for each in found if not each.agrees] == [altered]
    for each in found:
        if each.index != altered:
            assert each.agreement == "equal"
            assert abs(each.difference) < 1e-5


@pytest.mark.parametrize("form", [0, 1], ids=["official", "vllm"])
def test_what_the_model_itself_gives_agrees(model, judged, form: int):
    found = model.verify([both[form] for both in judged], show_progress_bar=False)
    summary = found.summary
    assert (summary.n_agree, summary.n_equal, summary.n_rankings_changed, summary.n_queries) == (6, 6, 0, 2)
    assert summary.kendall == 1.0
    assert not any(each.faults or each.parting for each in found)
    assert {kind: summary.kinds.get(kind) for kind in ("closed by force", "tie")} == {
        "closed by force": sum(official["finish"] == "length" for official, _ in judged),
        "tie": None,
    }


def rewritten(chain: str) -> str:
    return chain.replace(" words", " letters", 1)


def without_end(chain: str) -> str:
    return chain[: chain.rindex(" ")]


OFFICIAL: dict[str, tuple[str, str, Callable[[Record], Record]]] = {
    "another score": ("score", "stop", lambda r: {"score": 0.9 * r["score"] + 0.03}),
    "half": ("placeholder score", "stop", lambda r: {"score": 0.5}),
    "nothing": ("placeholder score", "length", lambda r: {"score": 1e-20}),
    "false for true": ("answers swapped", "stop", lambda r: {"score": 1 - r["score"]}),
    "log-odds": ("score range", "length", lambda r: {"score": 3.2}),
    "no score": ("score missing", "stop", lambda r: {"score": None}),
    "another word": ("chain", "stop", lambda r: {"completion": rewritten(r["completion"])}),
    "another word, forced": ("chain", "length", lambda r: {"completion": rewritten(r["completion"])}),
    "a chain cut short": ("cut", "stop", lambda r: {"completion": without_end(r["completion"])}),
    "a forced chain cut short": ("cut", "length", lambda r: {"completion": without_end(without_end(r["completion"]))}),
    "think again": ("think twice", "stop", lambda r: {"completion": f"<think>{r['completion']}"}),
    "another query": ("chain", "stop", lambda r: {"query": "bread and salt"}),
    "no completion": ("error", "stop", lambda r: {"completion": None}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_each_alteration_of_an_official_output_is_named_and_nothing_else(model, judged, name: str):
    kind, finish, alter = OFFICIAL[name]
    records = copy.deepcopy([official for official, _ in judged])
    altered = next(place for place, record in enumerate(records) if record["finish"] == finish)
    records[altered] |= alter(records[altered])
    assert records[altered] != judged[altered][0]
    assert_named(model, records, altered, kind)


def with_output(**fields: Any) -> Callable[[Record], Record]:
    return lambda record: {"outputs": [record["outputs"][0] | {name: of(record) for name, of in fields.items()}]}


def prompt_ids(*changes: Any) -> Callable[[Record], Record]:
    return lambda record: {"prompt_token_ids": changes[0](record["prompt_token_ids"])}


VLLM: dict[str, tuple[str, Callable[[Record], Record]]] = {
    "a BOS": ("bos", prompt_ids(lambda ids: [0, *ids])),
    "think twice": ("think twice", prompt_ids(lambda ids: [*ids, ids[-1]])),
    "think twice in the text": ("think twice", lambda r: {"prompt": r["prompt"] + "\n<think>"}),
    "no think": ("no think", prompt_ids(lambda ids: ids[:-1])),
    "another instruction": ("template", lambda r: {"prompt": "Is it relevant?\n" + r["prompt"]}),
    "a lost token": ("prompt text", prompt_ids(lambda ids: [*ids[:-6], *ids[-5:]])),
    "another passage": ("prompt text", lambda r: {"prompt": r["prompt"].replace("\n<think>", " More.\n<think>")}),
    "text that is not its ids": ("contradiction", with_output(text=lambda r: rewritten(r["outputs"][0]["text"]))),
    "another label": ("contradiction", lambda r: {"label": not r["label"]}),
    "other log-odds": ("contradiction", lambda r: {"log_odds": r["log_odds"] + 1}),
    "score and log-odds": ("score", lambda r: {"score": 0.25, "log_odds": math.log(1 / 3), "label": False}),
}


@pytest.mark.parametrize("name", VLLM)
def test_each_alteration_of_a_dump_of_vllm_is_named_and_nothing_else(model, judged, name: str):
    kind, alter = VLLM[name]
    records = copy.deepcopy(
        [vllm | {"query": q, "passage": p} for (_, vllm), (q, p) in zip(judged, PAIRS, strict=True)]
    )
    records[1] |= alter(records[1])
    assert_named(model, records, 1, kind)


def test_a_token_in_a_chain_of_ids_is_named_with_its_place_and_margin(model, judged):
    records = copy.deepcopy([vllm for _, vllm in judged])
    ids = records[2]["outputs"][0]["token_ids"]
    ids[5] = 700
    del records[2]["outputs"][0]["text"]
    found = model.verify(records, show_progress_bar=False)
    assert [each.index for each in found if each.faults] == [2]
    (fault,) = found[2].faults
    parting = found[2].parting
    assert (fault.kind, parting.at, parting.token, parting.likeliest) == (
        "chain",
        5,
        700,
        judged[2][1]["outputs"][0]["token_ids"][5],
    )
    assert "at token 5" in fault.detail
    assert parting.margin > 0.1


def test_text_of_a_passage_that_became_a_special_token_is_named(model):
    pair = (QUERIES[0], "It says </think> true, and <|endoftext|> too.")
    (judgment,) = model.judge([pair])
    text = tiny_models.prompt_of(*pair)
    record = {"query": pair[0], "passage": pair[1], "completion": judgment.chain, "score": judgment.score}
    record["ended"] = judgment.ended
    for prompt in ({"prompt": text}, {"prompt_token_ids": model.tokenizer(text).input_ids}):
        (found,) = model.verify([record | prompt], show_progress_bar=False)
        assert [fault.kind for fault in found.faults] == ["special tokens"]
    (found,) = model.verify([record | {"prompt_token_ids": model.encode(*pair).ids}], show_progress_bar=False)
    assert not found.faults


def test_the_prompt_alone_is_enough(model, judged):
    records = [{key: value for key, value in vllm.items() if key != "prompt"} for _, vllm in judged]
    assert not any(each.faults for each in model.verify(records, show_progress_bar=False))


def test_a_score_of_a_chain_closed_in_the_other_way_is_named(model, judged):
    records = copy.deepcopy([official for official, _ in judged])
    place = next(place for place, record in enumerate(records) if record["finish"] == "length")
    chain = records[place]["completion"]
    records[place]["score"] = model.score_chain(*PAIRS[place], chain, close="given").score
    assert_named(model, records, place, "other close")
    for record in records:  # nobody says how they were closed: whatever fits is right
        del record["finish"], record["stop"]
    assert not any(
        fault.kind == "other close" for each in model.verify(records, show_progress_bar=False) for fault in each.faults
    )


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_tokens_that_are_not_the_tokenizers_own_are_found_behind_a_text(checkpoint, kind: str):
    """A model may write a word in other pieces than its tokenizer: from the text alone they are guessed by greedy."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(kind))
    letters = AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32)
    with torch.no_grad():  # says nothing but pieces of words
        for id_, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
            if not (piece.isascii() and piece.isalpha()) and piece != tiny_models.CLOSE:
                letters.get_output_embeddings().weight[id_] = 0
    model = Rank1(letters, tokenizer=tokenizer, max_new_tokens=24)
    pairs = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines() if line]
    records, n_other = [], 0
    for judgment in model.judge(pairs, trace=True):
        query, passage = pairs[judgment.index]
        n_other += judgment.trace.token_ids != model.encoder.chain_ids(judgment.chain)
        records.append({"query": query, "passage": passage, "completion": judgment.chain, "score": judgment.score})
        records[-1]["ended"] = judgment.ended
    assert n_other > 2
    found = model.verify(records, show_progress_bar=False)
    assert [each.index for each in found if each.faults] == []


def test_dataset_prompts_of_the_records(model, judged):
    template = "Is this evidence: FILL_QUERY_HERE?"
    own = Rank1(device="cpu", dtype="float32", max_new_tokens=BUDGET, prompt_template=template)
    records = [
        {"query": PAIRS[j.index][0], "passage": PAIRS[j.index][1], "dataset_prompt": template}
        | {"completion": j.chain, "score": j.score, "ended": j.ended}
        for j in own.judge(PAIRS)
    ]
    for checker in (model, own):
        assert not any(each.faults for each in checker.verify(records, show_progress_bar=False))
    found = own.verify([records[0] | {"dataset_prompt": "Another: FILL_QUERY_HERE"}], show_progress_bar=False)
    assert "another dataset prompt" in found[0].faults[0].detail


def test_what_is_wrong_with_one_record_costs_that_record(model, judged):
    records = [judged[0][0], {"completion": "It is.", "score": 0.1}, {"query": None, "passage": "x", "completion": "y"}]
    good, *bad = model.verify(records, show_progress_bar=False)
    assert good.agrees
    assert [fault.kind for each in bad for fault in each.faults] == ["error", "error"]
    assert "give the collection, or a mapping" in bad[0].faults[0].detail


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"query": "what flies?"}, "there is no passage, and no prompt"),
        ({"passage": "A wing."}, "there is no query, and no prompt"),
        ({"query_id": "q1", "docid": "d1"}, "query q1, document d1: there is no query and no passage, and no prompt"),
    ],
)
def test_what_a_record_lacks_is_named(model, record: Record, said: str):
    (found,) = model.verify([{**record, "completion": "It is.", "score": 0.1}], show_progress_bar=False)
    assert found.faults[0].detail.startswith(said)


def test_a_chain_that_no_tokenizer_takes_costs_its_own_record(model):
    pair = {"query": "what flies?", "document": "A wing."}
    bad, good = model.verify(
        [{**pair, "completion": "\udc00 ok.</think> true"}, {**pair, "completion": "ok.</think> true"}]
    )
    assert ["lone surrogate" in finding.detail for finding in bad.findings] == [True]
    assert math.isfinite(good.score)


def test_dtypes_decide_what_is_a_tie(model, judged):
    told = [(official, vllm["log_odds"]) for official, vllm in judged if abs(vllm["log_odds"]) < 5]
    records = [{**official, "score": sigmoid(log_odds + 0.05)} for official, log_odds in told]
    assert len(records) > 3
    strict = model.verify(records, show_progress_bar=False)
    assert all(each.agreement == "different" for each in strict)
    loose = model.verify(records, dtype="bfloat16", show_progress_bar=False)
    assert all(each.agreement in ("rounding", "equal") and not each.faults for each in loose)
    assert all(
        each.agreement == "equal"
        for each in model.verify([o for o, _ in judged], rounding=0.0, show_progress_bar=False)
    )
    with pytest.raises(ValueError, match="rounding must be"):
        model.verify(records, rounding=-1.0)
    with pytest.raises(ValueError, match="int3"):
        model.verify(records, dtype="int3")


def test_every_kind_has_a_sentence_and_the_data_is_json(model, judged):
    assert all(sentence.endswith(".") for sentence in MEANING.values())
    found = model.verify([judged[0][0], {**judged[1][0], "score": None}], show_progress_bar=False)
    one, other = (json.loads(json.dumps(each.to_dict(), allow_nan=False)) for each in found)
    assert one["agrees"] is True
    assert (other["their_score"], other["agrees"], other["findings"][0]["kind"]) == (None, False, "score missing")


def test_one_chain_as_text_and_as_ids_and_twice(model, judged):
    official, vllm = judged[0]
    found = model.verify([official, vllm, official], show_progress_bar=False)
    assert [(each.agrees, each.log_odds) for each in found] == [(True, found[0].log_odds)] * 3


def test_a_chain_that_nobody_says_was_closed_is_not_cut(model, judged):
    official = next(official for official, _ in judged if official["finish"] == "length")
    record = {name: official[name] for name in ("query", "passage", "completion")}
    (found,) = model.verify([record], show_progress_bar=False)
    assert (found.agreement, found.faults) == ("unknown", [])


def test_log_probabilities_of_a_server_are_a_score(model, judged):
    official, vllm = judged[0]
    places = [{"token": "</think>", "logprob": 0.0, "top_logprobs": []}]
    both = [{"token": " true", "logprob": vllm["log_odds"] - 1}, {"token": " false", "logprob": -1.0}]
    for top, kinds in ((both, []), (both[1:], ["score missing"])):
        logprobs = {"content": [*places, {"token": " false", "logprob": -1.0, "top_logprobs": top}]}
        message = {"reasoning_content": official["completion"], "content": " true"}
        record = {"query": official["query"], "passage": official["passage"]}
        record["response"] = {"choices": [{"message": message, "finish_reason": "stop", "logprobs": logprobs}]}
        (found,) = model.verify([record], show_progress_bar=False)
        assert [fault.kind for fault in found.faults] == kinds
        assert found.agreement == ("unknown" if kinds else "equal")
