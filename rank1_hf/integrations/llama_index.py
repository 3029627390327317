"""rank1 as a node postprocessor of LlamaIndex.

    from rank1_hf import Rank1
    from rank1_hf.integrations.llama_index import Rank1Rerank

    reranker = Rank1Rerank(model=Rank1("jhu-clsp/rank1-7b"), top_n=3)
    index.as_query_engine(similarity_top_k=20, node_postprocessors=[reranker])

It is a `BaseNodePostprocessor`, which every retriever and query engine takes.
"""

from typing import Any

from rank1_hf.inputs.values import is_missing
from rank1_hf.integrations.ranking import KEYS, check_documents, metadata, ranked
from rank1_hf.reranker import Rank1
from rank1_hf.results.judgment import Judgment

try:
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
    from pydantic import InstanceOf
except ImportError as error:
    raise ImportError("this needs llama-index-core; install it with: pip install 'rank1-hf[llama-index]'") from error


class Rank1Rerank(BaseNodePostprocessor):
    """Keeps the most relevant nodes, best first.

    The nodes that come back are copies. Their score is p(true), and their metadata has it too, as `relevance_score`,
    with `rank1_chain`, `rank1_log_odds`, `rank1_label`, ... beside it: see `rank1_hf.integrations.ranking.KEYS`. None
    of it is shown to the LLM that answers, nor embedded. A node that cannot be judged comes last, with None as its
    score and the reason as `rank1_error`.

    What is judged is the node's text as it would be embedded, with the metadata that belongs to that; metadata that are
    None or NaN, which is how pandas writes an empty cell, are left out. Nodes with the same id are all kept. The async
    methods judge in a thread; calls that come together take turns.

    Attributes:
        model: any `Rank1`; several postprocessors may share one.
        top_n: how many nodes are kept.
        instruction: what else decides about relevance.
    """

    model: InstanceOf[Rank1] = Field(exclude=True)
    top_n: int = Field(default=2, ge=1)
    instruction: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex calls it."""
        return "Rank1Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("a reranker needs the query: give postprocess_nodes a query_bundle or a query_str")
        if not nodes:
            return []
        check_documents(nodes, NodeWithScore)
        query = query_bundle.query_str
        payload = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model.model.name_or_path,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            passages = [_passage(node.node) for node in nodes]
            judgments = ranked(self.model, query, passages, top_n=self.top_n, instruction=self.instruction)
            best = [_with_metadata(nodes[judgment.index], judgment) for judgment in judgments]
            event.on_end(payload={EventPayload.NODES: best})
        return best


def _passage(node: BaseNode) -> str:
    known = {name: value for name, value in node.metadata.items() if not is_missing(value)}
    text: str = node.model_copy(update={"metadata": known}).get_content(metadata_mode=MetadataMode.EMBED)
    return text


def _with_metadata(given: NodeWithScore, judgment: Judgment) -> NodeWithScore:
    node, added = given.node, metadata(judgment)
    update: dict[str, Any] = {"metadata": node.metadata | added}
    for reader in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        update[reader] = list(dict.fromkeys([*getattr(node, reader), *KEYS]))
    return NodeWithScore(node=node.model_copy(update=update), score=added["relevance_score"])
