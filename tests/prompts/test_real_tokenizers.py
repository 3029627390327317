"""The prompt contract on the tokenizers that the families publish.

They are too large to ship, so this runs where RANK1_TOKENIZERS names a folder that has them; see
scripts/fetch_tokenizers.sh. The tiny tokenizers of `tests.tiny_models` are what the other tests use.
"""

import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rank1_hf.prompts.chain_text import cut_to_last_sentence
from rank1_hf.prompts.prompt import PromptEncoder
from tests.prompts.test_prompt import (
    FRAGMENTS,
    characters,
    has_added_token,
    joined,
    normalized,
    queries,
    texts,
    thought_ids,
)
from tests.tiny_models import prompt_of

FOLDER = os.environ.get("RANK1_TOKENIZERS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="needs the folder named by RANK1_TOKENIZERS")

FAMILIES = {
    "qwen3": ("</think>",),
    "llama3_1": ("</", "think", ">"),
    "deepseek_v3": ("</", "think", ">"),
    "tekken": ("</", "think", ">"),
}
"""By folder: the tokens of `</think>`, one where it is an added token."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def fast(family: str) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(Path(FOLDER or "") / family)


@pytest.fixture(scope="module")
def encoder(fast: PreTrainedTokenizerFast) -> PromptEncoder:
    return PromptEncoder(fast)


@cache
def hostile_texts(fast: PreTrainedTokenizerFast) -> st.SearchStrategy[str]:
    """Texts full of the tokenizer's own added tokens, and of halves of them."""
    added = sorted(fast.get_added_vocab())
    halves = sorted({half for token in added for half in (token[: len(token) // 2], token[len(token) // 2 :]) if half})
    return joined(st.sampled_from(added), st.sampled_from(halves), st.sampled_from(FRAGMENTS), characters)


@settings(max_examples=300)
@given(data=st.data())
def test_hostile_text_never_becomes_a_special_token_and_no_character_is_lost(fast, encoder, data):
    query, passage = data.draw(queries(hostile_texts(fast))), data.draw(hostile_texts(fast))
    prompt = encoder.encode(query, passage)
    n_bos, n_think = len(encoder.bos_ids), len(encoder.think_ids)
    assert tuple(prompt.ids[:n_bos]) == encoder.bos_ids
    assert tuple(prompt.ids[-n_think:]) == encoder.think_ids
    assert not encoder.special_ids.intersection(prompt.ids[n_bos : len(prompt.ids) - n_think])
    assert fast.decode(prompt.ids[n_bos:]) == normalized(fast, prompt_of(query, passage))
    shares = encoder.prompt_texts(prompt)
    assert len(shares) == len(prompt.ids)
    assert "".join(shares[n_bos:]) == prompt_of(query, passage), "traces show the text as it was given"


@settings(max_examples=100)
@given(query=queries(texts), passage=texts)
def test_ids_equal_plain_tokenization_of_the_whole_prompt(fast, encoder, query, passage):
    assume(not has_added_token(fast, query, passage))
    assert encoder.encode(query, passage).ids == fast(prompt_of(query, passage)).input_ids


@settings(max_examples=100)
@given(data=st.data())
def test_only_the_end_of_the_passage_is_cut(fast, encoder, data):
    query, passage = data.draw(queries(hostile_texts(fast))), data.draw(hostile_texts(fast))
    shortest, full = encoder.encode(query, "").ids, encoder.encode(query, passage).ids
    assume(len(shortest) <= len(full))
    prompt = encoder.encode(query, passage, max_tokens=data.draw(st.integers(len(shortest), len(full))))
    prefixes = range(len(passage) + 1) if prompt.truncated else [len(passage)]
    assert any(prompt.ids == encoder.encode(query, passage[:end]).ids for end in prefixes)


@settings(max_examples=100)
@given(query=queries(texts), passage=texts, chain=texts)
def test_a_forced_close_equals_tokenizing_the_closed_text_as_a_whole(fast, encoder, query, passage, chain):
    assume(not has_added_token(fast, query, passage, chain))
    prompt, thought = encoder.encode(query, passage).ids, thought_ids(fast, chain)
    said = encoder.chain_text(prompt, thought)
    assert said == normalized(fast, chain).rstrip("\N{REPLACEMENT CHARACTER}")
    closed = f"{prompt_of(query, passage)}\n{cut_to_last_sentence(said)}\n</think>"
    assert encoder.force_close(prompt, thought) == fast(closed).input_ids


def test_markers_and_answers(family, fast, encoder):
    assert tuple(fast.decode([id_]) for id_ in encoder.close_ids) == FAMILIES[family]
    assert [fast.decode([id_]) for id_ in (encoder.true_id, encoder.false_id)] == [" true", " false"]


@settings(max_examples=100)
@given(query=queries(texts), passage=texts)
def test_tekken_is_as_mistral_tokenizes_it_itself(query, passage):
    tekken = _tekkenizer()
    ids = _encoder_of("tekken").encode(query, passage).ids
    assert ids == tekken.encode(prompt_of(query, passage), bos=False, eos=False)


@cache
def _encoder_of(family: str) -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(Path(FOLDER or "") / family))


@cache
def _tekkenizer():
    mistral_common = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    data = Path(mistral_common.__file__).parents[2] / "data"
    return mistral_common.Tekkenizer.from_file(data / "tekken_240911.json")
