"""What clients send: the bodies of rerank and score requests, in the forms of the services that they were made for.

`RerankRequest` is what Jina (https://jina.ai/reranker), Cohere v1 and v2 (https://docs.cohere.com/reference/rerank) and
vLLM have in common; `TextsRequest` is that of Text Embeddings Inference (TEI); the score requests are vLLM's
(`vllm/entrypoints/pooling/scoring/protocol.py`). Fields that are not named here are not looked at, null means "not
said", and a document may be anything: one that cannot be judged costs itself and not the request.
"""

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from rank1_hf.prompts.pair_text import PairError, passage_text, query_text
from rank1_hf.viewing.printable import start

TAG = "form "
"""How the tags of alternative forms begin, which are no part of a field's place."""


NO_TEXTS = "texts_type"
"""The type of error of a field that is neither a text nor a list."""


def _whole(number: object) -> object:
    return int(number) if isinstance(number, float) and number.is_integer() else number


_SHOWN_CHARACTERS = 200  # of a document's field names: messages stand in a header too


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
"""A number from 0 on; 3.0 is one, as JSON Schema has it."""


class PairsRequest(BaseModel):
    """What all requests have in common: documents, and a query for all of them or one for each.

    Attributes:
        queries_field, documents_field: what the client calls them.
        other_fields: the end of a sentence on a document without a `text`: how to have its other fields judged.
    """

    model_config = ConfigDict(strict=True)

    queries_field: ClassVar[str] = "query"
    documents_field: ClassVar[str] = "documents"
    other_fields: ClassVar[str] = ""

    instruction: str | None = Field(default=None, description="What else decides about relevance.")

    @model_validator(mode="before")
    @classmethod
    def _null_means_missing(cls, body: object) -> object:
        """The fields that have a value."""
        if not isinstance(body, dict):
            return body
        return {name: value if _is_given(value) else None for name, value in body.items()}

    @property
    def placed_queries(self) -> dict[str, object]:
        """The queries as they were sent, by the names that the client has for them: `query`, or `text_1.0`."""
        return self._placed(self.queries_field)

    @property
    def placed_documents(self) -> dict[str, object]:
        """The documents as they were sent, likewise."""
        return self._placed(self.documents_field)

    def _placed(self, field: str) -> dict[str, object]:
        value = getattr(self, field)
        if not isinstance(value, list):
            return {field: value}
        return {f"{field}.{index}": each for index, each in enumerate(value)}

    def query_text(self, query: object) -> str:
        """A query as it stands in the prompt.

        Raises:
            PairError: it cannot be judged.
        """
        text = _text(query, "the query")
        return query_text({"text": text, "instruction": self.instruction} if self.instruction else text)

    def document_text(self, document: object) -> str:
        """A document as it stands in the prompt: a text, or the `title` and the `text` of an object.

        Raises:
            PairError: it cannot be judged.
        """
        if not isinstance(document, dict):
            return passage_text(_text(document, "the document"))
        if "text" not in document:
            raise PairError(f"the document has no 'text'; {_it_has(document)}{self.other_fields if document else ''}")
        text = _text(document["text"], "the document's 'text'")
        title = document.get("title")
        return passage_text({"title": _text(title, "the document's 'title'") if _is_given(title) else "", "text": text})


class RerankRequest(PairsRequest):
    """Documents to rank by their relevance to a query."""

    other_fields: ClassVar[str] = "; name those to judge in rank_fields"

    query: str = Field(description="What is searched for.")
    documents: list[Any] = Field(
        min_length=1, description='Texts, or objects such as {"title": ..., "text": ...}; see `rank_fields`.'
    )
    top_n: Count | None = Field(default=None, description="Give only the best so many. 0 or null: all.")
    top_k: Count | None = Field(default=None, description="The same, for those who call it so.")
    rank_fields: list[str] | None = Field(
        default=None,
        description="The fields of a document that is an object which are judged, one behind the other; those that it "
        "lacks are passed over. Without it `title` and `text`.",
    )
    return_documents: bool | None = Field(
        default=None, description="Give each result its document. Only false keeps them out."
    )
    return_chains: bool | None = Field(
        default=None, description="Give each result what was thought, and how sure the verdict is."
    )
    stream: bool | None = Field(
        default=None, description="Give each judgment as it finishes, a line of JSON each, then the ranking."
    )

    @property
    def n_results(self) -> int | None:
        """How many results are wanted; None: all."""
        return (self.top_k if self.top_n is None else self.top_n) or None

    def document_text(self, document: object) -> str:
        """As of all forms, but that `rank_fields` may name other fields, as Cohere v1 has it."""
        if not (self.rank_fields and isinstance(document, dict)):
            return super().document_text(document)
        values = [document[name] for name in self.rank_fields if _is_given(document.get(name))]
        if not values:
            raise PairError(f"the document has none of the fields that rank_fields names; {_it_has(document)}")
        return passage_text(" ".join(_text(value, "a field that rank_fields names") for value in values))


