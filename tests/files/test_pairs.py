"""Files of pairs: every row is there, with its texts or with what is wrong with it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rank1_hf.files.pairs import PairFile, PairRow, PairStore, check_rows
from rank1_hf.inputs.textfiles import InputError

GOOD = {"id": 7, "query": "what flies?", "passage": "A wing.", "rest": [1, None]}


def rows(path: Path, **names: str) -> list[PairRow]:
    return list(PairFile(path, names))


def of_lines(folder: Path, *lines: bytes | str, name: str = "pairs.jsonl") -> list[PairRow]:
    path = folder / name
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return rows(path)


def test_a_row_has_its_texts_and_all_that_it_came_with(tmp_path: Path) -> None:
    (row,) = of_lines(tmp_path, json.dumps(GOOD))
    assert row == PairRow(1, GOOD, "what flies?", "A wing.", None)


def test_a_title_and_an_instruction_stand_with_their_texts_as_in_the_prompt(tmp_path: Path) -> None:
    beside = {**GOOD, "title": "Flight", "instruction": "not birds"}
    inside = {
        "query": {"text": "what flies?", "instruction": "not birds"},
        "passage": {"title": "Flight", "text": "A wing."},
    }
    empty = {**GOOD, "title": None, "instruction": ""}
    found = of_lines(tmp_path, *map(json.dumps, (beside, inside, empty)))
    assert [(row.query, row.passage) for row in found] == [
        ("what flies? not birds", "Flight A wing."),
        ("what flies? not birds", "Flight A wing."),
        ("what flies?", "A wing."),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query": "a", ', "not valid JSON"),
        ('{"query": "a", "query": "b", "passage": "c"}', "'query' stands twice"),
        ('{"passage": "p"}', 'no "query"'),
        ('{"query": "q"}', 'no "passage"'),
        ('{"query": null, "passage": "p"}', "query must be a string, not NoneType"),
        ('{"query": "q", "passage": null}', "passage must be a string, not NoneType"),
        ('{"query": "q", "passage": NaN}', "passage must be a string, not float"),
        ('{"query": "q", "passage": 7}', "passage must be a string, not int"),
        ('{"query": "q", "passage": ["p"]}', "passage must be a string, not list"),
        ('{"query": "q", "passage": {"title": "t"}}', "the passage has no 'text'; it has title"),
        ('{"query": "q", "passage": "p", "title": 3}', "passage's 'title' must be a string"),
        ('{"query": "q", "passage": "p \\ud83d"}', "lone surrogate"),
        ('{"query": "q \\udc00", "passage": "p"}', "lone surrogate"),
        ('{"query": " ", "passage": "p"}', "the query is blank"),
        ('["q", "p"]', "must be an object with a query and a passage, not list"),
        ("null", "must be an object with a query and a passage, not NoneType"),
        (b'{"query": "caf\xe9", "passage": "p"}', "not UTF-8"),
        (b"\x00\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_line_costs_itself_and_says_where_it_is(tmp_path: Path, line: bytes | str, said: str) -> None:
    first, bad, last = of_lines(tmp_path, json.dumps(GOOD), "", line, json.dumps(GOOD))[:3]
    assert [first.problem, last.problem] == [None, None]
    assert (first.number, bad.number, last.number) == (1, 3, 4)
    assert bad.problem is not None
    assert said in bad.problem
    assert f"{tmp_path / 'pairs.jsonl'}, line 3" in bad.problem
    assert bad.query is None


def test_tables_name_their_columns_once(tmp_path: Path) -> None:
    lines = ["id,query,passage", '7,"what, flies?","A\nwing."', "8,what", '9,"a "bad" one",x', "10,q,p"]
    found = of_lines(tmp_path, *lines, name="pairs.csv")
    assert found[0] == PairRow(
        3, {"id": "7", "query": "what, flies?", "passage": "A\nwing."}, "what, flies?", "A\nwing."
    )
    assert [(row.number, row.problem is None) for row in found] == [(3, True), (4, False), (5, False), (6, True)]
    assert "has 2 cells, and the first line names 3 columns" in str(found[1].problem)
    assert "not valid CSV" in str(found[2].problem)


def test_a_quote_that_is_never_closed_costs_its_line(tmp_path: Path) -> None:
    found = of_lines(tmp_path, "query,passage", 'q1,"p1', "q2,p2", 'q3,"p3"', 'q4,"p4', "q5,p5", name="pairs.csv")
    assert [(row.number, row.query) for row in found] == [(2, None), (3, "q2"), (4, "q3"), (5, None), (6, "q5")]
    assert "is a quote left open there?" in str(found[0].problem)


def test_a_line_that_is_not_utf8_costs_the_row_that_it_is_in(tmp_path: Path) -> None:
    found = of_lines(tmp_path, "query,passage", 'q1,"p', b"caf\xe9", 'p"', b"caf\xe9,x", "q2,p2", name="pairs.csv")
    assert [(row.number, row.query) for row in found] == [(4, None), (5, None), (6, "q2")]
    assert "not UTF-8" in str(found[0].problem)


def test_tabs_divide_with_and_without_quoting(tmp_path: Path) -> None:
    lines = ["query\tpassage", 'q1\t"To be" he said', 'q2\t"a ""b"" c"', 'q3\t"open', "q4\tplain", 'q5\t"in\ntwo"']
    found = of_lines(tmp_path, *lines, name="pairs.tsv")
    passages = ['"To be" he said', 'a "b" c', '"open', "plain", "in\ntwo"]
    assert [(row.query, row.passage) for row in found] == [(f"q{n}", each) for n, each in enumerate(passages, 1)]


def test_gzipped_lines_and_other_encodings_are_read(tmp_path: Path) -> None:
    text = json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "passage": "翼"}, ensure_ascii=False)
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "pairs.jsonl").write_bytes(text.encode("utf-16"))
    assert rows(tmp_path / "pairs.jsonl.gz") == rows(tmp_path / "pairs.jsonl")
    assert rows(tmp_path / "pairs.jsonl")[1].passage == "翼"


def test_parquet_keeps_what_it_holds(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"query": ["q1", None], "passage": ["p1", "p2"], "when": pa.array([1, 2], pa.timestamp("s"))})
    parquet.write_table(table, tmp_path / "pairs.parquet")
    first, second = rows(tmp_path / "pairs.parquet")
    assert (first.number, first.query, first.columns) == (1, "q1", table.to_pylist()[0])
    assert (second.number, second.query) == (2, None)
    assert "row 2: the query must be a string" in str(second.problem)


@pytest.mark.parametrize("write", ["csv", "parquet"])
def test_a_table_without_its_columns_is_refused_at_once(tmp_path: Path, write: str) -> None:
    path = tmp_path / f"pairs.{write}"
    if write == "csv":
        path.write_text("query,comment\nq,c\n")
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"query": ["q"], "comment": ["c"]}), path)
    with pytest.raises(InputError, match=r"no .passage..*there is 'query', 'comment'.*; --map passage=COLUMN"):
        rows(path)
    assert rows(path, passage="comment")[0].passage == "c"
    with pytest.raises(InputError, match="no column 'x'; there is 'query', 'comment'"):
        rows(path, passage="x")
    with pytest.raises(InputError, match="there is no 'score' to map"):
        PairFile(path, {"score": "comment"})


def test_a_path_leads_into_a_record(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "q", "docs": [{"body": "b"}]}\n{"query": "q"}\n')
    first, second = rows(path, passage="docs.0.body")
    assert (first.passage, second.problem) == (
        "b",
        f"{path}, line 2: there is no 'docs.0.body', which a field was mapped to ('docs' is not there)",
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.csv", b"query,passage,query\n", "names 'query' twice"),
        ("pairs.csv", b"query,passage\rq,p\r", "carriage returns alone"),
        ("pairs.parquet", b"PAR1", "cannot be read"),
        ("pairs.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:20], "is the file whole"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        rows(tmp_path / name)


# ---- the store -------------------------------------------------------------------------------------------------------


def pair_rows(*pairs: tuple[str, str] | None) -> list[PairRow]:
    return [PairRow(n, {}, problem="bad") if one is None else PairRow(n, {}, *one) for n, one in enumerate(pairs, 1)]


def test_pairs_of_one_query_come_together_and_equal_ones_beside_each_other(tmp_path: Path) -> None:
    pairs = [("b", "1"), ("a", "2"), None, ("b", "3"), ("a", "4"), ("b", "1"), ("c", "1")]
    store = PairStore(tmp_path / "store", pair_rows(*pairs))
    assert list(store.places()) == [0, 5, 3, 1, 4, 6]
    assert [store.pair(place) for place in range(7)] == pairs
    assert (store.n_rows, store.n_problems) == (7, 1)
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda row: PairRow(row.number, row.columns, "other", row.passage),
        lambda row: PairRow(row.number, {"id": 1}, row.query, row.passage),
        lambda row: PairRow(row.number, row.columns, problem="bad"),
    ],
)
def test_whatever_a_row_says_is_in_the_digest(tmp_path: Path, change: Callable[[PairRow], PairRow]) -> None:
    def digest(rows: list[PairRow]) -> str:
        store = PairStore(tmp_path / "store", rows)
        store.close()
        return store.digest

    given: list[Any] = pair_rows(("a", "1"), ("b", "2"))
    assert digest(given) == digest(list(given))
    assert digest(given) != digest([given[0], change(given[1])])


@pytest.mark.parametrize(("name", "cut"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_an_empty_cell_of_a_table_is_a_missing_text(tmp_path: Path, name: str, cut: str) -> None:
    lines = [("id", "query", "passage"), ("1", "what flies?", ""), ("2", "", "A wing."), ("", "what flies?", "A wing.")]
    found = of_lines(tmp_path, *map(cut.join, lines), name=name)
    assert [row.problem and row.problem.partition(": ")[2] for row in found] == [
        "the cell of the passage is empty",
        "the cell of the query is empty",
        None,
    ]
    assert [row.columns["id"] for row in found] == ["1", "2", ""]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['[{"query": "q", "passage": "p"}]'], "must be an object with a query and a passage, not list; write an obj"),
        (["[", '  {"query": "q", "passage": "p"},', "]"], r"not valid JSON .* make one object a line, with: jq "),
        ([json.dumps({"question_text": "q", "passage": "p"})] * 1000 + [json.dumps(GOOD)], 'no "query" .*--map query='),
    ],
)
def test_a_file_whose_first_rows_are_all_bad_is_refused_with_the_first(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=rf"pairs\.jsonl, line 1: {said}"):
        list(check_rows(of_lines(tmp_path, *lines)))


def test_bad_rows_before_a_good_one_pass(tmp_path: Path) -> None:
    rows = of_lines(tmp_path, *["{"] * 999, json.dumps(GOOD), "{")
    assert list(check_rows(rows)) == rows
