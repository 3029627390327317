"""rank1 under MTEB's own evaluator, on small local tasks of every kind."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BitsAndBytesConfig

from rank1_hf.decoding.options import FIELDS, DecodingOptions
from rank1_hf.evaluation.candidates import Inputs
from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.metrics import measure, p_mrr, pairwise_accuracy
from rank1_hf.files.dataset_prompts import built_in_prompts
from rank1_hf.files.sources import open_source
from rank1_hf.files.trec import Run, read_run
from rank1_hf.models.family import AWQ_FAMILY, FAMILY
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.pair_text import passage_text, query_text
from rank1_hf.reranker import Rank1
from rank1_hf.results.judgment import Judgment, sigmoid
from tests.evaluation.repository import write_repository

mteb = pytest.importorskip("mteb")

from datasets import Dataset  # noqa: E402
from mteb._evaluators.retrieval_metrics import calculate_pmrr, evaluate_p_mrr_change, paired_accuracy  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderProtocol  # noqa: E402
from mteb.tasks import Core17InstructionRetrieval, NevIR, mFollowIR, mFollowIRCrossLingual  # noqa: E402
from pytrec_eval import RelevanceEvaluator  # noqa: E402

from rank1_hf.integrations import mteb as integration  # noqa: E402

N_DOCUMENTS = 12
DOCUMENTS = {f"d{i}": {"title": f"Title {i}" if i % 3 else "", "text": f"text {i}"} for i in range(N_DOCUMENTS)}


class Stub:
    """Stands in for Rank1: judgments depend on the texts alone, and no two are the same."""

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.model, self.options = model, options
        self.pairs: list[tuple[str, str]] = []

    def judge(self, pairs: Iterable[Any], **options: Any) -> list[Judgment]:
        judgments = []
        for index, (query, passage) in enumerate(pairs):
            self.pairs.append((query_text(query), passage_text(passage)))
            digest = hashlib.sha256("\n".join(self.pairs[-1]).encode()).digest()
            log_odds = int.from_bytes(digest[:3]) / 2**20 - 8
            judgments.append(Judgment(index, sigmoid(log_odds), log_odds, log_odds > 0, "", 9, 9, "closed", False))
        return judgments


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> integration.Rank1CrossEncoder:
    monkeypatch.setattr(integration, "Rank1", Stub)
    monkeypatch.setattr(integration, "checkpoint_identity", lambda name, **source: "sha256:0123")
    monkeypatch.setattr(integration, "substituted_dtype", lambda name, **options: None)
    return integration.rank1(model_name_or_path=None, num_gpus=1, device="cpu")  # as the card names its arguments


def metadata(name: str, kind: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        description="local",
        dataset={"path": "local/local", "revision": "1"},
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
    )


def data(queries: dict[str, dict[str, str]], qrels: dict[str, dict[str, int]], ranked: bool = True) -> dict[str, Any]:
    top_ranked = {query: [f"d{(i + n) % N_DOCUMENTS}" for n in range(10)] for i, query in enumerate(queries)}
    return {
        "corpus": Dataset.from_list([{"id": id_} | document for id_, document in DOCUMENTS.items()]),
        "queries": Dataset.from_list([{"id": id_} | query for id_, query in queries.items()]),
        "relevant_docs": qrels,
        "top_ranked": top_ranked if ranked else None,
    }


def task(name: str, kind: str, content: dict[str, Any], base: type = AbsTaskRetrieval, **attributes: Any) -> Any:
    def load_data(self: Any, *arguments: Any, **options: Any) -> None:
        self.dataset, self.data_loaded = {"default": {"test": content}}, True

    described = {"metadata": metadata(name, kind)} if base is AbsTaskRetrieval else {}
    return type(name, (base,), {**described, "load_data": load_data, **attributes})()


def evaluate(model: Any, local: Any, predictions: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """MTEB's scores, and its run."""
    folder = predictions or Path()
    results = mteb.evaluate(model, local, cache=None, co2_tracker=False, prediction_folder=predictions)
    run = {}
    if predictions:
        (file,) = folder.rglob("*_predictions.json")
        run = json.loads(file.read_text())["default"]["test"]
    return results.task_results[0].scores["test"][0], run


