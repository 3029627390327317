"""Rank1 where sentence-transformers expects a CrossEncoder, without any adapter."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.reranker import Rank1
from tests import tiny_models
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY

pytest.importorskip("sentence_transformers")

import datasets
import sentence_transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import evaluation
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives

SAMPLES = [
    {"query": QUERY, "positive": [PASSAGES[1]], "documents": PASSAGES},
    {"query": OTHER_QUERY, "positive": [PASSAGES[0], PASSAGES[2]], "documents": PASSAGES},
]


@pytest.fixture(scope="module")
def quick() -> Rank1:
    """With short chains, where it does not matter what they say."""
    return Rank1(device="cpu", dtype="float32", max_new_tokens=2)


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


PAIRS = [[query, passage] for query in (QUERY, OTHER_QUERY) for passage in PASSAGES]
LABELS = [0, 1, 0, 1, 1, 0, 0, 0]


def correlation(kind: type, reranker: Rank1) -> None:
    results = kind(PAIRS, [label / 2 for label in LABELS], name="wings")(reranker)
    expected = np.corrcoef(LABELS, reranker.predict(PAIRS))[0, 1]
    assert results["wings_pearson"] == pytest.approx(expected, abs=1e-5)


def classification(kind: type, reranker: Rank1) -> None:
    results = kind(PAIRS, LABELS, name="wings")(reranker)
    order = np.argsort(-reranker.predict(PAIRS))
    hits = np.array(LABELS)[order]
    precisions = [hits[: rank + 1].mean() for rank in np.flatnonzero(hits)]
    assert results["wings_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-5)


def reranking(kind: type, reranker: Rank1) -> None:
    assert kind(SAMPLES, name="wings")(reranker)["wings_map"] == pytest.approx(
        CrossEncoderRerankingEvaluator(SAMPLES, name="wings")(reranker)["wings_map"]
    )


def nano_beir(kind: type, reranker: Rank1) -> None:
    ids = [f"d{number}" for number in range(len(PASSAGES))]
    tables = {
        "corpus": {"_id": ids, "text": PASSAGES},
        "queries": {"_id": ["q1", "q2"], "text": [QUERY, OTHER_QUERY]},
        "qrels": {"query-id": ["q1", "q2", "q2"], "corpus-id": ["d1", "d0", "d2"]},
        "bm25": {"query-id": ["q1", "q2"], "corpus-ids": [ids, ids]},
    }
    with pytest.MonkeyPatch.context() as patch:
        load = lambda name, subset, split: datasets.Dataset.from_dict(tables[subset])  # noqa: E731
        patch.setattr(datasets, "load_dataset", load)
        results = kind(["nq"])(reranker)
    own = CrossEncoderRerankingEvaluator(SAMPLES, name="wings")(reranker)
    assert results["NanoBEIR_R100_mean_ndcg@10"] == pytest.approx(own["wings_ndcg@10"])


def negatives(mine: Callable[..., Any], reranker: Rank1) -> None:
    torch.manual_seed(0)
    embedder = SentenceTransformer(
        modules=[StaticEmbedding(tiny_models.build_tokenizer("llama").backend_tokenizer, embedding_dim=8)], device="cpu"
    )
    pairs = datasets.Dataset.from_dict({"query": [QUERY, OTHER_QUERY], "answer": [PASSAGES[1], PASSAGES[0]]})
    mined = mine(
        pairs,
        embedder,
        corpus=PASSAGES,
        cross_encoder=reranker,
        max_score=2.0,
        num_negatives=2,
        range_max=3,
        output_format="labeled-pair",
        output_scores=True,
        verbose=False,
    )
    scores = reranker.predict([(row["query"], row["answer"]) for row in mined])
    assert len(mined) == 6
    assert mined["score"] == pytest.approx(scores.tolist(), abs=1e-5)


PLACES: dict[str, Callable[[Any, Rank1], None]] = {
    "CrossEncoderRerankingEvaluator": reranking,
    "CERerankingEvaluator": reranking,
    "CrossEncoderCorrelationEvaluator": correlation,
    "CECorrelationEvaluator": correlation,
    "CrossEncoderClassificationEvaluator": classification,
    "CEBinaryAccuracyEvaluator": classification,
    "CEBinaryClassificationEvaluator": classification,
    "CEF1Evaluator": classification,
    "CESoftmaxAccuracyEvaluator": classification,
    "CrossEncoderNanoBEIREvaluator": nano_beir,
    "mine_hard_negatives": negatives,
}
"""What uses a CrossEncoder as it is."""

ABOUT_THE_MODEL_ITSELF = ("backend.", "cross_encoder.fit_mixin", "cross_encoder.losses.", "cross_encoder.trainer")
"""Where one is trained or converted, which is done to a checkpoint and not to a reranker."""


def takes_a_cross_encoder(thing: object) -> bool:
    functions = [thing.__init__, thing.__call__] if inspect.isclass(thing) else [thing]
    return any(
        re.search(r"\bCrossEncoder\b", str(parameter.annotation))
        for function in functions
        if inspect.isfunction(function)
        for parameter in inspect.signature(function).parameters.values()
    )


def places() -> Iterator[tuple[str, str]]:
    """The module and the name of everything public that takes a CrossEncoder."""
    for found in pkgutil.walk_packages(sentence_transformers.__path__, "sentence_transformers."):
        try:
            module = importlib.import_module(found.name)
        except ImportError:  # it needs what is not installed
            continue
        for name, thing in vars(module).items():
            ours = getattr(thing, "__module__", None) == found.name
            if ours and not name.startswith("_") and takes_a_cross_encoder(thing):
                yield found.name.removeprefix("sentence_transformers."), name


def test_every_public_place_that_uses_a_cross_encoder_is_tried() -> None:
    assert {name for module, name in places() if not module.startswith(ABOUT_THE_MODEL_ITSELF)} == set(PLACES)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", PLACES)
def test_it_works_there(quick: Rank1, name: str) -> None:
    place = mine_hard_negatives if name == "mine_hard_negatives" else getattr(evaluation, name)
    PLACES[name](place, quick)


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_every_argument_of_cross_encoders_is_there(method: str) -> None:
    theirs, ours = (inspect.signature(getattr(kind, method)).parameters for kind in (CrossEncoder, Rank1))
    assert {name for name, each in theirs.items() if each.kind is not each.VAR_KEYWORD} <= set(ours)


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
    for name in ("inputs", "pairs"):
        assert reranker.predict(**{name: pairs}).tolist() == scores.tolist()
    assert reranker.predict(np.array(pairs)).tolist() == scores.tolist()
    assert reranker.predict(np.array(pairs[0])) == pytest.approx(scores[0], abs=1e-5)
    with pytest.raises(TypeError, match="two names of one argument"):
        reranker.predict(pairs, inputs=pairs)
    with pytest.raises(TypeError, match="pairs must be a list"):
        reranker.predict()
    listed = reranker.predict(pairs, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert [score.item() for score in listed] == scores.tolist()
    assert reranker.predict(pairs[0], convert_to_numpy=False).shape == ()


def test_what_has_no_effect_on_a_cross_encoder_with_one_label(quick: Rank1) -> None:
    scores = quick.predict(PAIRS)
    assert (quick.num_labels, quick.device) == (1, torch.device("cpu"))
    for option in ({"apply_softmax": True}, {"chunk_size": 2}, {"pool": None}, {"device": "cpu"}, {"device": "cpu:0"}):
        assert quick.predict(PAIRS, **option).tolist() == scores.tolist()


def test_what_a_cross_encoder_is_made_with_is_there_or_refused_with_what_to_do(checkpoint: Callable[..., Path]) -> None:
    options = {"device": "cpu", "max_length": 500, "max_new_tokens": 4}
    assert Rank1(checkpoint("qwen2"), num_labels=1, **options).num_labels == 1
    refused = {"num_labels": 2, "activation_fn": torch.nn.Identity(), "trust_remote_code": True, "model_kwargs": {}}
    assert refused.keys() <= inspect.signature(CrossEncoder.__init__).parameters.keys()
    for name, value in refused.items():
        with pytest.raises(TypeError, match=f"{name}.*: "):
            Rank1(checkpoint("qwen2"), **options, **{name: value})
    with pytest.raises(TypeError, match="Rank1 takes quantization='4bit'"):
        Rank1(checkpoint("qwen2"), load_in_4bit=True)
    with pytest.raises(TypeError, match="Rank1 calls it model"):
        Rank1(model_name_or_path="us/qwen2")


def test_an_activation_is_applied_to_the_log_odds(quick: Rank1) -> None:
    judgments = quick.judge(PAIRS)
    log_odds = np.float32([judgment.log_odds for judgment in judgments])
    assert (quick.predict(PAIRS, activation_fn=torch.nn.Identity()) == log_odds).all()
    sigmoid = quick.predict(PAIRS, activation_fn=torch.nn.Sigmoid())
    assert sigmoid == pytest.approx(quick.predict(PAIRS), abs=1e-6)
    assert quick.predict(PAIRS[0], activation_fn=torch.nn.Identity()) == pytest.approx(log_odds[0], abs=1e-4)
    worst_first = quick.rank(QUERY, PASSAGES, activation_fn=torch.neg)
    assert [hit["corpus_id"] for hit in worst_first] == np.argsort(log_odds[:4], kind="stable").tolist()
    assert [hit["score"] for hit in worst_first] == pytest.approx(
        sorted((-log_odds[:4]).tolist(), reverse=True), abs=1e-4
    )
    with pytest.warns(UserWarning, match="have no score"):
        marked = quick.predict([PAIRS[0], (QUERY, None)], activation_fn=lambda log_odds: (log_odds > 0) * 1)
    assert marked[0] in (0, 1)
    assert np.isnan(marked[1])


@pytest.mark.parametrize(
    ("option", "error", "instead"),
    [
        ({"prompt_name": "web_search"}, ValueError, "no prompts by name.*give Rank1 a prompt_template"),
        ({"prompt": "query: "}, ValueError, "give Rank1 a prompt_template, or a query an instruction"),
        ({"device": "meta"}, ValueError, r"stays on cpu.*Rank1\(\.\.\., device=\.\.\.\)"),
        ({"device": "toaster"}, ValueError, "'toaster' is not a device; leave device out"),
        ({"device": ["cpu", "cpu"]}, ValueError, r"no pool of processes.*num_gpus=N.*accelerate launch"),
        ({"pool": {"input": None}}, ValueError, "no pool of processes.*num_gpus=N"),
        ({"activation_fn": "sigmoid"}, TypeError, "must be a function of a tensor"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do_instead(quick: Rank1, option, error, instead) -> None:
    steps = quick.decoder.stats.steps
    with pytest.raises(error, match=instead):
        quick.predict(PAIRS, **option)
    with pytest.raises(error, match=instead):
        quick.rank(QUERY, PASSAGES, **option)
    assert quick.decoder.stats.steps == steps


def test_there_is_no_pool(quick: Rank1) -> None:
    with pytest.raises(ValueError, match=r"num_gpus=N.*accelerate launch"):
        quick.start_multi_process_pool(["cpu", "cpu"])


def test_an_activation_that_gives_other_than_a_score_for_each(quick: Rank1) -> None:
    with pytest.raises(ValueError, match="a score for each of 8 pairs"):
        quick.predict(PAIRS, activation_fn=torch.sum)
