"""Rank1 where sentence-transformers expects a CrossEncoder, without any adapter."""

import inspect
from pathlib import Path

import pytest
import torch

from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY

pytest.importorskip("sentence_transformers")

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import (
    CrossEncoderCorrelationEvaluator,
    CrossEncoderRerankingEvaluator,
)

SAMPLES = [
    {"query": QUERY, "positive": [PASSAGES[1]], "documents": PASSAGES},
    {"query": OTHER_QUERY, "positive": [PASSAGES[0], PASSAGES[2]], "documents": PASSAGES},
]


def test_the_reranking_evaluator(reranker: Rank1, tmp_path: Path) -> None:
    evaluator = CrossEncoderRerankingEvaluator(SAMPLES, name="wings")
    results = evaluator(reranker, output_path=str(tmp_path))
    qrels = {f"q{i}": {PASSAGES.index(text): 1 for text in sample["positive"]} for i, sample in enumerate(SAMPLES)}
    run = {
        f"q{i}": {str(hit["corpus_id"]): hit["score"] for hit in reranker.rank(sample["query"], PASSAGES)}
        for i, sample in enumerate(SAMPLES)
    }
    before = {query: {str(n): -float(n) for n in range(4)} for query in qrels}
    named = {query: {str(n): grade for n, grade in grades.items()} for query, grades in qrels.items()}
    assert results["wings_ndcg@10"] == pytest.approx(ndcg(named, run))
    assert results["wings_base_ndcg@10"] == pytest.approx(ndcg(named, before))
    assert results["wings_ndcg@10"] > results["wings_base_ndcg@10"]
    assert len(list(tmp_path.iterdir())) == 1


def test_other_evaluators(reranker: Rank1) -> None:
    pairs, labels = [[QUERY, passage] for passage in PASSAGES], [0.0, 1.0, 0.4, 0.6]
    results = CrossEncoderCorrelationEvaluator(pairs, labels, name="wings")(reranker)
    assert results["wings_spearman"] > 0


def test_rank_takes_what_cross_encoders_rank_takes(reranker: Rank1) -> None:
    theirs, ours = (list(inspect.signature(kind.rank).parameters) for kind in (CrossEncoder, Rank1))
    assert ours[:5] == theirs[:5] == ["self", "query", "documents", "top_k", "return_documents"]
    hits = reranker.rank(QUERY, PASSAGES, 2, True)
    assert [hit["text"] for hit in hits] == [PASSAGES[hit["corpus_id"]] for hit in hits]
    assert [hit["corpus_id"] for hit in hits] == [hit["corpus_id"] for hit in reranker.rank(QUERY, PASSAGES, top_k=2)]


def test_predict_takes_what_evaluators_say(reranker: Rank1) -> None:
    pairs = [(QUERY, passage) for passage in PASSAGES]
    scores = reranker.predict(pairs)
    tensor = reranker.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == scores.tolist()
    assert reranker.predict(pairs[0], convert_to_tensor=True).shape == ()
    assert (reranker.predict(pairs, prompt_name=None, convert_to_numpy=True, batch_size=64) == scores).all()
    with pytest.raises(ValueError, match="no prompts by name"):
        reranker.predict(pairs, prompt_name="web_search")  # type: ignore[call-overload]
    listed = reranker.predict(pairs, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert [score.item() for score in listed] == scores.tolist()
    assert reranker.predict(pairs[0], convert_to_numpy=False).shape == ()