def our_run(folder: Path, content: dict[str, Any], reranker: Any) -> Run:
    """The run file of `rank1-hf evaluate` over the same data."""
    folder.mkdir()
    for name in ("corpus", "queries"):
        rows = [{"_id": row["id"], **row} for row in content[name]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(folder))
    given = {query: {d: -float(n) for n, d in enumerate(ids)} for query, ids in content["top_ranked"].items()}
    inputs = Inputs(source, source.queries(pytest.fail), given, content["relevant_docs"], 100)
    run_job(inputs, folder / "output", {}, lambda: reranker, show_progress=False)
    return read_run(folder / "output" / "run.trec")


QUERIES = {f"q{i}": {"text": f"what is {i}?"} for i in range(5)}
QRELS = {f"q{i}": {f"d{(i + n) % N_DOCUMENTS}": n % 3 for n in range(0, 10, 2)} for i in range(5)}


def check_equal(scores: dict[str, Any], qrels: dict[str, dict[str, int]], run: Run) -> None:
    """MTEB rounds to five digits."""
    values = measure(qrels, run, ["nDCG@10", "AP@10", "R@3"])
    means = [round(sum(of_query.values()) / len(of_query), 5) for of_query in list(values.values())[:3]]
    assert [scores["ndcg_at_10"], scores["map_at_10"], scores["recall_at_3"]] == means


def test_it_is_a_cross_encoder_of_mteb(model: integration.Rank1CrossEncoder) -> None:
    assert isinstance(model, CrossEncoderProtocol)
    assert model.mteb_model_meta.is_cross_encoder


def test_a_reranking_task(model: Any, tmp_path: Path) -> None:
    content = data(QUERIES, QRELS)
    scores, _ = evaluate(model, task("LocalReranking", "Reranking", content))
    check_equal(scores, QRELS, our_run(tmp_path / "ours", content, Stub()))
    assert ("what is 0?", "Title 1 text 1") in model._reranker.pairs
    assert ("what is 0?", "text 0") in model._reranker.pairs


def test_the_evaluator_of_the_model_card(model: Any, tmp_path: Path) -> None:
    content = data(QUERIES, QRELS)
    local = task("LocalReranking", "Reranking", content)
    with pytest.warns(DeprecationWarning, match="mteb.evaluate"):
        (result,) = mteb.MTEB(tasks=[local]).run(model, output_folder=str(tmp_path / "results"), verbosity=0)
    check_equal(result.scores["test"][0], QRELS, our_run(tmp_path / "ours", content, Stub()))


def test_instructions_stand_behind_the_query(model: Any, tmp_path: Path) -> None:
    queries, qrels = {}, {}
    for i in range(4):
        for kind, lost in (("og", 0), ("changed", 2)):
            queries[f"{i}-{kind}"] = {"text": f"what is {i}?", "instruction": f"Only the {kind} ones."}
            qrels[f"{i}-{kind}"] = {f"d{n}": int(n >= lost) for n in range(2 * i, 2 * i + 4)} | {"d11": 1}
    content = data(queries, qrels)
    changed = {
        str(i): [d for d, grade in qrels[f"{i}-og"].items() if grade > qrels[f"{i}-changed"][d]] for i in range(4)
    }

    def task_specific_scores(self: Any, scores: Any, given: Any, results: Any, **where: Any) -> Any:
        return evaluate_p_mrr_change(given, results, changed, self.k_values)

    local = task("LocalFollowIR", "InstructionReranking", content, task_specific_scores=task_specific_scores)
    scores, _ = evaluate(model, local)
    run = our_run(tmp_path / "ours", content, Stub())
    check_equal(scores, qrels, run)
    p_mrr = measure(qrels, run)["p-MRR"]
    assert scores["p-MRR"] == pytest.approx(sum(p_mrr.values()) / len(p_mrr), abs=1e-12)
    assert any(query == "what is 0? Only the og ones." for query, _ in model._reranker.pairs)


