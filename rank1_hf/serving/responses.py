"""What clients get: the bodies of responses, and how judgments become one.

A response has what the clients of Jina, Cohere, vLLM and TEI read, and beside it what they do not know: `errors`, and
the fields of the chain.
"""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.serving.requests import RerankRequest, ScoreRequest, TextsRequest

_MAX_LEVELS = 20


class Result(BaseModel):
    """A document's place in the ranking, which is the result's place in its list.

    `relevance_score` is p(true) / (p(true) + p(false)). The fields of the chain are those of `rank1_hf.Judgment`.
    """

    index: int = Field(description="The document's place in the request.")
    relevance_score: float = Field(ge=0, le=1)
    document: dict[str, Any] | None = Field(
        default=None, description="What was sent: an object as it was, a text as `text`."
    )
    log_odds: float | None = None
    label: bool | None = None
    chain: str | None = None
    n_chain_tokens: int | None = None
    ended: str | None = None
    truncated: bool | None = None


class DocumentError(BaseModel):
    """Why a document has no place in the ranking."""

    index: int
    message: str


class Usage(BaseModel):
    """Tokens, as OpenAI counts them: `completion_tokens` are those of the chains."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Tokens(BaseModel):
    """Tokens, as Cohere counts them."""

    input_tokens: int
    output_tokens: int


class BilledUnits(BaseModel):
    """What Cohere would bill. Nothing, but clients read it."""

    search_units: int = 0


class Meta(BaseModel):
    """What Cohere's clients read."""

    billed_units: BilledUnits = BilledUnits()
    tokens: Tokens
    warnings: list[str] | None = None


class RerankResponse(BaseModel):
    """The ranking, best first. Documents that could not be judged are in `errors`."""

    id: str
    model: str
    results: list[Result]
    errors: list[DocumentError] | None = None
    usage: Usage
    meta: Meta


class TextRank(BaseModel):
    """A text's place in TEI's ranking."""

    index: int
    score: float
    text: str | None = None


class Score(BaseModel):
    """A pair's score, in vLLM's form; null where there is an error."""

    index: int
    object: Literal["score"] = "score"
    score: float | None


class ScoreResponse(BaseModel):
    """The scores in the order of the pairs. Pairs that could not be judged are in `errors` too."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    errors: list[DocumentError]
    usage: Usage


def result_of(judgment: Judgment, request: RerankRequest) -> Result:
    """What a request wants to know of a judgment, which has a score."""
    result = Result(index=judgment.index, relevance_score=judgment.score)
    if request.return_documents is not False:
        document = request.documents[judgment.index]
        result.document = _as_json(document if isinstance(document, dict) else {"text": document})
    if request.return_chains:
        result.log_odds, result.label, result.chain = judgment.log_odds, judgment.label, judgment.chain
        result.n_chain_tokens, result.ended = judgment.n_chain_tokens, judgment.ended
        result.truncated = judgment.truncated
    return result


def rerank_response(judgments: Iterable[Judgment], request: RerankRequest, *, id_: str, model: str) -> RerankResponse:
    """The response to a request, once all its documents have their judgments."""
    ordered = sorted(judgments, key=ranking_key)
    judged = [judgment for judgment in ordered if judgment.error is None]
    usage = _usage(ordered)
    return RerankResponse(
        id=id_,
        model=model,
        results=[result_of(judgment, request) for judgment in judged[: request.n_results]],
        errors=errors_of(ordered) or None,
        usage=usage,
        meta=Meta(
            tokens=Tokens(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens),
            warnings=_warnings(judged) or None,
        ),
    )


def text_ranks(judgments: Iterable[Judgment], request: TextsRequest) -> list[TextRank]:
    """The same for TEI's form, which has no place for texts that could not be judged."""
    return [
        TextRank(
            index=judgment.index,
            score=judgment.log_odds if request.raw_scores else judgment.score,
            text=request.document_text(request.texts[judgment.index]) if request.return_text else None,
        )
        for judgment in sorted(judgments, key=ranking_key)
        if judgment.error is None
    ]


def score_response(judgments: Iterable[Judgment], request: ScoreRequest, *, id_: str, model: str) -> ScoreResponse:
    """The response to a score request. Clients read `data` by place, so a pair without a score has a place too."""
    ordered = sorted(judgments, key=lambda judgment: judgment.index)
    scores = [judgment.log_odds if request.use_activation is False else judgment.score for judgment in ordered]
    return ScoreResponse(
        id=id_,
        created=int(time.time()),
        model=model,
        data=[Score(index=index, score=None if math.isnan(score) else score) for index, score in enumerate(scores)],
        errors=errors_of(ordered),
        usage=_usage(ordered),
    )


def errors_of(judgments: Iterable[Judgment]) -> list[DocumentError]:
    """The documents without a score, in their order."""
    failed = sorted((each.index, each.error) for each in judgments if each.error is not None)
    return [DocumentError(index=index, message=message) for index, message in failed]


def _usage(judgments: Sequence[Judgment]) -> Usage:
    n_prompt = sum(judgment.n_prompt_tokens for judgment in judgments)
    n_chain = sum(judgment.n_chain_tokens for judgment in judgments)
    return Usage(prompt_tokens=n_prompt, completion_tokens=n_chain, total_tokens=n_prompt + n_chain)


def _warnings(judged: Sequence[Judgment]) -> list[str]:
    cut = sorted(judgment.index for judgment in judged if judgment.truncated)
    return [f"cut at their end to fit: documents {', '.join(map(str, cut))}"] if cut else []


def _as_json(value: Any, levels: int = _MAX_LEVELS) -> Any:  # noqa: ANN401
    """A value as it was sent, with null for what JSON cannot say: an infinite number, or what is nested without end."""
    match value:
        case str():
            return value.encode(errors="replace").decode()  # a lone surrogate becomes a question mark
        case dict() if levels:
            return {_as_json(name): _as_json(each, levels - 1) for name, each in value.items()}
        case list() if levels:
            return [_as_json(each, levels - 1) for each in value]
        case bool() | int() | None:
            return value
        case float() if math.isfinite(value):
            return value
    return None
