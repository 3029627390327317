"""rank1 as LlamaIndex's node postprocessor, under LlamaIndex itself."""

import asyncio
import json
import math
from functools import partial

import pandas as pd
import pytest

from rank1_hf.integrations.ranking import KEYS
from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import ValidationError

from rank1_hf.integrations.llama_index import Rank1Rerank


def nodes(*passages: str) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.5) for i, text in enumerate(passages)]


def places(found: list[NodeWithScore]) -> list[int]:
    return [int(node.node_id) for node in found]


def test_nodes_come_back_ranked_and_told(reranker: Rank1) -> None:
    given = nodes(*PASSAGES)
    found = Rank1Rerank(model=reranker, top_n=4).postprocess_nodes(given, query_str=QUERY)
    hits = reranker.rank(QUERY, PASSAGES)
    assert places(found) == [hit["corpus_id"] for hit in hits]
    for node, hit in zip(found, hits, strict=True):
        assert node.text == PASSAGES[hit["corpus_id"]]
        assert node.score == node.metadata["relevance_score"] == pytest.approx(hit["score"])
        assert node.metadata["rank1_log_odds"] == pytest.approx(hit["log_odds"])
        assert node.metadata["rank1_chain"] == hit["chain"]
        json.dumps(node.metadata, allow_nan=False)
    assert given == nodes(*PASSAGES), "nodes that a store holds on to are not changed"


def test_what_is_judged_is_the_text_as_it_is_embedded(reranker: Rank1) -> None:
    node = TextNode(text=PASSAGES[2], metadata={"title": "Wings", "file": "a.txt"})
    node.excluded_embed_metadata_keys = ["file"]
    (found,) = Rank1Rerank(model=reranker).postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    (judgment,) = reranker.judge([(QUERY, f"title: Wings\n\n{PASSAGES[2]}")])
    assert found.score == judgment.score


def test_chains_are_shown_to_no_llm_and_are_not_embedded_the_second_time(reranker: Rank1) -> None:
    postprocessor = Rank1Rerank(model=reranker)
    once = postprocessor.postprocess_nodes(nodes(*PASSAGES), query_str=QUERY)
    twice = postprocessor.postprocess_nodes(once, query_str=QUERY)
    for found in (once, twice):
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert [node.get_content(mode) for node in found] == [PASSAGES[place] for place in places(found)]
    for first, second in zip(once, twice, strict=True):
        assert second.metadata["rank1_chain"] == first.metadata["rank1_chain"]
        assert second.node.excluded_llm_metadata_keys == first.node.excluded_llm_metadata_keys


def test_top_n_and_what_is_missing(reranker: Rank1) -> None:
    assert len(Rank1Rerank(model=reranker).postprocess_nodes(nodes(*PASSAGES), query_str=QUERY)) == 2
    assert Rank1Rerank(model=reranker).postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValidationError, match="top_n"):
        Rank1Rerank(model=reranker, top_n=0)
    with pytest.raises(ValueError, match="needs the query"):
        Rank1Rerank(model=reranker).postprocess_nodes(nodes(*PASSAGES))


def test_a_node_that_cannot_be_judged_comes_last(reranker: Rank1) -> None:
    with pytest.warns(UserWarning, match=r"1 of \d+ pairs have no score"):
        found = Rank1Rerank(model=reranker, top_n=5).postprocess_nodes(nodes(TOO_LONG, *PASSAGES), query_str=QUERY)
    assert places(found)[-1] == 0
    assert found[-1].score is None
    assert "no memory" in found[-1].metadata["rank1_error"]
    assert all(node.score is not None for node in found[:-1])


def test_async_calls_that_come_together_give_what_they_give_alone(reranker: Rank1) -> None:
    postprocessor = Rank1Rerank(model=reranker, top_n=4)
    queries = [QUERY, OTHER_QUERY]
    alone = {query: postprocessor.postprocess_nodes(nodes(*PASSAGES), query_str=query) for query in queries}

    async def together() -> list[list[NodeWithScore]]:
        calls = (postprocessor.apostprocess_nodes(nodes(*PASSAGES), query_str=query) for query in queries)
        return await asyncio.gather(*calls)

    for query, found in zip(queries, asyncio.run(together()), strict=True):
        assert places(found) == places(alone[query])
        assert [n.metadata["rank1_chain"] for n in found] == [n.metadata["rank1_chain"] for n in alone[query]]