def follow_ir_parts(suffix: str = "") -> dict[str, Any]:
    """What a FollowIR dataset has on the hub: each query under its original instruction and under one that makes some
    documents irrelevant; a subset's configs end in its name.
    """
    parts: dict[str, tuple[str, list[dict[str, Any]]]] = {
        "corpus": ("corpus", [{"_id": id_, **document} for id_, document in DOCUMENTS.items()]),
        "queries": ("queries", []),
        "instruction": ("instruction", []),
        "default": ("test", []),
        "top_ranked": ("top_ranked", []),
        "qrel_diff": ("qrel_diff", []),
    }
    for i in range(4):
        relevant = [f"d{n}" for n in range(2 * i, 2 * i + 4)]
        parts["qrel_diff"][1].append({"query-id": str(i), "corpus-ids": relevant[:2]})
        for kind, lost in (("og", 0), ("changed", 2)):
            id_ = f"{i}-{kind}"
            parts["queries"][1].append({"_id": id_, "text": f"what is {i}{suffix}?"})
            parts["instruction"][1].append({"query-id": id_, "instruction": f"Only the {kind} ones."})
            parts["top_ranked"][1].append({"query-id": id_, "corpus-ids": list(DOCUMENTS)[:10]})
            for place, document in enumerate(relevant):
                parts["default"][1].append({"query-id": id_, "corpus-id": document, "score": int(place >= lost)})
    return {name + suffix: part for name, part in parts.items()}


def run_of_source(source: Any, folder: Path) -> Run:
    """The run file of `rank1-hf evaluate` over a collection with its own candidates."""
    inputs = Inputs(source, source.queries(pytest.fail), source.run(), source.qrels(), 100)
    run_job(inputs, folder, {}, lambda: Stub(), show_progress=False)
    return read_run(folder / "run.trec")


@pytest.mark.parametrize("task_class", [Core17InstructionRetrieval, mFollowIR, mFollowIRCrossLingual])
def test_follow_ir_and_m_follow_ir_themselves(model: Any, tmp_path: Path, task_class: Any) -> None:
    """MTEB's own tasks, which load and score as ever, with a repository on disk in the place of the hub's."""
    languages = [subset.split("-")[-1] for subset in task_class.metadata.hf_subsets]  # "fas", "eng-fas" or "default"
    suffixes = {language: "" if language == "default" else f"-{language}" for language in languages}
    parts = {name: part for suffix in suffixes.values() for name, part in follow_ir_parts(suffix).items()}
    folder = write_repository(tmp_path / "hub", parts)
    here = task_class.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "main"}})
    local = type(task_class.__name__, (task_class,), {"metadata": here})()
    results = mteb.evaluate(model, local, cache=None, co2_tracker=False)
    found = {scores["hf_subset"].split("-")[-1]: scores for scores in results.task_results[0].scores["test"]}
    assert set(found) == set(languages)
    assert any(query.endswith("? Only the changed ones.") for query, _ in model._reranker.pairs)
    for language, suffix in suffixes.items():
        source = open_source(str(folder), subset=language if suffix else None)
        run, qrels = run_of_source(source, tmp_path / language), source.qrels()
        check_equal(found[language], qrels, run)
        values = measure(qrels, run, ["nDCG@20"])
        assert found[language]["p-MRR"] == pytest.approx(sum(values["p-MRR"].values()) / 4, abs=1e-12)
        assert found[language]["ndcg_at_20"] == round(sum(values["nDCG@20"].values()) / 8, 5)
    assert len({scores["p-MRR"] for scores in found.values()}) == len(languages)


documents = st.sampled_from([f"d{n}" for n in range(6)])
rankings = st.dictionaries(documents, st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1)


@given(original=rankings, changed=rankings, relevant=st.sets(documents, min_size=1), data_=st.data())
def test_p_mrr_is_mteb_s(original: Any, changed: Any, relevant: set[str], data_: Any) -> None:
    lost = data_.draw(st.sets(st.sampled_from(sorted(relevant)), min_size=1))
    qrels = {"7-og": dict.fromkeys(relevant, 1), "7-changed": {d: int(d not in lost) for d in relevant}}
    expected = calculate_pmrr({"7-og": original}, {"7-changed": changed}, {"7": sorted(lost)})
    assert p_mrr(qrels, {"7-og": original, "7-changed": changed})["7"] == pytest.approx(expected, abs=1e-12)


