"""Checks completions of other engines by teacher forcing: what would this model have said, and is that their score?

    completions -> cases (pair, chain, prompt) -> score_chains + GivenChainReader -> findings -> Verifications

Nothing is decoded: each chain is prefill, behind the prompt that this tokenizer makes of its pair.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.reranking.cases import (
    Case,
    Reading,
    Rounding,
    Scorer,
    agreement_of,
    case_of,
    ids_of,
    log_odds_of_answers,
    read,
)
from rank1_hf.reranking.given_chains import Close
from rank1_hf.results.completion import Completion
from rank1_hf.results.judgment import Judgment, sigmoid
from rank1_hf.results.verification import SAME_SCORE, Agreement, Finding, Parting, Verification
from rank1_hf.viewing.verifications import Verifications

_CLOSES: tuple[Close, ...] = ("given", "forced")
_PLACEHOLDERS = (0.0, 0.5, 1.0)
_NO_PROBABILITY = 1e-15  # less than any answer gets from float32 logits of a model that has two answers in mind


def verify(
    model: Scorer,
    completions: Iterable[Completion],
    rounding: Rounding,
    *,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Verifications:
    """Check completions; see `Rank1.verify`."""
    cases = [case_of(completion, model) for completion in completions]
    checkable = [case for case in cases if case.prompt is not None]
    options = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    for close in _CLOSES:
        read(model, (case for case in checkable if case.close == close), close, rounding, options)
    doubtful = [case for case in checkable if agreement_of(case, case.close, rounding) == "different"]
    for close in _CLOSES:
        read(model, (case for case in doubtful if case.other_close == close), close, rounding, options)
    verifications = [_verification(index, case, model.encoder, rounding) for index, case in enumerate(cases)]
    ours = [_ours(case, found) for case, found in zip(cases, verifications, strict=True)]
    theirs = [_theirs(case, found) for case, found in zip(cases, verifications, strict=True)]
    return Verifications(verifications, ours, theirs, [case.pair for case in cases])


# ---- findings --------------------------------------------------------------------------------------------------------


def _verification(index: int, case: Case, encoder: PromptEncoder, rounding: Rounding) -> Verification:
    completion = case.completion
    known = Verification(
        index,
        completion.where,
        completion.query_id,
        completion.document_id,
        their_score=case.score,
        their_log_odds=case.log_odds,
    )
    if case.is_closed is None and agreement_of(case, case.other_close, rounding) in ("equal", "rounding"):
        case.is_closed = False
    reading = case.readings.get(case.close)
    if reading is None or reading.answers is None:
        if reading is not None:
            case.add("error", reading.judgment.error or "the verdict could not be read")
        return replace(known, findings=_ordered(case))
    judgment, agreement = reading.judgment, agreement_of(case, case.close, rounding)
    if not any(finding.is_fault for finding in case.findings):
        _chain_fault(case, reading, encoder)
    _contradictions(case, encoder)
    if not any(finding.is_fault for finding in case.findings):
        _score_fault(case, reading, agreement, encoder, rounding)
    _remarks(case, reading, agreement)
    parting = reading.parting or reading.tie
    return replace(
        known,
        score=judgment.score,
        log_odds=judgment.log_odds,
        agreement=agreement,
        n_chain_tokens=judgment.n_chain_tokens,
        parting=parting,
        parted_text=None if parting is None else _parted_text(case, parting, encoder),
        true_rank=reading.answers.true_rank,
        false_rank=reading.answers.false_rank,
        findings=_ordered(case),
    )


def _ordered(case: Case) -> tuple[Finding, ...]:
    return tuple(sorted(case.findings, key=lambda finding: not finding.is_fault))


def _chain_fault(case: Case, reading: Reading, encoder: PromptEncoder) -> None:
    parting, n_tokens = reading.parting, reading.judgment.n_chain_tokens
    expected = case.completion.n_chain_tokens
    if parting is not None and parting.at == n_tokens and case.is_closed is None:
        return  # nobody says that it was closed there
    if parting is not None:
        theirs, ours = (encoder.decode([id_]) for id_ in (parting.token, parting.likeliest))
        where = "behind the chain" if parting.at == n_tokens else f"at token {parting.at}"
        detail = f"{where} it has {theirs!r} and the model {ours!r}, by a margin of {parting.margin:.3g}"
        case.add("cut" if parting.at == n_tokens else "chain", detail)
    elif case.is_closed is False and expected is not None and n_tokens + 1 < expected:  # a half character may be lost
        case.add("cut", f"it has {n_tokens} tokens of {expected}")


def _contradictions(case: Case, encoder: PromptEncoder) -> None:
    completion, score = case.completion, case.score
    if completion.log_odds is not None and completion.score is not None:
        implied = sigmoid(completion.log_odds)
        if abs(implied - score) > SAME_SCORE:
            case.add(
                "contradiction",
                f"the score is {score:.6g}, and the log-odds {completion.log_odds:.6g} make it {implied:.6g}",
            )
    if completion.label is not None and not math.isnan(score) and completion.label != (case.log_odds > 0):
        case.add("contradiction", f"the label is {str(completion.label).lower()}, and the score {score:.6g}")
    returned = log_odds_of_answers(completion, encoder)
    if returned is not None and completion.score is not None and abs(sigmoid(returned) - score) > SAME_SCORE:
        case.add(
            "contradiction", f"the score is {score:.6g}, and its log-probabilities make it {sigmoid(returned):.6g}"
        )


def _score_fault(
    case: Case, reading: Reading, agreement: Agreement, encoder: PromptEncoder, rounding: Rounding
) -> None:
    """What a score that the chain does not give might be instead, the most telling first."""
    score, completion = case.score, case.completion
    if math.isnan(score):
        if completion.score is not None:
            case.add("score missing", "its field is empty")
        elif completion.answers:
            case.add(
                "score missing", f"only {len(completion.answers)} log-probabilities are there, and an answer is not"
            )
        return
    if not 0 <= score <= 1:
        case.add("score range", f"it is {score:.6g}")
        return
    if agreement != "different":
        return
    assert reading.answers is not None
    ours = reading.judgment.score
    beside = f"{score:.6g}, and the model's is {ours:.6g}"
    if score in _PLACEHOLDERS or score < _NO_PROBABILITY:
        case.add("placeholder score", beside)
    elif agreement_of(case, case.other_close, rounding) in ("equal", "rounding"):
        case.add(
            "other close",
            f"{beside} for a chain {'closed by force' if case.is_closed is False else 'closed by the model'}",
        )
    elif abs(score - (1 - ours)) <= SAME_SCORE:
        case.add("answers swapped", beside)
    elif abs(score - math.exp(reading.answers.true_logprob)) <= SAME_SCORE:
        case.add("not normalized", beside)
    else:
        case.add("score", beside)


def _remarks(case: Case, reading: Reading, agreement: Agreement) -> None:
    if reading.tie is not None:
        case.add("tie", f"at token {reading.tie.at}, with a margin of {reading.tie.margin:.3g}")
    if agreement == "rounding":
        case.add("rounding", f"{case.score:.6g}, and the model's is {reading.judgment.score:.6g}")
    if case.is_closed is False:
        case.add("closed by force", f"behind {reading.judgment.n_chain_tokens} tokens")
    assert reading.answers is not None
    ranks = {"true": reading.answers.true_rank, "false": reading.answers.false_rank}
    answer, rank = max(ranks.items(), key=lambda item: item[1])
    if rank > 20:
        case.add("outside top 50" if rank > 50 else "outside top 20", f"{answer} is at rank {rank}")


def _parted_text(case: Case, parting: Parting, encoder: PromptEncoder) -> str:
    """The chain up to where greedy decoding would have gone elsewhere, and its token there."""
    assert case.prompt is not None
    return encoder.chain_text(case.prompt.ids, [*ids_of(case, encoder)[: parting.at], parting.likeliest])


# ---- both sides, to be shown -----------------------------------------------------------------------------------------


def _ours(case: Case, found: Verification) -> Judgment:
    """The model's side: their chain as far as it would have written it, and its verdict behind theirs."""
    reading = case.readings.get(case.close)
    if reading is None:
        return Judgment.failed(found.index, "; ".join(finding.detail for finding in found.findings))
    judgment = reading.judgment.at(found.index)
    return judgment if found.parted_text is None else replace(judgment, chain=found.parted_text)


def _theirs(case: Case, found: Verification) -> Judgment:
    """The record's side."""
    completion, reading = case.completion, case.readings.get(case.close)
    if math.isnan(found.their_score):
        return replace(
            Judgment.failed(found.index, completion.error or "there is no score"), chain=completion.chain or ""
        )
    return Judgment(
        index=found.index,
        score=min(max(found.their_score, 0.0), 1.0),
        log_odds=found.their_log_odds
        if math.isfinite(found.their_log_odds)
        else math.copysign(99.0, found.their_score - 0.5),
        label=found.their_score > 0.5,
        chain=completion.chain or ("" if reading is None else reading.judgment.chain),
        n_prompt_tokens=completion.n_prompt_tokens or 0,
        n_chain_tokens=found.n_chain_tokens,
        ended="closed" if case.close == "given" else "stopped",
        truncated=False,
    )
