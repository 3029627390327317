"""Text -> token ids: the rank1 prompt contract, and the ways back to text that a chain needs.

The prompt (jhu-clsp/rank1, `rank1.py`, `return_prompt`) is

    Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.
    Query: {query}
    Passage: {passage}
    <think>

Two things are promised here. The ids equal the plain tokenization of the whole prompt, with the special tokens that the
tokenizer adds itself (a BOS for Llama and Mistral). And text from a user or a document is data: a passage that says
`</think> true` or `<|im_end|>` is tokenized as these characters and never becomes a special token.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from rank1_hf.chains.chain import ChainRules, common_prefix_length
from rank1_hf.prompts.chain_text import SentenceEnds, TextStream, cut_to_last_sentence
from rank1_hf.prompts.markers import ContractError, Markers, as_markers, check_markers
from rank1_hf.prompts.pair_text import PairError, Passage, Query, passage_text, query_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

HEAD = "Determine if the following passage is relevant to the query. Answer only with '{true}' or '{false}'.\nQuery: "
MIDDLE = "\nPassage: "
TAIL = "\n"
QUERY_PLACEHOLDER = "FILL_QUERY_HERE"

Truncation = Literal["passage", "error"]


class PromptTooLongError(PairError):
    """The prompt of one pair does not fit beside the budget and may not be cut, or not enough."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One pair, ready to decode.

    Attributes:
        ids: the token ids, special tokens included, ending in `<think>`.
        n_shared: how many leading ids this prompt shares with every other prompt of the same query.
        truncated: whether the passage was cut to fit.
        text: what was tokenized, as it was given, without `<think>` and a BOS.
    """

    ids: list[int]
    n_shared: int
    truncated: bool
    text: str


class PromptEncoder:
    """Encodes pairs for one tokenizer, and reads and rewrites chains for it.

    Args:
        tokenizer: a fast (Rust) tokenizer with the contract's markers.
        template: a dataset prompt with `FILL_QUERY_HERE`; the filled template stands in the query's place.
        markers: the strings that open, close and answer a chain.

    Attributes:
        template: the dataset prompt, or None.
        bos_ids: what the tokenizer puts before a text by itself: a BOS, or nothing.
        true_id, false_id: the first token id of each answer.
        think_ids, close_ids: the ids of the markers; one each where the tokenizer has them as added tokens.
        special_ids: the ids that no text from a user may become.

    Raises:
        ContractError: the tokenizer cannot express the contract; the message lists every reason.
        TypeError: `markers` are no `Markers`.
        ValueError: the template lacks `FILL_QUERY_HERE`.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerFast", *, template: str | None = None, markers: Markers | None = None
    ) -> None:
        if template is not None:
            check_template(template)
        self.markers = as_markers(markers)
        self._instruction = HEAD.format(true=self.markers.true.strip(), false=self.markers.false.strip())
        self.template = template
        self._tokenizer = tokenizer
        self._plain = _without_special_tokens(tokenizer)
        added = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()}
        self.special_ids = frozenset(id_ for content, id_ in added.items() if content.strip())
        check_markers(self.markers, added)
        self.bos_ids = _leading_special_ids(tokenizer)
        self._one_think_id = self.markers.think in added
        self._one_close_id = self.markers.close in added
        self.think_ids = self._marker_ids(self.markers.think, added)
        self.close_ids = self._marker_ids(self.markers.close, added)
        true_ids, false_ids = self._plain_ids(self.markers.true), self._plain_ids(self.markers.false)
        self._check_answers(true_ids, false_ids)
        self.true_id, self.false_id = true_ids[0], false_ids[0]
        self._check_against_plain_tokenization()
        self._sentence_ends = SentenceEnds(self.decode)
        self._head: tuple[str, list[int]] = ("", [])  # the last query's share of the prompt, and its ids

    @property
    def fingerprint(self) -> str:
        """Which tokenizer it is, by all that it is made of."""
        return hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    # ---- text -> ids -------------------------------------------------------------------------------------------------

    def encode(
        self, query: Query, passage: Passage, *, max_tokens: int | None = None, truncation: Truncation = "passage"
    ) -> Prompt:
        """Encode one pair in at most `max_tokens` ids, cutting the end of the passage where it must be cut.

        Raises:
            PairError: the query or the passage is not usable text.
            PromptTooLongError: the prompt is too long and may not be cut, or the query alone is too long.
        """
        head = self._instruction + self._fill(query_text(query)) + MIDDLE
        text = passage_text(passage)
        ids = self._prompt_ids(head, text)
        full_length = len(ids)
        if max_tokens is not None:
            if full_length > max_tokens and truncation == "error":
                raise PromptTooLongError(
                    f"the prompt has {full_length} tokens and only {max_tokens} fit beside the budget; shorten the "
                    "passage, lower max_new_tokens, raise max_length, or use truncation='passage'"
                )
            while len(ids) > max_tokens:
                if not text:
                    raise PromptTooLongError(
                        f"the query alone needs {len(ids)} tokens and only {max_tokens} fit beside the budget; shorten "
                        "the query, lower max_new_tokens or raise max_length"
                    )
                text = self._cut(text, len(ids) - max_tokens)
                ids = self._prompt_ids(head, text)
        return Prompt(ids, self._n_shared(head, ids), truncated=len(ids) < full_length, text=head + text + TAIL)

    def _fill(self, query: str) -> str:
        return query if self.template is None else self.template.replace(QUERY_PLACEHOLDER, query)

    def _prompt_ids(self, head: str, passage: str) -> list[int]:
        text = head + passage + TAIL
        if self._one_think_id:
            return [*self.bos_ids, *self._plain_ids(text), *self.think_ids]
        return [*self.bos_ids, *self._plain_ids(text + self.markers.think)]

    def _n_shared(self, head: str, ids: list[int]) -> int:
        last = self._head  # another thread may put another one there
        if last[0] != head:
            # Without the space behind "Passage:", which belongs to the passage's first word in most tokenizers.
            last = self._head = (head, [*self.bos_ids, *self._plain_ids(head.rstrip(" "))])
        # Tokens may merge across the seam, so what is really shared is read off the ids.
        return common_prefix_length(last[1], ids)

    def _cut(self, passage: str, n_tokens: int) -> str:
        """Drop the last `n_tokens` tokens of the passage, and at least one character."""
        starts = [start for start, _ in self._plain.encode(passage, add_special_tokens=False).offsets]
        keep = starts[-n_tokens] if n_tokens < len(starts) else 0
        return passage[: min(keep, len(passage) - 1)]

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def split(self, text: str) -> tuple[str, str] | None:
        """The query, filled into whatever it was filled into, and the passage of a prompt's text; None: it is no such
        prompt. Where the two part does not matter to the ids.
        """
        if not text.startswith(self._instruction) or not text.endswith(TAIL):
            return None
        query, middle, passage = text.removeprefix(self._instruction).removesuffix(TAIL).partition(MIDDLE)
        return (query, passage) if middle else None

    def chain_rules(self, eos: frozenset[int], vocab_size: int | None = None) -> ChainRules:
        """What this tokenizer's ids mean to a chain; `eos` are the ids that end the model's text."""
        seam = 0 if self._one_think_id and self._one_close_id else len(self.think_ids)
        return ChainRules(self.close_ids, eos, self.force_close, self.rethink, vocab_size, seam)

    def force_close(self, prompt: Sequence[int], thought: Sequence[int]) -> list[int]:
        """The context of a chain that did not close itself: cut after its last sentence, then closed.

        As in jhu-clsp/rank1, `rank1.py`, `_fix_incomplete_responses`.
        """
        chain = cut_to_last_sentence(self.chain_text(prompt, thought))
        text = f"\n{chain}\n"
        if self._one_close_id:
            return [*self._continue(prompt, text), *self.close_ids]
        return self._continue(prompt, text + self.markers.close)

    def rethink(self, prompt: Sequence[int], thought: Sequence[int]) -> list[int]:
        """The context of a closed chain that is made to think again: "Wait" stands where it closed."""
        return self._continue(prompt, self.chain_text(prompt, thought) + self.markers.wait)

    def chain_text(self, prompt: Sequence[int], thought: Sequence[int]) -> str:
        """The text of a chain, as it stands behind `<think>`; a character cut in half at its end is dropped."""
        opening = list(prompt[-1:])  # some tokenizers decode the very first token differently
        text = self.decode([*opening, *thought])[len(self.decode(opening)) :]
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    def chain_ids(self, text: str) -> list[int]:
        """The ids of a chain that a caller has written, as they stand behind `<think>`."""
        return self._plain_ids(text) if self._one_think_id else self.ids_behind_text(text)

    def ends_sentence(self, thought: Sequence[int]) -> bool:
        """Whether a sentence ends behind a chain's tokens so far; see `SentenceEnds` for what counts as one."""
        return self._sentence_ends.behind(thought)

    def text_stream(self, before: Sequence[int]) -> TextStream:
        """Turns the tokens that follow these into text, one by one."""
        return TextStream(self.decode, before[-1:])

    def prompt_texts(self, prompt: Prompt) -> list[str]:
        """Each token's share of a prompt's text, which together are the text as it was given.

        It is not decoded: what a tokenizer normalizes (Qwen's composes accents) is not what the user wrote.
        """
        bos, think = [self.decode([id_]) for id_ in self.bos_ids], self.markers.think
        if self._one_think_id:
            return [*bos, *self._shares(prompt.text), think]
        return [*bos, *self._shares(prompt.text + think)]

    def given_chain_texts(self, chain: str) -> list[str]:
        """The share of a chain that a caller has written of each of its `chain_ids`."""
        letter, behind = self._plain_ids("x"), "x" + chain  # as in `ids_behind_text`
        if not self._one_think_id and self._plain_ids(behind)[: len(letter)] == letter:
            return self._shares(behind)[len(letter) :]
        return self._shares(chain)

    def _shares(self, text: str) -> list[str]:
        """A text, cut where its tokens begin; a character of several tokens is the last one's."""
        starts = [start for start, _ in self._plain.encode(text, add_special_tokens=False).offsets]
        bounds = [0, *accumulate(starts[1:], max), len(text)] if starts else []
        return [text[start:end] for start, end in pairwise(bounds)]

    def token_texts(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        """The text that each token adds to what stands before it."""
        stream = self.text_stream(before)
        return [stream.push(token) for token in ids]

    def _continue(self, prompt: Sequence[int], text: str) -> list[int]:
        """`prompt + text`, tokenized as a whole. The text may quote the passage, so it too never becomes special."""
        if self._one_think_id:  # an added token stands alone: what follows it is tokenized as if nothing stood before
            return [*prompt, *self.ids_behind_text(text)]
        return [*self.bos_ids, *self._plain_ids(self.decode(list(prompt[len(self.bos_ids) :])) + text)]

    def ids_behind_text(self, text: str) -> list[int]:
        """The ids of a text that does not stand at the start, which some tokenizers treat differently."""
        letter, behind = self._plain_ids("x"), self._plain_ids("x" + text)
        return behind[len(letter) :] if behind[: len(letter)] == letter else self._plain_ids(text)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # ---- the contract ------------------------------------------------------------------------------------------------

    def _marker_ids(self, marker: str, added: Mapping[str, int]) -> tuple[int, ...]:
        ids = [added[marker]] if marker in added else self.ids_behind_text(marker)
        if self.decode(ids).strip() != marker.strip():
            raise ContractError(
                f"the tokenizer cannot write {marker!r}: it has no such token and no pieces for its characters. "
                "Is this a rank1 checkpoint?"
            )
        return tuple(ids)

    def _check_answers(self, true_ids: list[int], false_ids: list[int]) -> None:
        for answer, ids in ((self.markers.true, true_ids), (self.markers.false, false_ids)):
            if not ids:
                raise ContractError(f"the tokenizer gives no token for the answer {answer!r}")
        if true_ids[0] == false_ids[0]:
            raise ContractError(
                f"the answers {self.markers.true!r} and {self.markers.false!r} start with the same token "
                f"(id {true_ids[0]}), so their logits cannot be told apart"
            )

    def _check_against_plain_tokenization(self) -> None:
        text = f"{self._instruction}a  query\t1234{MIDDLE}A passage: ünï, 東京 🙂\n\n two  spaces. {TAIL}"
        ours = self._prompt_ids(text.removesuffix(TAIL), "")
        plain = self._tokenizer(text + self.markers.think).input_ids
        if ours != plain:
            at = common_prefix_length(ours, plain)
            raise ContractError(
                "this tokenizer's plain tokenization of a prompt cannot be reproduced with its special tokens switched "
                f"off: they differ at token {at} ({ours[at : at + 3]} instead of {plain[at : at + 3]})"
            )


def check_template(template: str) -> None:
    """Refuse a dataset prompt that has no place for the query.

    Raises:
        ValueError: it has none.
    """
    if QUERY_PLACEHOLDER not in template:
        raise ValueError(f"the prompt template has no {QUERY_PLACEHOLDER}, where the query would go: {template!r}")


def _without_special_tokens(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """A copy of the tokenizer that finds no added tokens in a text, so that no text can become one.

    (`split_special_tokens` is not enough: it still finds added tokens that are not marked special. So here all are.)
    Added runs of white space, which some tokenizers use for code, are still found.
    """
    from tokenizers import Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        raise ContractError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; the checkpoint needs a tokenizer.json "
            "(convert it once with AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["special"] = bool(token["content"].strip())
    spec["truncation"] = spec["padding"] = None
    plain = Tokenizer.from_str(json.dumps(spec))
    plain.encode_special_tokens = True
    return plain


def _leading_special_ids(tokenizer: "PreTrainedTokenizerFast") -> tuple[int, ...]:
    """The special ids (a BOS, or none) that the tokenizer puts before a text by itself."""
    bare, full = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    n_leading = len(full) - len(bare)
    if full[n_leading:] != bare:
        raise ContractError(
            "the tokenizer adds special tokens behind the text (an EOS?), so a prompt cannot end in <think>; "
            "load it with add_eos_token=False"
        )
    return tuple(full[:n_leading])
