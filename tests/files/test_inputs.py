"""Documents from files and pipes, and what is said about those that cannot be read."""

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.files.inputs import Document, InputError, read_file, read_stream, read_text


def read(content: str | bytes, file_format: str) -> list[Document]:
    data = content.encode() if isinstance(content, str) else content
    return list(read_stream(io.BytesIO(data), file_format, "input"))


def error(content: str | bytes, file_format: str) -> str:
    with pytest.raises(InputError) as caught:
        read(content, file_format)
    return str(caught.value)


def test_txt_is_a_document_a_line_without_blank_ones() -> None:
    assert read("one\n\n  \n two words \r\nlast", "txt") == [Document("one"), Document(" two words "), Document("last")]


def test_jsonl_takes_strings_and_objects() -> None:
    content = (
        '"a string"\n\n{"text": "t", "title": "T", "_id": "d1"}\n{"text": "", "id": 7, "title": null, "more": []}\n'
    )
    assert read(content, "jsonl") == [Document("a string"), Document("t", "T", "d1"), Document("", "", "7")]


def test_csv_takes_columns_by_their_names_and_quoted_line_breaks() -> None:
    content = 'id,title,text,more\r\n1,T,"a, b\nc",x\r\n2,,plain,y\r\n'
    assert read(content, "csv") == [Document("a, b\nc", "T", "1"), Document("plain", "", "2")]


def test_tsv_takes_quotes_that_are_text() -> None:
    assert read('id\ttext\n1\t"Wings" carry, always\n', "tsv") == [Document('"Wings" carry, always', id="1")]


def test_csv_needs_only_the_text() -> None:
    assert read("text\nonly\n", "csv") == [Document("only")]


@pytest.mark.parametrize("file_format", ["txt", "jsonl", "csv"])
def test_an_empty_input_has_no_documents(file_format: str) -> None:
    assert read("", file_format) == []


@pytest.mark.parametrize(("file_format", "content"), [("txt", "one"), ("jsonl", '"one"'), ("csv", "text\none")])
def test_a_byte_order_mark_is_not_text(file_format: str, content: str) -> None:
    assert read(b"\xef\xbb\xbf" + content.encode(), file_format) == [Document("one")]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_only_line_feeds_divide_lines(separator: str) -> None:
    assert read(f"a{separator}b", "txt") == [Document(f"a{separator}b")]


def test_a_passage_of_a_megabyte_is_read_from_every_format() -> None:
    text = "long " * 200_000
    assert read(text, "txt") == read(f'"{text}"', "jsonl") == read(f"text\n{text}", "csv") == [Document(text)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_jsonl_brings_any_text_through(texts: list[str]) -> None:
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    assert [document.text for document in read(lines, "jsonl")] == texts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "unclosed"', "not valid JSON"),
        ("plain words", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", 'string "text"'),
        ("null", 'string "text"'),
        ("3", 'string "text"'),
        ('{"title": "no text"}', 'string "text"'),
        ('{"text": 3}', 'string "text"'),
        ('{"text": "t", "title": 3}', '"title" must be a string'),
    ],
)
def test_a_bad_jsonl_line_is_named(line: str, reason: str) -> None:
    said = error(f'"good"\n\n{line}\n"good"\n', "jsonl")
    assert "input, line 3" in said
    assert reason in said
    assert "\n" not in said


@pytest.mark.parametrize("file_format", ["txt", "jsonl", "csv"])
def test_what_is_not_utf8_is_named_with_the_way_out(file_format: str) -> None:
    said = error('text\n"good"\ncaf\xe9\n'.encode("latin-1").replace(b"text", b'"text"'), file_format)
    assert "input, line 3: not UTF-8" in said
    assert "iconv" in said


def test_a_csv_without_a_text_column_says_which_it_has() -> None:
    said = error("id,body\n1,b\n", "csv")
    assert 'no column "text"' in said
    assert "body" in said


@pytest.mark.parametrize("row", ["1,a,unquoted", "1"])
def test_a_csv_row_of_another_width_is_named(row: str) -> None:
    said = error(f"id,text\n0,good\n{row}\n", "csv")
    assert "input, line 3" in said
    assert "quotes" in said


def test_a_csv_whose_lines_end_in_carriage_returns_alone_is_told_what_to_do() -> None:
    assert "tr '\\r' '\\n'" in error("text\rgood\r", "csv")


def test_a_csv_quote_that_never_ends_is_an_error() -> None:
    assert "not valid CSV" in error('text\n"never ends\n', "csv")


def test_a_file_is_read_by_its_ending_whatever_its_case(tmp_path: Path) -> None:
    path = tmp_path / "documents.JSONL"
    path.write_text('{"text": "t"}')
    assert list(read_file(path)) == [Document("t")]


def test_a_given_format_comes_before_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "documents.txt"
    path.write_text('{"text": "t"}')
    assert list(read_file(path, "jsonl")) == [Document("t")]


@pytest.mark.parametrize("name", ["documents.pdf", "documents"])
def test_a_file_of_another_kind_says_what_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(InputError, match="txt, jsonl, csv or tsv"):
        list(read_file(tmp_path / name))


@pytest.mark.parametrize("read_it", [lambda path: list(read_file(path)), read_text])
def test_a_missing_file_or_a_folder_is_named(tmp_path: Path, read_it: object) -> None:
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "missing.txt", tmp_path / "folder.txt"):
        with pytest.raises(InputError, match=f"cannot read {re.escape(str(path))}"):
            read_it(path)


def test_a_text_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "template.txt"
    path.write_bytes("\ufeffone\r\ntwo é".encode())
    assert read_text(path) == "one\r\ntwo é"