@given(first=rankings, second=rankings, of_first=documents, of_second=documents)
def test_pairwise_accuracy_is_mteb_s(first: Any, second: Any, of_first: str, of_second: str) -> None:
    qrels, run = {"7_q1": {of_first: 1}, "7_q2": {of_second: 1}}, {"7_q1": first, "7_q2": second}
    recall = RelevanceEvaluator(qrels, {"recall.1"}).evaluate(run)
    assert pairwise_accuracy(qrels, run) == {"7": paired_accuracy(qrels, run, recall)}


def test_pairs_as_in_nevir(model: Any, tmp_path: Path) -> None:
    queries, qrels, ranked = {}, {}, {}
    for i in range(30):
        passages = [f"d{2 * (i % 6)}", f"d{2 * (i % 6) + 1}"]
        for n in (0, 1):
            queries[f"{i}_q{n + 1}"] = {"text": f"query {n} of pair {i}"}
            qrels[f"{i}_q{n + 1}"] = {passages[n]: 1}
            ranked[f"{i}_q{n + 1}"] = passages
    content = data(queries, qrels) | {"top_ranked": ranked}
    scores, _ = evaluate(model, task("LocalNevIR", "Reranking", content, base=NevIR))
    accuracy = measure(qrels, our_run(tmp_path / "ours", content, Stub()))["pairwise accuracy"]
    assert scores["paired_accuracy"] == sum(accuracy.values()) / 30
    assert 0 < scores["paired_accuracy"] < 1


def test_two_stages(model: Any, tmp_path: Path) -> None:
    """A retrieval task, converted by MTEB into the reranking of a first stage's predictions."""
    content = data(QUERIES, QRELS)
    local = task("LocalRetrieval", "Retrieval", content | {"top_ranked": None})
    first = {query: {d: -float(n) for n, d in enumerate(ids)} for query, ids in content["top_ranked"].items()}
    stage = {"mteb_model_meta": {"model_name": "bm25", "revision": "1"}, "default": {"test": first}}
    (tmp_path / "LocalRetrieval_predictions.json").write_text(json.dumps(stage))
    scores, run = evaluate(model, local.convert_to_reranking(tmp_path, top_k=6), tmp_path / "second")
    assert {query: sorted(documents) for query, documents in run.items()} == {
        query: sorted(ids[:6]) for query, ids in content["top_ranked"].items()
    }
    content["top_ranked"] = {query: ids[:6] for query, ids in content["top_ranked"].items()}
    check_equal(scores, QRELS, our_run(tmp_path / "ours", content, Stub()))


