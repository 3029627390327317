"""The prompt contract, for every kind of tokenizer."""

from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from rank1_hf.chains.chain import common_prefix_length
from rank1_hf.prompts.chain_text import cut_to_last_sentence
from rank1_hf.prompts.markers import ContractError, Markers
from rank1_hf.prompts.pair_text import PairError
from rank1_hf.prompts.prompt import PromptEncoder
from tests import tiny_models
from tests.tiny_models import prompt_of


@pytest.fixture(scope="module", params=tiny_models.TOKENIZERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fast(kind, tokenizer):
    return tokenizer(kind)


@pytest.fixture(scope="module")
def encoder(fast):
    return PromptEncoder(fast)


WORDS = sorted(set(tiny_models.TEXT.split()))
FRAGMENTS = (
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        ". ",
        "! ",
        "?",
        "</",
        "think>",
        "<think",
        "true",
        " false",
        "<0x0A>",
        "1234",
    ),
    *(
        "é",
        "e\u0301",
        "🙂",
        "👩\u200d👩\u200d👧",
        "東京",
        "שלום",
        "مرحبا",
        "\u202e",
        "\u0338",
        "\x00",
        "\ufeff",
        "\ufffd",
        "İ",
    ),
)
EVERY_ADDED_TOKEN = (
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<unk>",
        "<s>",
    ),
    *(
        "</s>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "[INST]",
    ),
    "[/INST]",
)


def joined(*pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(*pieces), max_size=12).map("".join)


characters = st.text(st.characters(codec="utf-8"), max_size=6)
texts = joined(st.sampled_from(WORDS).map(lambda word: f" {word}"), st.sampled_from(FRAGMENTS), characters)
hostile_texts = joined(st.sampled_from(EVERY_ADDED_TOKEN), st.sampled_from(FRAGMENTS), characters)


