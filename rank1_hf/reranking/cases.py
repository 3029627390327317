"""Completions on their way to be verified: their pairs, chains and prompts, and what teacher forcing reads of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from rank1_hf.chains.chain import common_prefix_length
from rank1_hf.models.devices import resolve_dtype
from rank1_hf.prompts.pair_text import Passage, Query, checked_text, passage_text, query_text
from rank1_hf.prompts.prompt import QUERY_PLACEHOLDER, Prompt, PromptEncoder
from rank1_hf.reranking.given_chains import Close
from rank1_hf.reranking.prompt_check import bare_text, prompt_findings
from rank1_hf.results.completion import Completion
from rank1_hf.results.judgment import Judgment, sigmoid
from rank1_hf.results.verification import SAME_SCORE, Agreement, Finding, Kind, Parting, log_odds_of
from rank1_hf.tracing.given import AnswerLogits, GivenChainReader
from rank1_hf.tracing.observer import Observer
from rank1_hf.viewing.judgments import Judgments

_MOST_TOKENIZATIONS = 20  # of one text; a chain of 120 tokens had up to three places with tokens of the model's own
_HALF = "\N{REPLACEMENT CHARACTER}"  # what is left of a character that was cut
_Chain: TypeAlias = str | tuple[int, ...]
_ROUNDINGS = 4  # how many steps of its dtype a logit is off: what is rounded on the way adds up


class Scorer(Protocol):
    """What a verification needs of `Rank1`."""

    model: PreTrainedModel
    encoder: PromptEncoder

    def encode(self, query: Query, passage: Passage) -> Prompt:
        """See `Rank1.encode`."""

    def score_chains(
        self,
        pairs: Any,  # noqa: ANN401
        chains: Sequence[Any],
        *,
        close: Close,
        batch_size: int | None,
        show_progress_bar: bool | None,
        observers: Sequence[Observer],
    ) -> Judgments:
        """See `Rank1.score_chains`."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How near to each other two logits count as equal.

    Attributes:
        dtype: the coarser one of the two engines.
        fixed: so near, whatever the dtype is; None: by the dtype.
    """

    dtype: torch.dtype
    fixed: float | None = None

    @classmethod
    def of(cls, ours: torch.dtype, theirs: str | torch.dtype | None, fixed: float | None = None) -> "Rounding":
        """That of two engines.

        Raises:
            ValueError: `theirs` is no dtype of a model, or `fixed` is negative.
        """
        if fixed is not None and not fixed >= 0:
            raise ValueError(f"rounding must be a difference of logits, at least 0, not {fixed!r}")
        other = resolve_dtype(theirs) or ours
        return cls(max(ours, other, key=lambda dtype: torch.finfo(dtype).eps), fixed)

    def __call__(self, logit: float) -> float:
        """By a logit's size: a few steps of its dtype, and no less than what float32 scores are compared by."""
        if self.fixed is not None:
            return self.fixed
        return max(SAME_SCORE, _ROUNDINGS * torch.finfo(self.dtype).eps * abs(logit))


@dataclass(slots=True)
class Reading:
    """What teacher forcing gave for a case, with one close."""

    judgment: Judgment
    tie: Parting | None
    parting: Parting | None
    answers: AnswerLogits | None


@dataclass(slots=True)
class Case:
    """A completion on its way, with its score and log-odds, which are NaN where it has none."""

    completion: Completion
    score: float
    log_odds: float
    pair: tuple[str, str] = ("", "")
    chain: _Chain = ""
    is_closed: bool | None = None
    prompt: Prompt | None = None
    findings: list[Finding] = field(default_factory=list)
    readings: dict[Close, Reading] = field(default_factory=dict)

    @property
    def close(self) -> Close:
        """How it is taken to have been closed."""
        return "forced" if self.is_closed is False else "given"

    @property
    def other_close(self) -> Close:
        """The other one."""
        return "given" if self.close == "forced" else "forced"

    def add(self, kind: Kind, detail: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, detail))


# ---- cases -----------------------------------------------------------------------------------------------------------


def case_of(completion: Completion, model: Scorer) -> Case:
    """A completion, ready to be teacher-forced; without a `prompt` where it cannot be, which its findings explain."""
    case = Case(completion, *_their_verdict(completion, model.encoder), is_closed=completion.is_closed)
    try:
        pair = _pair(completion, model.encoder)
        if pair is None:
            case.add("template", "there are no query and passage, and the prompt is none that they could be read from")
            return case
        case.pair = pair
        prompt = model.encode(*pair)
        case.chain = _chain(case, prompt, model)
    except ValueError as error:
        case.add("error", str(error))
        return case
    case.prompt = prompt
    case.findings += prompt_findings(completion, prompt, model.encoder)
    return case


def _pair(completion: Completion, encoder: PromptEncoder) -> tuple[str, str] | None:
    """The query, in its dataset prompt where the model has none of its own, and the passage.

    Raises:
        ValueError: they are no text, or their dataset prompt is not the model's.
    """
    if completion.error is not None:
        raise ValueError(f"the engine gave no verdict: {completion.error}")
    template = completion.template
    if encoder.template is not None and template not in (None, encoder.template):
        raise ValueError("it was made with another dataset prompt than the model has; load the model without one")
    if completion.query is not None and completion.passage is not None:
        query = query_text(completion.query)
        if encoder.template is None and template is not None:
            if QUERY_PLACEHOLDER not in template:
                raise ValueError(f"its dataset prompt has no {QUERY_PLACEHOLDER}")
            query = template.replace(QUERY_PLACEHOLDER, query)
        return query, passage_text(completion.passage)
    text = bare_text(completion, encoder)
    if text is None:
        named = f"query {completion.query_id}, document {completion.document_id}: " if completion.query_id else ""
        missing = " and no ".join(name for name in ("query", "passage") if getattr(completion, name) is None)
        raise ValueError(
            f"{named}there is no {missing}, and no prompt to read it from; give the collection, or a mapping"
        )
    if encoder.template is not None:
        raise ValueError(
            "there is only a prompt, which has its query filled in; load the model without prompt_template"
        )
    return encoder.split(text)


