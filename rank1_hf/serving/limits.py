"""What a client may send, and the errors for what is too much or cannot be judged."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from fastapi import HTTPException

from rank1_hf.inputs.values import whole_number
from rank1_hf.prompts.pair_text import PairError
from rank1_hf.serving.requests import PairsRequest


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pair is not given to the model.

    Attributes:
        place: what is wrong in the request, as the client calls it: `texts.1`.
        reason: what is wrong with it.
        status: the HTTP status of a request of which nothing can be judged for such reasons.
    """

    place: str
    reason: str
    status: int = 422


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a request may have.

    Attributes:
        documents: how many.
        characters: of a document, or of the query and its instruction.
        body: bytes of the whole request.

    Raises:
        ValueError: one is no whole number above 0.
    """

    documents: int = 1000
    characters: int = 100_000
    body: int = 16 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            whole_number(field.name, getattr(self, field.name), least=1)

    def admit(self, request: PairsRequest) -> list[tuple[str, str] | Refusal]:
        """The pairs of a request as texts, and for each that cannot be judged the reason.

        Raises:
            HTTPException: none of them can be judged (422, or 413 where all are too long), there are too many (413), or
                the numbers of queries and documents do not fit together (422).
        """
        queries, documents = request.placed_queries, request.placed_documents
        if len(documents) > self.documents:
            raise HTTPException(413, f"{len(documents)} documents are too many: a request may have {self.documents}")
        if len(queries) not in (1, len(documents)):
            raise HTTPException(
                422,
                f"{request.queries_field} has {len(queries)} texts and {request.documents_field} {len(documents)}: "
                "give one query for all documents, or one for each",
            )
        query_texts = [self._text(place, query, request.query_text) for place, query in queries.items()]
        texts = [self._text(place, document, request.document_text) for place, document in documents.items()]
        if len(queries) == 1:
            query_texts *= len(documents)
        pairs = [_pair(query, text) for query, text in zip(query_texts, texts, strict=True)]
        refusals = [pair for pair in pairs if isinstance(pair, Refusal)]
        if len(refusals) == len(pairs):
            raise _refused(refusals)
        return pairs

    def _text(self, place: str, value: object, text_of: Callable[[object], str]) -> str | Refusal:
        try:
            text = text_of(value)
        except PairError as error:
            return Refusal(place, str(error))
        if len(text) > self.characters:
            return Refusal(place, f"{len(text)} characters are too many: it may have {self.characters}", 413)
        return text


def _pair(query: str | Refusal, document: str | Refusal) -> tuple[str, str] | Refusal:
    if isinstance(query, Refusal):
        return query
    return document if isinstance(document, Refusal) else (query, document)


def _refused(refusals: list[Refusal]) -> HTTPException:
    """The error of a request of which nothing can be judged."""
    reasons = list(dict.fromkeys(f"{refusal.place}: {refusal.reason}" for refusal in refusals))
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return HTTPException(max(refusal.status for refusal in refusals), "; ".join(reasons[:5]) + more)
