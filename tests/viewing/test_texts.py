"""What a caller wrote is shown as it was written, whatever the tokenizer made of it."""

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rank1_hf import Rank1, TraceOptions
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.viewing.report import report_data
from tests import tiny_models
from tests.prompts.test_prompt import hostile_texts, normalized, queries, texts

COMPOSED = "Le café de l\u2019Élysée, à Zürich"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture(scope="module", params=tiny_models.TOKENIZERS)
def fast(request, tokenizer):
    return tokenizer(request.param)


@pytest.fixture(scope="module")
def encoder(fast) -> PromptEncoder:
    return PromptEncoder(fast)


@pytest.fixture
def reranker(checkpoint) -> Rank1:
    """Of a tokenizer that composes accents, as Qwen's does."""
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=64)


def bos(encoder: PromptEncoder, fast) -> str:
    return fast.decode(encoder.bos_ids)


class TestPromptTexts:
    @given(query=queries(st.one_of(texts, hostile_texts)), passage=st.one_of(texts, hostile_texts))
    def test_they_are_the_prompt_as_it_was_given(self, fast, encoder, query, passage):
        prompt = encoder.encode(query, passage)
        shares = encoder.prompt_texts(prompt)
        assert len(shares) == len(prompt.ids)
        assert "".join(shares) == bos(encoder, fast) + tiny_models.prompt_of(query, passage)

    @given(query=queries(texts), passage=texts)
    def test_each_is_what_its_token_stands_for(self, fast, encoder, query, passage):
        text = query + passage
        assume("\N{REPLACEMENT CHARACTER}" not in text and normalized(fast, text) == text)
        prompt = encoder.encode(query, passage)
        first = 2 if fast.backend_tokenizer.model.byte_fallback else 0  # behind a space that nobody wrote
        assert encoder.prompt_texts(prompt)[first:] == encoder.token_texts((), prompt.ids)[first:]

    def test_a_cut_passage_ends_where_it_was_cut(self, fast, encoder):
        room = len(encoder.encode("wings", DECOMPOSED).ids) - 3
        prompt = encoder.encode("wings", DECOMPOSED, max_tokens=room)
        said = "".join(encoder.prompt_texts(prompt)).removeprefix(bos(encoder, fast))
        assert prompt.truncated
        assert said in [tiny_models.prompt_of("wings", DECOMPOSED[:end]) for end in range(len(DECOMPOSED))]


class TestGivenChains:
    @given(chain=texts)
    def test_each_token_has_its_share(self, encoder, chain):
        shares = encoder.given_chain_texts(chain)
        assert "".join(shares) == chain
        assert len(shares) == len(encoder.chain_ids(chain))

    @pytest.mark.parametrize("resume", [False, True])
    @pytest.mark.parametrize("text", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
    def test_a_judgment_has_it_as_it_was_given(self, reranker, text: str, resume: bool):
        judgment = reranker.score_chain("wings", "air", f"{text}.", resume=resume, trace=True)
        assert judgment.chain.startswith(f"{text}.")
        assert (judgment.chain == f"{text}.") is not resume
        assert "".join(judgment.trace.texts) == judgment.chain
        assert len(judgment.trace.texts) == len(judgment.trace.token_ids)
        as_ids = reranker.score_chain("wings", "air", reranker.encoder.chain_ids(f"{text}."), resume=resume)
        assert as_ids.log_odds == judgment.log_odds


@pytest.mark.parametrize("text", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
def test_traces_and_reports_show_the_users_own_text(reranker: Rank1, text: str) -> None:
    query, passage = f"where is {text}?", {"title": text, "text": f"{text} is a place."}
    judgments = reranker.judge([(query, passage)], trace=TraceOptions(attention=True))
    prompt = tiny_models.prompt_of(query, f"{text} {text} is a place.")
    assert "".join(judgments[0].trace.prompt_texts) == prompt
    assert "".join(reranker.lens(query, passage).prompt_texts) == prompt
    data = report_data(judgments, pairs=[(query, passage)])
    assert data["queries"] == [query]
    assert data["passages"] == [f"{text} {text} is a place."]
    assert "".join(data["rows"][0]["runs"][0]["trace"]["prompt"]) == prompt
