"""rank1 as a ranker of Haystack, under Haystack itself."""

import asyncio
import json
import math
import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import pytest

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.models.loading import EMBEDDED_MODEL
from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.rankers import LLMRanker, MetaFieldRanker
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ByteStream, ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice, Secret

from rank1_hf.integrations import haystack as integration
from rank1_hf.integrations.haystack import Rank1Ranker


def documents(*passages: str | None) -> list[Document]:
    return [Document(id=str(i), content=text, meta={"place": i}) for i, text in enumerate(passages)]


def places(found: list[Document]) -> list[int]:
    return [document.meta["place"] for document in found]


@pytest.fixture
def ranker(reranker: Rank1, monkeypatch: pytest.MonkeyPatch) -> Rank1Ranker:
    monkeypatch.setattr(integration, "Rank1", lambda *arguments, **options: reranker)
    return Rank1Ranker()


def test_documents_come_back_ranked_and_told(ranker: Rank1Ranker, reranker: Rank1) -> None:
    given = documents(*PASSAGES)
    found = ranker.run(QUERY, given)["documents"]
    hits = reranker.rank(QUERY, PASSAGES)
    assert places(found) == [hit["corpus_id"] for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        assert (document.content, document.id) == (PASSAGES[hit["corpus_id"]], str(hit["corpus_id"]))
        assert document.score == document.meta["relevance_score"] == pytest.approx(hit["score"])
        assert document.meta["rank1_log_odds"] == pytest.approx(hit["log_odds"])
        assert document.meta["rank1_chain"] == hit["chain"]
        json.dumps(document.to_dict(), allow_nan=False)
    assert given == documents(*PASSAGES), "documents that a store holds on to are not changed"


def test_top_k(ranker: Rank1Ranker) -> None:
    every = places(ranker.run(QUERY, documents(*PASSAGES))["documents"])
    assert places(ranker.run(QUERY, documents(*PASSAGES), top_k=1)["documents"]) == every[:1]
    assert places(Rank1Ranker(top_k=2).run(QUERY, documents(*PASSAGES))["documents"]) == every[:2]
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(ValueError, match="top_k must be above 0, not 0"):
        Rank1Ranker(top_k=0)
    with pytest.raises(ValueError, match="top_k must be above 0, not -1"):
        ranker.run(QUERY, documents(*PASSAGES), top_k=-1)


class Replies:
    """A chat model that always gives back the documents in the order in which it was shown them."""

    def run(self, messages: list[ChatMessage]) -> dict[str, list[ChatMessage]]:
        return {"replies": [ChatMessage.from_assistant(json.dumps({"documents": [{"index": i} for i in range(1, 9)]}))]}


def scored(*found: tuple[str, float | None]) -> list[Document]:
    """Documents that retrievers found with these scores, the place of each in its meta."""
    return [
        Document(id=name, content=PASSAGES[place], meta={"place": place}, score=score)
        for place, (name, score) in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([], []),
        ([("a", None), ("b", None), ("a", None)], [0, 1]),
        ([("a", 0.1), ("b", 0.5), ("a", 0.9)], [1, 2]),
        ([("a", 0.9), ("b", 0.5), ("a", 0.1)], [0, 1]),
        ([("a", 0.5), ("a", 0.5)], [0]),
        ([("a", None), ("a", -3.0)], [1]),
        ([("a", 0.0), ("a", None), ("a", -0.1)], [0]),
        ([("a", 1.0), ("a", math.nan), ("b", math.nan), ("b", 1.0)], [0, 2]),
    ],
)
def test_which_of_the_documents_with_one_id_is_ranked_is_haystacks_own_rule(
    ranker: Rank1Ranker, found: list[tuple[str, float | None]], kept: list[int]
) -> None:
    rankers = (partial(LLMRanker(chat_generator=Replies()).run, QUERY), MetaFieldRanker("place").run)
    for run in (*rankers, partial(ranker.run, QUERY)):
        assert sorted(places(run(documents=scored(*found))["documents"])) == kept


