"""Tables hand over pairs, and what comes back can be joined to them."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rank1_hf import Rank1
from rank1_hf.prompts.pairs import as_pairs, is_pair
from rank1_hf.viewing.judgments import COLUMNS
from tests import tiny_models

QUERIES = ["how do wings carry?", "what does bread need?"] * 2
PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line][:4]
COLUMNS_GIVEN = {"label": [1, 0, 0, 1], "passage": PASSAGES, "query": QUERIES}
TABLES = {
    "pandas": lambda columns: pd.DataFrame(columns, index=[f"row {n}" for n in range(4)]),
    "arrow": pa.table,
    "arrow batch": lambda columns: pa.table(columns).to_batches()[0],
    "dataset": datasets.Dataset.from_dict,
    "dataset in numpy's format": lambda columns: datasets.Dataset.from_dict(columns).with_format("numpy"),
    "streamed dataset": lambda columns: datasets.Dataset.from_dict(columns).to_iterable_dataset(),
    "rows": lambda columns: pa.table(columns).to_pylist(),
}


@pytest.fixture(scope="module")
def reranker(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_its_pairs(reranker, kind):
    table, pairs = TABLES[kind](COLUMNS_GIVEN), list(zip(QUERIES, PASSAGES, strict=True))
    expected = reranker.judge(pairs)
    assert reranker.judge(table) == expected
    assert reranker.predict(table).tolist() == reranker.predict(pairs).tolist()
    streamed = sorted(reranker.judge(table, stream=True), key=lambda judgment: judgment.index)
    assert [judgment.chain for judgment in streamed] == [judgment.chain for judgment in expected]


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_rows_are_pairs_however_many(n_rows):
    rows = [{"query": "q", "passage": "p"}, {"query": "q"}, {"query": "q", "passage": "p"}][-n_rows:]
    assert as_pairs(rows) == rows
    assert is_pair(({"text": "q", "instruction": "i"}, {"title": "t", "text": "p"}))


def test_a_frame_is_joined_by_its_own_index(reranker):
    frame = TABLES["pandas"](COLUMNS_GIVEN).iloc[[2, 0, 3, 1]]
    judgments = reranker.judge(frame)
    judged = judgments.to_pandas()
    assert list(judged.columns) == list(COLUMNS)
    joined = frame.rename(columns={"label": "relevance"}).join(judged)
    for label, row in joined.iterrows():
        judgment = judgments[list(frame.index).index(label)]
        assert (row["score"], row["chain"], row["label"]) == (judgment.score, judgment.chain, judgment.label)
    again = pd.concat([frame, frame]).set_axis(["same"] * 8)
    together = pd.concat([again, reranker.judge(again).to_pandas()], axis=1)
    assert together["score"].tolist() == judged["score"].tolist() * 2
    assert frame.assign(score=reranker.predict(frame))["score"].tolist() == np.float32(judged["score"]).tolist()


def test_arrow_tables_and_datasets_get_columns(reranker):
    table = TABLES["arrow"](COLUMNS_GIVEN)
    told = reranker.judge(table).to_arrow()
    assert told.num_rows == table.num_rows
    assert table.append_column("score", told["score"])["score"].to_pylist() == told["score"].to_pylist()
    dataset = TABLES["dataset"](COLUMNS_GIVEN).remove_columns("label")
    joined = datasets.concatenate_datasets([dataset, datasets.Dataset(told)], axis=1)
    assert joined[2]["passage"] == PASSAGES[2]
    assert joined[2]["chain"] == reranker.judge([(QUERIES[2], PASSAGES[2])])[0].chain


def test_pairs_without_a_frame_have_their_places(reranker):
    judgments = reranker.judge([("wings", "air"), ("wings", None)])
    frame = judgments.to_pandas()
    assert frame.index.tolist() == [0, 1]
    assert frame["error"].tolist()[1] == judgments[1].error
    assert np.isnan(frame["score"][1])
    assert judgments.to_arrow()["label"].to_pylist()[1] is None
    assert reranker.judge([]).to_arrow().num_rows == 0


def test_empty_cells(reranker):
    frame = pd.DataFrame({"query": ["wings", "wings", None], "passage": ["air", np.nan, "air"]})
    good, *bad = reranker.judge(frame)
    assert good.error is None
    assert ["passage must be a string" in bad[0].error, "query must be a string" in bad[1].error] == [True, True]
    rows = [{"title": title, "text": "air"} for title in (None, "Flight")]
    dataset = datasets.Dataset.from_dict({"query": ["wings"] * 2, "passage": rows})
    assert reranker.judge(dataset) == reranker.judge([("wings", "air"), ("wings", "Flight air")])


@pytest.mark.parametrize("kind", ["pandas", "arrow", "dataset"])
def test_a_missing_column_is_named_with_those_that_are_there(reranker, kind):
    with pytest.raises(ValueError, match=r"no column 'passage' \(it has label, text, query\); name its columns"):
        reranker.judge(TABLES[kind]({"label": [1] * 4, "text": PASSAGES, "query": QUERIES}))


@pytest.mark.parametrize("name", ["query", "passage"])
def test_a_column_that_is_there_twice_is_refused(reranker, name):
    """pandas gives a frame for it, whose items are the names of its columns."""
    frame = pd.DataFrame([["wings", "air", "water"]], columns=["query", "passage", name])
    arrow = pa.Table.from_arrays([pa.array(["wings"])] * 3, names=list(frame.columns))
    for table in (frame, arrow):
        with pytest.raises(ValueError, match=f"more than one column '{name}'"):
            reranker.judge(table)


def test_a_frame_may_have_columns_of_any_name(reranker):
    frame = pd.DataFrame({"query": QUERIES, "passage": PASSAGES, "column_names": 1, "index": 2, "iloc": 3})
    assert reranker.judge(frame) == reranker.judge(list(zip(QUERIES, PASSAGES, strict=True)))