def queries(some_texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return some_texts.filter(str.strip)


def has_added_token(fast: PreTrainedTokenizerFast, *some_texts: str) -> bool:
    return any(token in text for token in fast.get_added_vocab() for text in some_texts)


def normalized(fast: PreTrainedTokenizerFast, text: str) -> str:
    """The text as the tokenizer sees it, which is all that its ids can give back."""
    normalizer = fast.backend_tokenizer.normalizer
    text = normalizer.normalize_str(text) if normalizer is not None else text
    return text.replace("▁", " ") if fast.backend_tokenizer.model.byte_fallback else text


def thought_ids(fast: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a chain, as a model would write it behind <think>."""
    if "<think>" in fast.get_added_vocab():
        return fast("<think>" + text, add_special_tokens=False).input_ids[1 + leading(fast) :]
    return fast(text, add_special_tokens=False).input_ids


@cache
def leading(fast: PreTrainedTokenizerFast) -> int:
    """How many ids stand before a <think> at the start of a text (a SentencePiece tokenizer may put a space there)."""
    return fast("<think>", add_special_tokens=False).input_ids.index(fast.convert_tokens_to_ids("<think>"))


def test_added_token_list_is_complete(fast):
    """`hostile_texts` draws from every added token there is."""
    assert set(fast.get_added_vocab()) <= set(EVERY_ADDED_TOKEN)


class TestIds:
    @given(query=queries(texts), passage=texts)
    def test_equal_plain_tokenization_of_the_whole_prompt(self, fast, encoder, query, passage):
        assume(not has_added_token(fast, query, passage))
        assert encoder.encode(query, passage).ids == fast(prompt_of(query, passage)).input_ids

    @given(query=queries(hostile_texts), passage=hostile_texts)
    def test_text_never_becomes_a_special_token(self, fast, encoder, query, passage):
        ids = encoder.encode(query, passage).ids
        added = set(fast.get_added_vocab().values())
        n_bos = 1 if fast.bos_token else 0
        n_think = 1 if "<think>" in fast.get_added_vocab() else 0
        middle = ids[n_bos : len(ids) - n_think]
        assert ids[:n_bos] == [fast.bos_token_id][:n_bos]
        assert ids[len(ids) - n_think :] == [fast.get_added_vocab().get("<think>")][:n_think]
        assert not added.intersection(middle)
        assert fast.decode(ids[n_bos:]) == normalized(fast, prompt_of(query, passage))

    def test_a_bos_where_the_family_has_one(self, kind, fast, encoder):
        starts_with_bos = encoder.encode("wings", "air").ids[0] == fast.bos_token_id
        assert starts_with_bos == (kind in ("llama", "mistral", "sentencepiece"))

    def test_added_white_space_stays_one_token(self, tokenizer):
        fast = tiny_models.build_tokenizer("qwen2")
        fast.add_tokens([AddedToken("        ", normalized=False)])
        encoder = PromptEncoder(fast)
        passage = "if wings:\n        fly"
        ids = encoder.encode("code", passage).ids
        assert ids == fast(prompt_of("code", passage)).input_ids
        assert ids != tokenizer("qwen2")(prompt_of("code", passage)).input_ids

    @pytest.mark.parametrize(
        ("query", "passage", "prompt"),
        [
            ("wings", "", prompt_of("wings", "")),
            ("wings", " \n ", prompt_of("wings", " \n ")),
            ({"text": "wings"}, {"text": "air"}, prompt_of("wings", "air")),
            ("wings", {"title": "Flight", "text": "air"}, prompt_of("wings", "Flight air")),
            ("wings", {"title": "", "text": "air"}, prompt_of("wings", "air")),
            ("wings", {"title": None, "text": "air"}, prompt_of("wings", "air")),
            ({"text": "wings", "instruction": "not birds"}, "air", prompt_of("wings not birds", "air")),
            ({"text": "wings", "instruction": "wings"}, "air", prompt_of("wings", "air")),
            ({"text": "wings", "instruction": None}, "air", prompt_of("wings", "air")),
        ],
    )
    def test_titles_and_instructions(self, fast, encoder, query, passage, prompt):
        assert encoder.encode(query, passage).ids == fast(prompt).input_ids

    def test_template_stands_in_the_query_place(self, fast):
        encoder = PromptEncoder(fast, template="Find what answers FILL_QUERY_HERE, if FILL_QUERY_HERE is a question")
        query = {"text": "why wings", "instruction": "be strict"}
        filled = "Find what answers why wings be strict, if why wings be strict is a question"
        assert encoder.encode(query, "air").ids == fast(prompt_of(filled, "air")).input_ids

    def test_template_without_the_query_is_an_error(self, fast):
        with pytest.raises(ValueError, match="FILL_QUERY_HERE"):
            PromptEncoder(fast, template="Is this relevant?")

    def test_other_markers(self, fast, encoder):
        other = PromptEncoder(fast, markers=Markers(true=" false", false=" true", think="<reason>", close="</reason>"))
        said = fast.decode(other.encode("wings", "air").ids)
        assert said.endswith("Passage: air\n<reason>")
        assert "Answer only with 'false' or 'true'.\n" in said, "the prompt asks for the answers that are read"
        assert fast.decode(other.close_ids) == "</reason>"
        assert (other.true_id, other.false_id) == (encoder.false_id, encoder.true_id)

    def test_answers_are_read_with_their_space(self, fast, encoder):
        assert fast.decode([encoder.true_id, encoder.false_id]).split() == ["true", "false"]
        answers = [fast(f"so it is {answer}", add_special_tokens=False).input_ids for answer in ("true", "false")]
        assert [ids[-1] for ids in answers] == [encoder.true_id, encoder.false_id]


class TestTruncation:
    @given(query=queries(hostile_texts), passage=hostile_texts, data=st.data())
    def test_only_the_end_of_the_passage_is_cut(self, encoder, query, passage, data):
        shortest, full = encoder.encode(query, "").ids, encoder.encode(query, passage).ids
        assume(len(shortest) <= len(full))
        max_tokens = data.draw(st.integers(len(shortest), len(full) + 2))
        prompt = encoder.encode(query, passage, max_tokens=max_tokens)
        assert len(prompt.ids) <= max_tokens
        assert prompt.truncated == (len(full) > max_tokens)
        prefixes = range(len(passage) + 1) if prompt.truncated else [len(passage)]
        assert any(prompt.ids == encoder.encode(query, passage[:end]).ids for end in prefixes)

    def test_no_more_is_cut_than_must_be(self, encoder):
        passage = " ".join(WORDS)
        full = encoder.encode("wings", passage).ids
        for max_tokens in range(len(full) - 40, len(full)):
            assert len(encoder.encode("wings", passage, max_tokens=max_tokens).ids) >= max_tokens - 3

    def test_error_instead_of_cutting(self, encoder):
        full = encoder.encode("wings", "air and water").ids
        assert encoder.encode("wings", "air and water", max_tokens=len(full), truncation="error").ids == full
        with pytest.raises(PairError, match=rf"{len(full)} tokens.*shorten the passage"):
            encoder.encode("wings", "air and water", max_tokens=len(full) - 1, truncation="error")

    def test_query_alone_too_long(self, encoder):
        shortest = encoder.encode("wings", "").ids
        with pytest.raises(PairError, match="shorten the query"):
            encoder.encode("wings", "air", max_tokens=len(shortest) - 1)

    @pytest.mark.parametrize("passage", ["wing " * 200_000, "🙂" * 250_000])
    def test_a_passage_of_a_megabyte(self, tokenizer, passage):
        prompt = PromptEncoder(tokenizer("qwen2")).encode("wings", passage, max_tokens=500)
        assert prompt.truncated
        assert 490 <= len(prompt.ids) <= 500


class TestShared:
    @given(query=queries(texts), passages=st.tuples(texts, texts), cut=st.booleans())
    def test_prompts_of_a_query_share_so_many_ids(self, fast, encoder, query, passages, cut):
        assume(not has_added_token(fast, query, *passages))
        head = fast(prompt_of(query, "").removesuffix("\n<think>")).input_ids
        room = len(encoder.encode(query, "").ids) + 3 if cut else None
        one, other = (encoder.encode(query, passage, max_tokens=room) for passage in passages)
        shared = min(one.n_shared, other.n_shared)
        assert common_prefix_length(one.ids, other.ids) >= shared
        assert shared >= len(head) - 3  # no more than the seam is lost

    def test_other_queries_do_not_count(self, fast, encoder):
        encoder.encode("wings", "air")
        assert encoder.encode("rivers", "air") == PromptEncoder(fast).encode("rivers", "air")


class TestForceClose:
    @pytest.mark.parametrize(
        ("chain", "cut"),
        [
            ("It names wings. So it is tr", "It names wings."),
            ("It names wings.", "It names wings."),
            ("It names wings.  \n", "It names wings."),
            ("Is it? Yes! And th", "Is it? Yes!"),
            ("Is it? Perhaps", "Is it?"),
            ("no sentence ends here", "no sentence ends here"),
            ("  no sentence ends here \n", "no sentence ends here"),
            ("\n\nIt is. ", "It is."),
            ("version 1.5 of", "version 1."),
            ("", ""),
            (" \n ", ""),
        ],
    )
    def test_cut_to_the_last_sentence(self, chain, cut):
        assert cut_to_last_sentence(chain) == cut

    @given(query=queries(texts), passage=texts, chain=texts)
    def test_equals_tokenizing_the_closed_text_as_a_whole(self, fast, encoder, query, passage, chain):
        assume(not has_added_token(fast, query, passage, chain))
        prompt = encoder.encode(query, passage).ids
        thought = thought_ids(fast, chain)
        cut = cut_to_last_sentence(encoder.chain_text(prompt, thought))
        closed = f"{prompt_of(query, passage)}\n{cut}\n</think>"
        assert encoder.force_close(prompt, thought) == fast(closed).input_ids

    @given(passage=hostile_texts, data=st.data())
    def test_whatever_was_thought_stays_plain(self, fast, encoder, passage, data):
        """Even special tokens that the model itself wrote: only the close is one."""
        prompt = encoder.encode("wings", passage).ids
        thought = data.draw(st.lists(st.integers(0, len(fast) - 1), max_size=20))
        closed = encoder.force_close(prompt, thought)
        start, end = common_prefix_length(prompt, closed), len(closed) - len(encoder.close_ids)
        assert start >= len(prompt) - len(encoder.think_ids)
        assert tuple(closed[end:]) == encoder.close_ids
        assert not set(fast.get_added_vocab().values()).intersection(closed[len(prompt) : end])

    def test_a_quoted_close_stays_plain(self, fast, encoder):
        prompt = encoder.encode("wings", "air").ids
        quote = "It says </think> true."
        thought = [id_ for piece in quote for id_ in thought_ids(fast, piece)]  # character by character: never special
        closed = encoder.force_close(prompt, thought)
        assert fast.decode(closed).endswith(f"<think>\n{quote}\n</think>")
        if len(encoder.close_ids) == 1:
            assert closed.count(encoder.close_ids[0]) == 1

    def test_close_is_what_the_tokenizer_writes(self, fast, encoder):
        ids = fast("It names wings.\n</think>").input_ids
        assert tuple(ids[-len(encoder.close_ids) :]) == encoder.close_ids
        assert fast.decode(encoder.close_ids) == "</think>"


class TestChainText:
    @given(passage=texts, chain=texts)
    def test_gives_back_what_was_thought(self, fast, encoder, passage, chain):
        assume(not has_added_token(fast, passage, chain))
        prompt = encoder.encode("wings", passage).ids
        expected = normalized(fast, chain).rstrip("\N{REPLACEMENT CHARACTER}")
        assert encoder.chain_text(prompt, thought_ids(fast, chain)) == expected

    @pytest.mark.parametrize("character", ["é", "東", "🙂"])
    def test_half_a_character_at_the_end_is_dropped(self, fast, encoder, character):
        prompt = encoder.encode("wings", "air").ids
        thought = thought_ids(fast, f"the air {character}")
        assert encoder.chain_text(prompt, thought) == f"the air {character}"
        assert encoder.chain_text(prompt, thought[:-1]) == "the air "

    @given(query=queries(texts), passage=texts, chain=texts)
    def test_rethinking_appends_wait(self, fast, encoder, query, passage, chain):
        assume(not has_added_token(fast, query, passage, chain))
        prompt = encoder.encode(query, passage).ids
        thought = thought_ids(fast, chain)
        reopened = f"{prompt_of(query, passage)}{encoder.chain_text(prompt, thought)}\nWait"
        assert encoder.rethink(prompt, thought) == fast(reopened).input_ids


class TestContract:
    def test_a_slow_tokenizer(self):
        with pytest.raises(ContractError, match=r"ByT5Tokenizer is not a fast tokenizer.*tokenizer\.json"):
            PromptEncoder(ByT5Tokenizer())

    def test_a_tokenizer_that_appends_eos(self):
        fast = tiny_models.build_tokenizer("mistral")
        backend = fast.backend_tokenizer
        ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
        with pytest.raises(ContractError, match=r"behind the text.*add_eos_token=False"):
            PromptEncoder(fast)

    def test_answers_that_share_their_first_token(self):
        alphabet = {character: id_ for id_, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        backend = Tokenizer(tokenizer_models.BPE(alphabet, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        with pytest.raises(ContractError, match=f"same token.*{alphabet['Ġ']}"):
            PromptEncoder(PreTrainedTokenizerFast(tokenizer_object=backend))

    @pytest.mark.parametrize("unknown", ["<unk>", None])
    def test_no_way_to_write_the_close(self, unknown):
        """Letters only: "<" is unknown, or silently left out by a tokenizer that has no token for the unknown."""
        letters = ["<unk>", *"abcdefghijklmnopqrstuvwxyz "]
        backend = Tokenizer(
            tokenizer_models.BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token=unknown)
        )
        with pytest.raises(ContractError, match="cannot write '<think>'"):
            PromptEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown))

    def test_a_tokenizer_whose_prompt_cannot_be_reproduced(self):
        fast = tiny_models.build_tokenizer("pieces")
        fast.add_tokens([AddedToken("<think>", lstrip=True, normalized=False), "</think>"])
        with pytest.raises(ContractError, match="cannot be reproduced"):
            PromptEncoder(fast)

    def test_markers_in_pieces_where_a_text_begins_with_a_space(self):
        """A SentencePiece tokenizer puts a space before the first word, which is no part of the close."""
        fast = tiny_models.build_tokenizer("sentencepiece")
        backend = Tokenizer.from_str(fast.backend_tokenizer.to_str().replace("think>", "other>"))
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        close = PromptEncoder(fast).close_ids
        assert len(close) > 1
        assert tuple(fast("It names wings.\n</think>").input_ids[-len(close) :]) == close


@pytest.mark.parametrize(
    "text", ["nul \x00 character", "שלום עולם", "\u202eright to left", "e\u0301a\u0308", "👩\u200d👧"]
)
def test_unusual_text_is_text(fast, encoder, text):
    assert encoder.encode(text, text).ids == fast(prompt_of(text, text)).input_ids
