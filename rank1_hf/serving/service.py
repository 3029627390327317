"""What the routes do: from a request to the judgments of its documents, and to the response."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Sequence

from fastapi import HTTPException, Request, Response

from rank1_hf.results.judgment import Judgment
from rank1_hf.serving.engine import Engine, EngineError
from rank1_hf.serving.errors import CLIENT_CLOSED_REQUEST, problem
from rank1_hf.serving.limits import Limits
from rank1_hf.serving.metrics import Metrics
from rank1_hf.serving.pending import Pending, PendingResponse
from rank1_hf.serving.requests import PairsRequest, RerankRequest, ScoreRequest, TextsRequest
from rank1_hf.serving.responses import (
    RerankResponse,
    ScoreResponse,
    TextRank,
    errors_of,
    rerank_response,
    result_of,
    score_response,
    text_ranks,
)

NDJSON = "application/x-ndjson"

ERRORS_HEADER = "X-Rank1-Errors"
"""Says which texts could not be judged, and why, where the form has no place for it."""

_N_LISTED = 5  # the first ones only: clients and proxies refuse long headers


class Service:
    """Judges the documents of requests."""

    def __init__(self, engine: Engine, metrics: Metrics, limits: Limits, model: str) -> None:
        self._engine = engine
        self._metrics = metrics
        self._limits = limits
        self._model = model

    async def rerank(self, request: Request, body: RerankRequest) -> Response | RerankResponse:
        """A ranking in Jina's, Cohere's and vLLM's form."""
        if not body.stream:
            return self._ranking(await self._all(request, body), body)
        pending = self._submit(body)
        return PendingResponse(self._lines(pending, body), pending, media_type=NDJSON)

    async def rank_texts(self, request: Request, response: Response, body: TextsRequest) -> list[TextRank]:
        """A ranking in TEI's form, which has no place for errors: they are in a header of the response."""
        judgments = await self._all(request, body)
        _check_some_judged(judgments, body)
        if errors := errors_of(judgments):
            response.headers[ERRORS_HEADER] = json.dumps([error.model_dump() for error in errors[:_N_LISTED]])
        return text_ranks(judgments, body)

    async def score(self, request: Request, body: ScoreRequest) -> ScoreResponse:
        """Scores in vLLM's form."""
        judgments = await self._all(request, body)
        _check_some_judged(judgments, body)
        return score_response(judgments, body, id_=f"score-{uuid.uuid4().hex}", model=self._model)

    def _submit(self, body: PairsRequest) -> Pending:
        return Pending(self._engine, self._metrics, self._limits.admit(body))

    async def _all(self, request: Request, body: PairsRequest) -> list[Judgment]:
        """All judgments, for as long as the client waits for them.

        Raises:
            HTTPException: it has left.
        """
        with contextlib.closing(self._submit(body)) as pending:
            judging, leaving = asyncio.ensure_future(pending.all()), asyncio.ensure_future(_leaves(request))
            try:
                await asyncio.wait((judging, leaving), return_when=asyncio.FIRST_COMPLETED)
                if judging.done():
                    return judging.result()
            finally:
                judging.cancel()
                leaving.cancel()
        raise HTTPException(CLIENT_CLOSED_REQUEST, "the client has left")

    async def _lines(self, pending: Pending, body: RerankRequest) -> AsyncIterator[str]:
        judgments: list[Judgment] = []
        try:
            async for judgment in pending:
                judgments.append(judgment)
                if judgment.error is None:
                    yield result_of(judgment, body).model_dump_json(exclude_none=True) + "\n"
            yield self._ranking(judgments, body).model_dump_json(exclude_none=True) + "\n"
        except HTTPException as error:
            yield problem(error.status_code, error.detail).model_dump_json() + "\n"
        except EngineError as error:
            yield problem(503, str(error)).model_dump_json() + "\n"

    def _ranking(self, judgments: list[Judgment], body: RerankRequest) -> RerankResponse:
        _check_some_judged(judgments, body)
        return rerank_response(judgments, body, id_=uuid.uuid4().hex, model=self._model)


async def _leaves(request: Request) -> None:
    """Wait until the client is gone. The request's body has been read, so nothing else comes from it."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_some_judged(judgments: Sequence[Judgment], body: PairsRequest) -> None:
    errors = errors_of(judgments)
    if len(errors) == len(judgments):
        place = f"{body.documents_field}.{errors[0].index}"
        raise HTTPException(422, f"none of the documents could be judged; {place}: {errors[0].message}")
