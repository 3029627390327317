"""What goes over the wire: the bodies of requests and responses, and how judgments become one.

The form is Jina's and Cohere's, as vLLM speaks it: https://docs.cohere.com/reference/rerank and
https://jina.ai/reranker; `TextsRequest` is that of Text Embeddings Inference (TEI). Fields that only some of them know
are ignored.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from rank1_hf.prompt import Passage, Query
from rank1_hf.results import Judgment, ranking_key


class Document(BaseModel):
    """A document with a title, or in the form {"text": ...}."""

    model_config = ConfigDict(strict=True)

    text: str
    title: str | None = None

    @property
    def passage(self) -> dict[str, str]:
        """The passage as `Rank1` takes it."""
        return {"title": self.title or "", "text": self.text}


class RerankRequest(BaseModel):
    """Documents to rank by their relevance to a query."""

    model_config = ConfigDict(strict=True)

    query: str = Field(description="What is searched for.")
    documents: list[str | Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=0, description="Give only the best so many. 0 or none: all.")
    return_documents: bool = Field(default=False, description="Give each result its document.")
    return_chains: bool = Field(
        default=False, description="Give each result what was thought, and how sure the verdict is."
    )
    stream: bool = Field(
        default=False, description="Give each judgment as it finishes, a line of JSON each, then the ranking."
    )
    instruction: str | None = Field(default=None, description="What else decides about relevance.")
    model: str | None = Field(
        default=None, description="Not looked at: a server has one model, and its responses name it."
    )

    def pairs(self) -> list[tuple[Query, Passage]]:
        """What is to be judged."""
        query: Query = {"text": self.query, "instruction": self.instruction} if self.instruction else self.query
        return [(query, each if isinstance(each, str) else each.passage) for each in self.documents]


class TextsRequest(BaseModel):
    """The same as TEI asks it. `truncate` and `truncation_direction` are not looked at: a text is cut at its end."""

    model_config = ConfigDict(strict=True)

    query: str = Field(description="What is searched for.")
    texts: list[str] = Field(min_length=1)
    raw_scores: bool = Field(default=False, description="Give log-odds instead of probabilities.")
    return_text: bool = Field(default=False, description="Give each rank its text.")

    def as_rerank(self) -> RerankRequest:
        """The same in the other form."""
        return RerankRequest(query=self.query, documents=list(self.texts))


def _form(body: Any) -> Literal["cohere", "tei"]:  # noqa: ANN401
    return "tei" if isinstance(body, dict) and "texts" in body else "cohere"


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("cohere")] | Annotated[TextsRequest, Tag("tei")], Discriminator(_form)
]


class Result(BaseModel):
    """A document's place in the ranking, which is the result's place in its list.

    `relevance_score` is p(true) / (p(true) + p(false)). The fields of the chain are those of `rank1_hf.Judgment`.
    """

    index: int = Field(description="The document's place in the request.")
    relevance_score: float = Field(ge=0, le=1)
    document: Document | None = None
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


class Meta(BaseModel):
    """What Cohere's clients read."""

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


class Problem(BaseModel):
    """What was wrong."""

    code: int = Field(description="The HTTP status.")
    type: str = Field(description="The status in words.")
    message: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: Problem


def result_of(judgment: Judgment, request: RerankRequest) -> Result:
    """What a request wants to know of a judgment, which has a score."""
    result = Result(index=judgment.index, relevance_score=judgment.score)
    if request.return_documents:
        document = request.documents[judgment.index]
        result.document = Document(text=document) if isinstance(document, str) else document
    if request.return_chains:
        result.log_odds, result.label, result.chain = judgment.log_odds, judgment.label, judgment.chain
        result.n_chain_tokens, result.ended = judgment.n_chain_tokens, judgment.ended
        result.truncated = judgment.truncated
    return result


def response_of(judgments: Iterable[Judgment], request: RerankRequest, *, id_: str, model: str) -> RerankResponse:
    """The response to a request, once all its documents have their judgments."""
    ordered = sorted(judgments, key=ranking_key)
    judged = [judgment for judgment in ordered if judgment.error is None]
    failed = [DocumentError(index=each.index, message=each.error) for each in ordered if each.error is not None]
    n_prompt = sum(judgment.n_prompt_tokens for judgment in ordered)
    n_chain = sum(judgment.n_chain_tokens for judgment in ordered)
    return RerankResponse(
        id=id_,
        model=model,
        results=[result_of(judgment, request) for judgment in judged[: request.top_n or None]],
        errors=failed or None,
        usage=Usage(prompt_tokens=n_prompt, completion_tokens=n_chain, total_tokens=n_prompt + n_chain),
        meta=Meta(tokens=Tokens(input_tokens=n_prompt, output_tokens=n_chain), warnings=_warnings(judged) or None),
    )


def text_ranks(judgments: Iterable[Judgment], request: TextsRequest) -> list[TextRank]:
    """The same for TEI's form, which has no place for texts that could not be judged."""
    return [
        TextRank(
            index=judgment.index,
            score=judgment.log_odds if request.raw_scores else judgment.score,
            text=request.texts[judgment.index] if request.return_text else None,
        )
        for judgment in sorted(judgments, key=ranking_key)
        if judgment.error is None
    ]


def _warnings(judged: Sequence[Judgment]) -> list[str]:
    cut = sorted(judgment.index for judgment in judged if judgment.truncated)
    return [f"cut at their end to fit: documents {', '.join(map(str, cut))}"] if cut else []
