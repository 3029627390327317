"""rank1 as a ranker of AnswerDotAI's rerankers.

    from rank1_hf import Rank1
    from rank1_hf.integrations.rerankers import Rank1Ranker

    ranker = Rank1Ranker(Rank1("jhu-clsp/rank1-7b"))
    ranker.rank(query, documents).top_k(3)

It is a `BaseRanker`, as the library's own are.
"""

from collections.abc import Iterable
from copy import copy
from typing import Any

from rank1_hf.inputs.values import is_missing
from rank1_hf.integrations.ranking import metadata, ranked
from rank1_hf.reranker import Rank1
from rank1_hf.results.judgment import Judgment

try:
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ImportError as error:
    raise ImportError("this needs rerankers; install it with: pip install 'rank1-hf[rerankers]'") from error


class Rank1Ranker(BaseRanker):
    """Gives `RankedResults`, best first, whose scores are p(true).

    The documents in them are copies. Their metadata has the score too, as `relevance_score`, with `rank1_chain`,
    `rank1_log_odds`, `rank1_label`, ... beside it, and a result has all of it as attributes, as in
    `results[0].rank1_chain`: see `rank1_hf.integrations.ranking.KEYS`. A document that cannot be judged, like an image,
    comes last, with None as its score and the reason as `rank1_error`.

    `rank_async` judges in a thread; calls that come together take turns.

    Args:
        model: any `Rank1`.
        instruction: what else decides about relevance.
    """

    ranking_type = "pointwise"

    def __init__(self, model: Rank1, *, instruction: str | None = None) -> None:
        self.model = model
        self.instruction = instruction

    def rank(
        self,
        query: str,
        docs: str | Document | Iterable[str] | Iterable[Document],
        doc_ids: Iterable[str] | Iterable[int] | None = None,
        metadata: Iterable[dict[str, Any] | None] | None = None,
    ) -> RankedResults:
        """Rank documents for one query.

        Args:
            query: what is searched for.
            docs: the documents. Those with the same id are all ranked.
            doc_ids: what they are called; None: their own ids, or their places.
            metadata: of each; None: their own. A None or NaN among them, which is how pandas writes an empty cell, is
                a document without metadata.

        Raises:
            PairError: the query is not usable text.
            ValueError: there are not as many ids or metadata as documents.
        """
        documents = _documents(docs, doc_ids, metadata)
        passages = [document.text for document in documents]
        judgments = ranked(self.model, query, passages, top_n=None, instruction=self.instruction)
        results = [_result(documents[judgment.index], judgment, rank) for rank, judgment in enumerate(judgments, 1)]
        return RankedResults(results, query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """The score of one document.

        Raises:
            PairError: the query is not usable text.
        """
        (judgment,) = ranked(self.model, query, [doc], top_n=None, instruction=self.instruction)
        return judgment.score


def _documents(
    docs: str | Document | Iterable[str] | Iterable[Document],
    doc_ids: Iterable[str] | Iterable[int] | None,
    metadata: Iterable[dict[str, Any] | None] | None,
) -> list[Document]:
    """The documents, as `rerankers.utils.prep_docs` makes them, but as copies: that one renames the caller's own.

    Raises:
        ValueError: there are not as many ids or metadata as documents.
    """
    given = [docs] if isinstance(docs, str | Document) else list(docs)
    documents = [copy(each) if isinstance(each, Document) else _document(each) for each in given]
    ids = [place if each.doc_id is None else each.doc_id for place, each in enumerate(documents)]
    fields: dict[str, list[Any]] = {"doc_id": ids if doc_ids is None else list(doc_ids)}
    if metadata is not None:
        fields["metadata"] = [{} if is_missing(each) else each for each in metadata]
    for name, values in fields.items():
        if len(values) != len(documents):
            raise ValueError(f"there are {len(documents)} documents, and {len(values)} values for their {name}")
        for document, value in zip(documents, values, strict=True):
            setattr(document, name, value)
    return documents


def _document(text: str) -> Document:
    document = Document("")
    document.text = text  # where this is no text the library would refuse the whole call
    return document


def _result(document: Document, judgment: Judgment, rank: int) -> Result:
    added = metadata(judgment)
    copied = copy(document)
    copied.metadata = document.metadata | added
    return Result(copied, added["relevance_score"], rank)