def test_a_real_model_gives_mteb_the_ndcg_of_our_run_file(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    content = data(QUERIES, QRELS)
    options: dict[str, Any] = {"max_new_tokens": 6, "decoding": DecodingOptions(reproducible=True)}
    model = integration.rank1(str(checkpoint("qwen2")), device="cpu", **options)
    scores, _ = evaluate(model, task("LocalReranking", "Reranking", content))
    check_equal(scores, QRELS, our_run(tmp_path / "ours", content, Rank1(checkpoint("qwen2"), **options)))


def test_a_task_gets_its_dataset_prompt_and_a_subset_its_own(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def queries(model: Any, name: str, subset: str) -> set[str]:
        texts = Dataset.from_list([{"query": "Q", "text": "P"}])
        model._reranker.pairs.clear()
        loader = [{name: [row[name] for row in texts] for name in texts.column_names}]
        model.predict(loader, loader, task_metadata=metadata(name, "Reranking"), hf_split="test", hf_subset=subset)
        return {query for query, _ in model._reranker.pairs}

    assert queries(model, "MSMARCO", "default") == {"Q"}
    assert queries(model, "ArguAna", "default") == {built_in_prompts()["ArguAna"].replace("FILL_QUERY_HERE", "Q")}
    pony = built_in_prompts()["BrightRetrieval/pony"]
    assert queries(model, "BrightRetrieval", "pony") == {pony.replace("FILL_QUERY_HERE", "Q")}
    assert queries(integration.rank1(prompts={}), "ArguAna", "default") == {"Q"}
    assert queries(integration.rank1(prompts={"Mine": "My FILL_QUERY_HERE"}), "Mine", "default") == {"My Q"}


def test_a_pair_without_a_score_comes_last_and_is_told(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Stub.judge

    def failing(self: Stub, pairs: Any, **options: Any) -> list[Judgment]:
        return [*judge(self, pairs)[:-1], Judgment.failed(2, "no memory")]

    monkeypatch.setattr(Stub, "judge", failing)
    loader = [{"query": ["a", "b", "c"], "text": ["x", "y", "z"]}]
    with pytest.warns(UserWarning, match="1 of 3 pairs have no score and come last .no memory"):
        scores = model.predict(
            loader, loader, task_metadata=metadata("Local", "Reranking"), hf_split="test", hf_subset="default"
        )
    assert scores.argmin() == 2


@pytest.mark.parametrize("name", [*FAMILY, *AWQ_FAMILY])
def test_every_family_member_has_a_complete_meta(name: str, model: Any) -> None:
    meta = integration.model_meta(name)
    empty = {"revision", "embed_dim", "similarity_fn_name", "superseded_by", "contacts", "experiment_kwargs"}
    empty |= {"n_active_parameters_override", "output_dtypes", "extra_requirements_groups"}
    assert {field for field, value in meta.model_dump().items() if value is None} <= empty
    billions = {"0.5b": 0.49, "1.5b": 1.5, "3b": 3.1, "7b": 7.6, "14b": 14.8, "32b": 32.8, "8b": 8.0, "24b": 23.6}
    assert meta.n_parameters == pytest.approx(1e9 * billions[name.removesuffix("-awq").rsplit("-", 1)[1]], rel=0.04)
    loaded = meta.load_model(device="cpu")
    assert loaded._reranker.model == name
    assert loaded.mteb_model_meta.name == name


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        *[("7b", 15.2), ("llama3-8b", 16.1), ("14b", 29.6), ("mistral-2501-24b", 47.2), ("32b", 65.5)],
        *[
            ("7b-awq", 5.6),
            ("llama3-8b-awq", 5.8),
            ("14b-awq", 10.0),
            ("mistral-2501-24b-awq", 14.3),
            ("32b-awq", 19.3),
        ],
    ],
)
def test_a_member_takes_the_memory_that_the_paper_says(name: str, gigabytes: float) -> None:
    """Weller et al. 2025 (arXiv 2502.18418), table 7."""
    meta = integration.model_meta(f"jhu-clsp/rank1-{name}")
    assert meta.memory_usage_mb * 2**20 / 1e9 == pytest.approx(gigabytes, rel=0.015)


def test_a_member_has_the_parameters_of_its_base_in_mteb_s_registry() -> None:
    for name, of_same_base in (("0.5b", "mxbai-rerank-base-v2"), ("1.5b", "mxbai-rerank-large-v2")):
        ours = integration.model_meta(f"jhu-clsp/rank1-{name}")
        theirs = mteb.get_model_meta(f"mixedbread-ai/{of_same_base}")
        assert ours.adapted_from == theirs.adapted_from
        for field in ("n_parameters", "n_embedding_parameters", "max_tokens"):
            assert getattr(ours, field) == getattr(theirs, field)


def test_several_gpus_share_one_model_unless_each_has_a_process(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = integration.rank1("some/model", num_gpus=2, device="cuda", revision="1")
    assert spread._reranker.options == {"revision": "1", "device": None, "num_gpus": 1, "device_map": "auto"}
    monkeypatch.setattr(integration, "is_launched", lambda: True)
    shared = integration.rank1("some/model", num_gpus=2, device="cuda", revision="1")
    assert shared._reranker.options == {"revision": "1", "device": "cuda", "num_gpus": 2}


def test_results_of_other_options_are_kept_apart(model: Any) -> None:
    short = integration.rank1(max_new_tokens=64, device="cpu").mteb_model_meta
    assert short.experiment_name != model.mteb_model_meta.experiment_name
    assert short.revision == model.mteb_model_meta.revision


class TestCacheKey:
    """What MTEB finds a result by: the model's name, its revision, and the options that decide the result."""

    @pytest.fixture(autouse=True)
    def _stub(self, model: Any) -> None:
        """`model` has put the stub in the place of `Rank1`."""

    def key(self, *arguments: Any, **options: Any) -> tuple[str, str, str | None]:
        meta = integration.rank1(*arguments, **options).mteb_model_meta
        written = json.dumps(meta.to_dict())  # what MTEB writes beside its results
        assert json.loads(written)["experiment_kwargs"] == meta.experiment_kwargs
        return meta.name, meta.revision, meta.experiment_name

    def test_options_that_decide_a_result_are_in_it_and_differ_by_what_they_contain(self) -> None:
        of_quantization = [
            BitsAndBytesConfig(load_in_8bit=True),
            BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16),
        ]
        keys = [
            self.key(),
            self.key(max_new_tokens=64),
            self.key(max_new_tokens=65),
            self.key(max_length=4000),
            self.key(dtype="bfloat16"),
            self.key(dtype=torch.float16),
            self.key(quantization="4bit"),
            *(self.key(quantization=config) for config in of_quantization),
            self.key(markers=Markers(close="</a>")),
            self.key(markers=Markers(close="_/a_")),
            self.key(prompt_template="Is it <FILL_QUERY_HERE>?"),
            self.key(prompt_template="Is it :FILL_QUERY_HERE:*"),
            self.key(prompts={"ArguAna": "Is it FILL_QUERY_HERE?"}),
            self.key(prompts={"ArguAna": "Is it FILL_QUERY_HERE*"}),
            self.key(prompts={}),
            self.key(rethink=1),
            self.key(min_thinking_tokens=3),
            self.key(truncation="error"),
            self.key(decoding=DecodingOptions(reproducible=True)),
            self.key(subfolder="a/b"),
            self.key(subfolder="a_b"),
        ]
        assert len(set(keys)) == len(keys)
        decisive = {*integration._DECISIVE}
        where = {"model", "tokenizer", "device", "device_map", "max_memory", "num_gpus", "revision", "token"}
        where |= {"allow_pickles", "cache", "engine", "old_options"}
        known = {name for name in inspect.signature(Rank1).parameters if name not in where}
        assert known == decisive | {"decoding"}, "a new option decides a result or does not: say which"
        how_fast = {
            "batch_size",
            "prefill_chunk",
            "page_size",
            "kv_cache_tokens",
            "gpu_memory_utilization",
            "speculate",
        }
        how_fast |= {"step_overhead_tokens", "share_prefixes", "graphs", "kernels", "fuse", "overlap", "pack"}
        decides = {*integration._DECISIVE_DECODING}
        assert {*FIELDS} - how_fast == decides, "a new option of decoding decides a result or does not: say which"

    def test_the_same_content_is_one_key(self) -> None:
        assert self.key(dtype="bfloat16") == self.key(dtype=torch.bfloat16) == self.key(dtype="torch.bfloat16")
        assert self.key(max_new_tokens=64) == self.key(max_new_tokens=np.int64(64))
        configs = [BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=3.0) for _ in range(2)]
        assert self.key(quantization=configs[0]) == self.key(quantization=configs[1])
        assert self.key(markers=Markers(wait=" Hm")) == self.key(markers=Markers(wait=" Hm"))
        same = ("reproducible=on,speculate=off", DecodingOptions(reproducible=True), "reproducible=on")
        assert len({self.key(decoding=each) for each in same}) == 1
        defaults = {"dtype": "auto", "rethink": 0, "max_length": 16000, "markers": Markers(), "quantization": None}
        assert self.key(**defaults, prompts=built_in_prompts()) == self.key()

    def test_the_dtype_that_the_device_takes_instead_is_in_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own, asked = self.key(), self.key(dtype="float16")
        monkeypatch.setattr(integration, "substituted_dtype", lambda name, **options: torch.float16)
        assert self.key() == asked != own
        assert self.key(dtype="bfloat16") != asked, "who asks for it gets it"

    def test_options_that_do_not_decide_it_are_nowhere(self) -> None:
        token = "hf_planted"
        options = {"device": "cpu", "batch_size": 3, "token": token, "num_gpus": 2, "max_memory": {"cpu": "1GiB"}}
        options |= {"decoding": DecodingOptions(kv_cache_tokens=4096, gpu_memory_utilization=0.5, fuse=False)}
        options |= {"engine": "plain"}
        model = integration.rank1(**options)
        assert self.key(**options) == self.key()
        assert token not in repr(model.mteb_model_meta)
        assert model._reranker.options["token"] == token

    def test_what_mteb_itself_loads_has_the_same_key(self) -> None:
        options = {"token": "hf_planted", "max_new_tokens": 64, "batch_size": 3}
        loaded = integration.model_meta("some/model").load_model(device="cpu", **options)
        assert loaded.mteb_model_meta.experiment_kwargs == {"max_new_tokens": 64}
        assert "hf_planted" not in json.dumps(loaded.mteb_model_meta.to_dict())
        assert loaded.mteb_model_meta.experiment_name == self.key("some/model", max_new_tokens=64)[2]

    def test_old_names_have_the_key_of_what_they_became(self) -> None:
        with pytest.warns(
            DeprecationWarning, match=r"is now Rank1CrossEncoder\(decoding=DecodingOptions\(reproducible=True"
        ):
            key = self.key(reproducible=True)
        assert key == self.key(decoding="reproducible=on")
        with pytest.warns(DeprecationWarning, match="kv_cache_tokens"):
            assert self.key(kv_cache_tokens=4096) == self.key()
        with pytest.warns(DeprecationWarning, match="reproducible"):
            loaded = integration.model_meta("some/model").load_model(device="cpu", reproducible=True)
        assert loaded.mteb_model_meta.experiment_kwargs == {"reproducible": True}
        assert loaded._reranker.options["decoding"] == DecodingOptions(reproducible=True)

    def test_an_option_that_rank1_does_not_have_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"Rank1CrossEncoder\(\) got an unexpected keyword argument 'reproducable'"):
            integration.rank1(reproducable=True)

    def test_a_prompts_file_is_known_by_its_text(self, tmp_path: Path) -> None:
        first, second = tmp_path / "secret-place.json", tmp_path / "second.yaml"
        first.write_text('{"ArguAna": "Is it FILL_QUERY_HERE?"}')
        second.write_text("ArguAna: Is it FILL_QUERY_HERE?")
        key = self.key(prompts=first)
        assert key == self.key(prompts=str(second)) == self.key(prompts={"ArguAna": "Is it FILL_QUERY_HERE?"})
        assert "secret-place" not in repr(integration.rank1(prompts=first).mteb_model_meta)
        first.write_text('{"ArguAna": "Is it FILL_QUERY_HERE!"}')
        assert key != self.key(prompts=first)

    def test_an_edited_prompts_file_is_judged_anew_and_a_known_one_is_not(self, tmp_path: Path) -> None:
        prompts, cache = tmp_path / "prompts.json", mteb.ResultCache(tmp_path / "cache")
        local = task("LocalReranking", "Reranking", data(QUERIES, QRELS))
        n_judged = []
        for text in ("A FILL_QUERY_HERE", "A FILL_QUERY_HERE", "B FILL_QUERY_HERE"):
            prompts.write_text(json.dumps({"LocalReranking": text}))
            model = integration.rank1(prompts=prompts)
            mteb.evaluate(model, local, cache=cache, co2_tracker=False)
            n_judged.append(len(model._reranker.pairs))
        assert n_judged == [50, 0, 50]

    def test_a_checkpoint_is_known_by_its_commit_whatever_it_was_asked_for_by(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, Any]] = []

        def identity(name: str, **source: Any) -> str:
            asked.append(source)
            return f"{name}@{'0123456789' * 4}"

        monkeypatch.setattr(integration, "checkpoint_identity", identity)
        name = "someone/rank1-fine-tuned"
        source = {"revision": "main", "subfolder": "a", "token": "hf_planted"}
        assert self.key(name, **source)[:2] == (name, "0123456789" * 4)
        assert asked == [source]
        for known in (name, "jhu-clsp/rank1-7b"):
            assert self.key(known)[:2] == (known, "0123456789" * 4)
        assert integration.model_meta(name, "v2").revision == "v2"


def test_the_names_of_dataset_prompts_are_those_of_mteb() -> None:
    for name in built_in_prompts():
        known, _, subset = name.partition("/")
        assert subset in ["", *mteb.get_task(known).metadata.hf_subsets]