class TextsRequest(PairsRequest):
    """The same as TEI asks it. `truncate` and `truncation_direction` are not looked at: a text is cut at its end."""

    documents_field: ClassVar[str] = "texts"

    query: str = Field(description="What is searched for.")
    texts: list[Any] = Field(min_length=1, description="Texts.")
    raw_scores: bool | None = Field(default=None, description="Give log-odds instead of probabilities.")
    return_text: bool | None = Field(default=None, description="Give each rank its text.")


def _check_texts(texts: object) -> object:
    if not isinstance(texts, str | list):
        raise PydanticCustomError(NO_TEXTS, "neither a text nor a list")
    if texts == []:
        raise PydanticKnownError("too_short", {"field_type": "List", "min_length": 1, "actual_length": 0})
    return texts


Texts = Annotated[
    Any,
    AfterValidator(_check_texts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {}, "minItems": 1}]}),
]
"""A text, or a list of them."""


class ScoreRequest(PairsRequest):
    """Pairs to score, as vLLM asks it: one query and documents, or as many queries as documents."""

    use_activation: bool | None = Field(default=None, description="False: give log-odds instead of probabilities.")


class TextScoreRequest(ScoreRequest):
    """`text_1` are queries and `text_2` documents."""

    queries_field: ClassVar[str] = "text_1"
    documents_field: ClassVar[str] = "text_2"

    text_1: Texts
    text_2: Texts


class DataScoreRequest(ScoreRequest):
    """The same with the names `data_1` and `data_2`."""

    queries_field: ClassVar[str] = "data_1"
    documents_field: ClassVar[str] = "data_2"

    data_1: Texts
    data_2: Texts


class QueriesScoreRequest(ScoreRequest):
    """The same with the names `queries` and `documents`."""

    queries_field: ClassVar[str] = "queries"

    queries: Texts
    documents: Texts


class ItemsScoreRequest(ScoreRequest):
    """The same with the names `queries` and `items`."""

    queries_field: ClassVar[str] = "queries"
    documents_field: ClassVar[str] = "items"

    queries: Texts
    items: Texts


# ---- which form a body has -------------------------------------------------------------------------------------------


def _rerank_form(body: object) -> str:
    names = body if isinstance(body, dict) else {}
    is_texts = _is_given(names.get("texts")) or ("texts" in names and "documents" not in names)
    return TAG + ("texts" if is_texts else "documents")


def _score_form(body: object) -> str:
    names = body if isinstance(body, dict) else ()
    if "data_1" in names or "data_2" in names:
        return TAG + "data"
    if "items" in names:
        return TAG + "items"
    return TAG + ("queries" if "queries" in names or "documents" in names else "text")


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag(TAG + "documents")] | Annotated[TextsRequest, Tag(TAG + "texts")],
    Discriminator(_rerank_form),
]

AnyScoreRequest = Annotated[
    Annotated[TextScoreRequest, Tag(TAG + "text")]
    | Annotated[DataScoreRequest, Tag(TAG + "data")]
    | Annotated[ItemsScoreRequest, Tag(TAG + "items")]
    | Annotated[QueriesScoreRequest, Tag(TAG + "queries")],
    Discriminator(_score_form),
]


# ---- in the client's words -------------------------------------------------------------------------------------------

_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}


def _kind(value: object) -> str:
    """What JSON calls a value that is no text."""
    return _KINDS.get(type(value), "an object")


def _is_given(value: object) -> bool:
    """Whether an optional field has a value: null is none, nor is the NaN that pandas writes for an empty cell."""
    return value is not None and value == value


def _it_has(document: dict[str, Any]) -> str:
    return f"it has {start(', '.join(document), _SHOWN_CHARACTERS) or 'nothing'}"


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise PairError(f"{name} must be text, not {_kind(value)}")
    return value