def test_top_k_and_nothing_found_mean_what_they_mean_in_haystacks_own_rankers(ranker: Rank1Ranker) -> None:
    given = documents(*PASSAGES)
    rankers = (lambda k: LLMRanker(chat_generator=Replies(), top_k=k), lambda k: Rank1Ranker(top_k=k))
    for own in rankers:
        assert own(2).run(query=QUERY, documents=[]) == {"documents": []}
        assert own(2).run(query="", documents=[]) == {"documents": []}
        assert len(own(2).run(query=QUERY, documents=given, top_k=None)["documents"]) == 2
        assert len(own(2).run(query=QUERY, documents=given, top_k=3)["documents"]) == 3
        with pytest.raises(ValueError, match="top_k must be"):
            own(2).run(query=QUERY, documents=[], top_k=0)
    given = [document for _ in range(3) for document in documents(*PASSAGES)]
    many = [replace(document, id=str(place)) for place, document in enumerate(given)]
    for run in (MetaFieldRanker("place", top_k=None).run, partial(Rank1Ranker(top_k=None).run, QUERY)):
        assert len(run(documents=many)["documents"]) == len(many)


def test_nothing_is_loaded_to_rank_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "Rank1", lambda *arguments, **options: pytest.fail("it was loaded"))
    assert Rank1Ranker().run(QUERY, [])["documents"] == []


def test_documents_that_cannot_be_judged_come_last(ranker: Rank1Ranker) -> None:
    with pytest.warns(UserWarning, match=r"2 of \d+ pairs have no score"):
        found = ranker.run(QUERY, documents(None, TOO_LONG, *PASSAGES))["documents"]
    assert places(found)[-2:] == [0, 1]
    assert [document.score for document in found[-2:]] == [None, None]
    assert "must be a string" in found[-2].meta["rank1_error"]
    assert "no memory" in found[-1].meta["rank1_error"]
    assert all(document.score is not None for document in found[:-2])


def test_meta_fields_stand_before_the_content(ranker: Rank1Ranker, reranker: Rank1) -> None:
    ranker.meta_fields_to_embed = ["title", "year", "nothing"]
    document = Document(content=PASSAGES[2], meta={"title": "Wings", "year": 1903})
    (found,) = ranker.run(QUERY, [document])["documents"]
    (judgment,) = reranker.judge([(QUERY, f"Wings 1903 {PASSAGES[2]}")])
    assert found.score == judgment.score


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA, ""], ids=repr)
def test_meta_fields_without_a_value_are_left_out(ranker: Rank1Ranker, reranker: Rank1, nothing: object) -> None:
    ranker.meta_fields_to_embed = ["title", "edition"]
    document = Document(content=PASSAGES[2], meta={"title": nothing, "edition": 0})
    (found,) = ranker.run(QUERY, [document])["documents"]
    (judgment,) = reranker.judge([(QUERY, f"0 {PASSAGES[2]}")])
    assert found.score == judgment.score
    assert found.meta["title"] is nothing


def test_a_document_without_content_is_judged_by_its_meta_fields(ranker: Rank1Ranker, reranker: Rank1) -> None:
    ranker.meta_fields_to_embed = ["caption"]
    (found,) = ranker.run(QUERY, [Document(blob=ByteStream(b"\x89PNG"), meta={"caption": PASSAGES[1]})])["documents"]
    (judgment,) = reranker.judge([(QUERY, PASSAGES[1])])
    assert found.score == judgment.score


def pipeline(ranker: Rank1Ranker) -> Pipeline:
    store = InMemoryDocumentStore()
    store.write_documents(documents(*PASSAGES))
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(store))
    made.add_component("ranker", ranker)
    made.connect("retriever", "ranker")
    return made


def asked(query: str) -> dict[str, Any]:
    return {"retriever": {"query": query}, "ranker": {"query": query, "top_k": 1}}


