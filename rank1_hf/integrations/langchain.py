"""rank1 as a document compressor of LangChain.

    from rank1_hf import Rank1
    from rank1_hf.integrations.langchain import Rank1Rerank

    compressor = Rank1Rerank(model=Rank1("jhu-clsp/rank1-7b"), top_n=3)
    compressor.compress_documents(documents, query)

It is a `BaseDocumentCompressor`, so the `ContextualCompressionRetriever` of langchain-classic takes it as its
`base_compressor`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rank1_hf.integrations.ranking import check_documents, metadata, ranked
from rank1_hf.reranker import Rank1

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field, InstanceOf
except ImportError as error:
    raise ImportError("this needs langchain-core; install it with: pip install 'rank1-hf[langchain]'") from error

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks


class Rank1Rerank(BaseDocumentCompressor):
    """Keeps the most relevant documents, best first.

    The documents that come back are copies. Their metadata has `relevance_score`, which is p(true), and besides it
    `rank1_chain`, `rank1_log_odds`, `rank1_label`, ...: see `rank1_hf.integrations.ranking.KEYS`. A document that
    cannot be judged comes last, with None as its score and the reason as `rank1_error`. Documents with the same id are
    all kept.

    The async methods judge in a thread; calls that come together take turns.

    Attributes:
        model: any `Rank1`; several compressors may share one.
        top_n: how many documents are kept; None: all.
        instruction: what else decides about relevance.
    """

    model: InstanceOf[Rank1] = Field(exclude=True)
    top_n: int | None = Field(default=3, ge=1)
    instruction: str | None = None

    model_config = ConfigDict(extra="forbid")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: "Callbacks | None" = None
    ) -> Sequence[Document]:
        """The `top_n` best of the documents for a query.

        Raises:
            PairError: the query is not usable text.
            TypeError: `documents` are no documents of LangChain.
        """
        check_documents(documents, Document)
        passages = [document.page_content for document in documents]
        best = ranked(self.model, query, passages, top_n=self.top_n, instruction=self.instruction)
        return [_with_metadata(documents[judgment.index], metadata(judgment)) for judgment in best]


def _with_metadata(document: Document, added: dict[str, object]) -> Document:
    copy: Document = document.model_copy(update={"metadata": document.metadata | added})
    return copy