def _chain(case: Case, prompt: Prompt, model: Scorer) -> _Chain:
    """The chain, as ids where these are known; sets how it was closed, where the ids say so.

    Raises:
        ValueError: there is none.
    """
    completion, close = case.completion, model.encoder.close_ids
    ids = completion.token_ids
    if ids is None:
        if completion.chain is None:
            raise ValueError("there is no completion; map a field to it")
        text, marker, _ = completion.chain.partition(model.encoder.markers.close)
        case.is_closed = True if marker else case.is_closed
        return checked_text(text, "the chain")
    at = next((at for at in range(len(ids)) if ids[at : at + len(close)] == close), None)
    if at is not None:
        case.is_closed = True
        ids = ids[:at]
    elif ids and ids[-1] in model.encoder.special_ids:  # an EOS
        ids = ids[:-1]
    if any(id_ >= model.model.config.vocab_size for id_ in ids):
        raise ValueError("its token ids are not of this model")
    text = model.encoder.chain_text(prompt.ids, ids)
    said = None if completion.chain is None else completion.chain.rstrip(_HALF).strip()
    if completion.chain is not None and said != text.strip():
        place = common_prefix_length(completion.chain, text)
        case.add("contradiction", f"the completion is not what its token ids say, from character {place} on")
    return ids


# ---- teacher forcing -------------------------------------------------------------------------------------------------


def read(model: Scorer, cases: Iterable[Case], close: Close, rounding: Rounding, options: Mapping[str, Any]) -> None:
    """Teacher-force cases, equal ones once; those whose text can be other tokens again, as these."""
    encoder, waiting = model.encoder, list(cases)
    for _ in range(_MOST_TOKENIZATIONS):
        if not waiting:
            return
        places: dict[tuple[tuple[str, str], tuple[int, ...]], int] = {}
        at = [places.setdefault((case.pair, tuple(ids_of(case, encoder))), len(places)) for case in waiting]
        reader = GivenChainReader(encoder.true_id, encoder.false_id, rounding)
        pairs, chains = zip(*places, strict=True)
        judgments = model.score_chains(list(pairs), list(chains), close=close, observers=[reader], **options)
        for case, place in zip(waiting, at, strict=True):
            judgment, answers = judgments[place], reader.answers.get(place)
            if answers is None and judgment.error is None:
                raise ValueError("records are verified by one process: start it without accelerate launch")
            ties, partings = reader.ties.get(place), reader.partings.get(place)
            case.readings[close] = Reading(judgment, ties, partings, answers)
        waiting = [case for case in waiting if _tokenize_otherwise(case, case.readings[close].parting, encoder)]


def _tokenize_otherwise(case: Case, parting: Parting | None, encoder: PromptEncoder) -> bool:
    """Where a chain is known as text alone, its tokens may be others than the tokenizer gives that text: models write
    " aer" and "oelastic" too. So where the model's token spells what stands there, it is taken for theirs.
    """
    if parting is None or case.completion.token_ids is not None or case.prompt is None:
        return False
    ids, text = ids_of(case, encoder), str(case.completion.chain)
    before = encoder.chain_text(case.prompt.ids, ids[: parting.at])
    with_it = encoder.chain_text(case.prompt.ids, [*ids[: parting.at], parting.likeliest])
    if len(with_it) == len(before) or parting.at == len(ids) or not text.startswith(with_it):
        return False
    case.chain = (*ids[: parting.at], parting.likeliest, *encoder.ids_behind_text(text[len(with_it) :]))
    return True


def ids_of(case: Case, encoder: PromptEncoder) -> Sequence[int]:
    """The token ids of its chain."""
    return encoder.chain_ids(case.chain) if isinstance(case.chain, str) else case.chain


# ---- verdicts --------------------------------------------------------------------------------------------------------


def _their_verdict(completion: Completion, encoder: PromptEncoder) -> tuple[float, float]:
    """Their score and log-odds, from whatever of them there is; NaN where there is nothing."""
    score, log_odds = completion.score, completion.log_odds
    if score is None:
        log_odds = log_odds_of_answers(completion, encoder) if log_odds is None else log_odds
        return (math.nan, math.nan) if log_odds is None else (sigmoid(log_odds), log_odds)
    return score, log_odds_of(score) if log_odds is None else log_odds


def log_odds_of_answers(completion: Completion, encoder: PromptEncoder) -> float | None:
    """From their log-probabilities of true and false, where both are among those returned."""
    markers, found = encoder.markers, completion.answers
    true = found.get(encoder.true_id, found.get(markers.true))
    false = found.get(encoder.false_id, found.get(markers.false))
    return None if true is None or false is None else true - false


def agreement_of(case: Case, close: Close, rounding: Rounding) -> Agreement:
    """How their score compares with the model's behind this chain, closed in this way."""
    reading = case.readings.get(close)
    if reading is None or reading.answers is None or math.isnan(case.score):
        return "unknown"
    if abs(case.score - reading.judgment.score) <= SAME_SCORE:
        return "equal"
    near = rounding(max(abs(reading.answers.true_logit), abs(reading.answers.false_logit)))
    return "rounding" if abs(log_odds_of(case.score) - reading.judgment.log_odds) <= near else "different"