def test_in_a_pipeline(ranker: Rank1Ranker) -> None:
    (best,) = pipeline(ranker).run(asked(QUERY))["ranker"]["documents"]
    assert best.content == PASSAGES[1]
    assert best.meta["rank1_label"] is True


def test_pipelines_that_run_together_give_what_they_give_alone(ranker: Rank1Ranker) -> None:
    made, queries = pipeline(ranker), [QUERY, OTHER_QUERY]
    alone = {query: made.run(asked(query))["ranker"]["documents"] for query in queries}

    async def together() -> list[dict[str, Any]]:
        return await asyncio.gather(*(made.run_async(asked(query)) for query in queries))

    for query, found in zip(queries, asyncio.run(together()), strict=True):
        assert places(found["ranker"]["documents"]) == places(alone[query])


def test_a_pipeline_can_be_written_and_read() -> None:
    given = Rank1Ranker(
        str(EMBEDDED_MODEL),
        top_k=3,
        device=ComponentDevice.from_str("cpu"),
        token=Secret.from_env_var("HF_TOKEN", strict=False),
        instruction="Only wings.",
        meta_fields_to_embed=["title"],
        model_kwargs={"max_new_tokens": 8, "dtype": "float32"},
    )
    read = Pipeline.loads(pipeline(given).dumps(), allowed_modules=["rank1_hf.*"]).get_component("ranker")
    assert read.to_dict() == given.to_dict()
    assert read.token == given.token
    read.warm_up()
    assert read._reranker.max_new_tokens == 8
    assert str(read._reranker.model.dtype) == "torch.float32"


@pytest.mark.parametrize("decoding", ["speculate=off", DecodingOptions(speculate=False)], ids=["text", "options"])
def test_decoding_is_written_to_a_pipeline_as_text(decoding: str | DecodingOptions) -> None:
    given = Rank1Ranker(device=ComponentDevice.from_str("cpu"), model_kwargs={"decoding": decoding})
    read = Pipeline.loads(pipeline(given).dumps(), allowed_modules=["rank1_hf.*"]).get_component("ranker")
    assert DecodingOptions.parse(read.model_kwargs["decoding"]) == DecodingOptions(speculate=False)
    read.warm_up()
    assert not read._reranker.decoder.options.speculate


def test_decoding_that_makes_no_sense_is_refused_before_the_first_run() -> None:
    with pytest.raises(ValueError, match="speculate=maybe: write on or off"):
        Rank1Ranker(model_kwargs={"decoding": "speculate=maybe"})


@pytest.mark.parametrize("name", ["model", "device", "token"])
def test_what_has_an_argument_of_its_own_is_not_in_model_kwargs(name: str) -> None:
    with pytest.raises(ValueError, match=f"give {name} as the argument of that name"):
        Rank1Ranker(model_kwargs={name: "anything"})


def test_the_model_is_loaded_once_and_not_before_it_is_needed(reranker: Rank1, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, Any]] = []
    begun = threading.Barrier(2, timeout=10)

    def load(*arguments: Any, **options: Any) -> Rank1:
        loaded.append((arguments, options))
        return reranker

    monkeypatch.setattr(integration, "Rank1", load)
    ranker = Rank1Ranker("some/model", device=ComponentDevice.from_str("cuda:1"), model_kwargs={"max_new_tokens": 8})
    assert loaded == []

    def warm() -> None:
        begun.wait()
        ranker.warm_up()

    threads = [threading.Thread(target=warm) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ranker.run(QUERY, documents(PASSAGES[0]))
    assert loaded == [(("some/model",), {"device": "cuda:1", "token": None, "max_new_tokens": 8})]


def test_what_is_no_document_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "Rank1", lambda *arguments, **options: pytest.fail("it was loaded"))
    with pytest.raises(TypeError, match="the class Document of haystack, not of str"):
        Rank1Ranker().run(QUERY, ["a text"])