def test_in_a_query_engine(reranker: Rank1) -> None:
    postprocessor = Rank1Rerank(model=reranker, top_n=1)
    index = VectorStoreIndex([node.node for node in nodes(*PASSAGES)], embed_model=MockEmbedding(embed_dim=2))
    engine = index.as_query_engine(similarity_top_k=4, node_postprocessors=[postprocessor], llm=MockLLM())
    answer = engine.query(QUERY)  # the mock repeats what it is asked
    assert places(answer.source_nodes) == [1]
    assert PASSAGES[1] in str(answer)
    assert answer.source_nodes[0].metadata["rank1_chain"].strip() not in str(answer)
    assert set(KEYS) <= set(answer.source_nodes[0].metadata)


def test_it_is_seen_by_callbacks(reranker: Rank1) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    postprocessor = Rank1Rerank(model=reranker, callback_manager=CallbackManager([debug]))
    found = postprocessor.postprocess_nodes(nodes(*PASSAGES), query_str=QUERY)
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (start.payload["query_str"], start.payload["top_k"], len(start.payload["nodes"])) == (QUERY, 2, 4)
    assert end.payload["nodes"] == found


def test_it_says_what_it_is(reranker: Rank1) -> None:
    told = Rank1Rerank(model=reranker, top_n=3, instruction="Only wings.").to_dict()
    assert told == {"class_name": "Rank1Rerank", "top_n": 3, "instruction": "Only wings."}


def fresh(given: list[NodeWithScore]) -> list[NodeWithScore]:
    """Copies, since the framework's own reranker writes its scores into what it is given."""
    return [node.model_copy() for node in given]


@pytest.mark.parametrize(
    "given",
    [
        nodes(*PASSAGES),
        [],
        nodes(*PASSAGES) + nodes(*PASSAGES),  # ids and texts twice
        [NodeWithScore(node=TextNode(text=text, id_="same")) for text in PASSAGES],
        [NodeWithScore(node=TextNode(text=PASSAGES[1], metadata={"title": text})) for text in PASSAGES],
    ],
    ids=["plain", "empty", "twice", "one id", "metadata"],
)
@pytest.mark.parametrize("top_n", [1, 3, 99])
def test_the_rules_are_those_of_llamaindexs_own_reranker(
    reranker: Rank1, given: list[NodeWithScore], top_n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(sentence_transformers, "CrossEncoder", lambda *arguments, **options: reranker)
    theirs = SentenceTransformerRerank(top_n=top_n).postprocess_nodes(fresh(given), query_str=QUERY)
    ours = Rank1Rerank(model=reranker, top_n=top_n).postprocess_nodes(fresh(given), query_str=QUERY)
    assert [(node.node_id, node.text) for node in ours] == [(node.node_id, node.text) for node in theirs]
    assert [node.score for node in ours] == pytest.approx([node.score for node in theirs])


def test_refusals_are_those_of_llamaindexs_own_reranker(reranker: Rank1, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(sentence_transformers, "CrossEncoder", lambda *arguments, **options: reranker)
    for rerank in (SentenceTransformerRerank, partial(Rank1Rerank, model=reranker)):
        with pytest.raises(ValidationError, match="top_n"):
            rerank(top_n=None)
        with pytest.raises(ValueError, match="query"):
            rerank(top_n=1).postprocess_nodes([])  # without a query, even where there is nothing to rank
        assert rerank(top_n=1).postprocess_nodes([], query_str="") == []


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA], ids=repr)
def test_metadata_without_a_value_are_not_judged(reranker: Rank1, nothing: object) -> None:
    node = TextNode(text=PASSAGES[2], metadata={"title": nothing, "year": 0})
    (found,) = Rank1Rerank(model=reranker).postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    (judgment,) = reranker.judge([(QUERY, f"year: 0\n\n{PASSAGES[2]}")])
    assert found.score == judgment.score
    assert found.metadata["title"] is nothing, "what the document says of itself is left alone"


def test_what_is_no_node_is_said(reranker: Rank1) -> None:
    with pytest.raises(TypeError, match="the class NodeWithScore of llama_index, not of str"):
        Rank1Rerank(model=reranker).postprocess_nodes(["a text"], query_str=QUERY)
