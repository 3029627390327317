"""Text files in every form that people have them in."""

import gzip
import io
import re
import subprocess
from pathlib import Path

import pytest

from rank1_hf.inputs.textfiles import InputError, format_of, lines_of, parse_json, read_jsonl, read_lines, read_text

TEXT = "one\r\n\u00e9\u2028two\n\U0001f600 \ufffe\nlast"
LINES = ["one\r\n", "\u00e9\u2028two\n", "\U0001f600 \ufffe\n", "last"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_whatever_its_encoding_and_its_name(tmp_path: Path, encoding: str, packed: bool) -> None:
    data = TEXT.encode(encoding)
    path = tmp_path / "file.txt"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert list(read_lines(path)) == LINES
    assert read_text(path) == TEXT
    assert list(lines_of(io.BytesIO(path.read_bytes()), "a pipe")) == LINES


def test_utf16_of_the_other_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(path) == TEXT


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)], ids=["plain", "gzipped"])
def test_an_empty_file_has_no_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert list(read_lines(tmp_path / "file")) == []


def test_a_damaged_archive_is_an_input_error_behind_what_was_whole(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"%d\n" % number for number in range(100_000)))
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # of the checksum
    for content in (whole[: len(whole) // 2], bytes(flipped), whole[:3]):
        (tmp_path / "file.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"file\.gz cannot be read beyond line \d+: .*is the file whole"):
            list(read_lines(tmp_path / "file.gz"))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (gzip.compress(gzip.compress(b"x")), "gzipped twice"),
        (b"PK\x03\x04", "zip"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"\xfd7zXZ\x00", "unxz"),
        (b"PAR1", "Parquet"),
    ],
    ids=["gzip", "zip", "zstd", "xz", "Parquet"],
)
def test_what_is_no_text_is_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(start)
    with pytest.raises(InputError, match=said):
        read_text(tmp_path / "file")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", ["caf\u00e9 \u201cquoted\u201d", "caf\u00e9 \x81"])
def test_the_advice_for_another_encoding_works_when_it_is_followed(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / "it's old.txt"
    data = text.encode("cp1252" if "\u201c" in text else "latin-1")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InputError, match="line 1: not UTF-8") as caught:
        read_text(path)
    command = re.search(r"for example with: (.*)", str(caught.value))
    assert command is not None
    subprocess.run(["bash", "-c", f"set -o pipefail; {command[1]}"], cwd=tmp_path, check=True)
    assert read_text(tmp_path / "converted") == text


def test_a_bad_line_costs_no_other_and_numbers_stay_right(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl.gz"
    path.write_bytes(gzip.compress(b'1\n"\xe9"\n\n{\n5\n'))
    problems: list[InputError] = []
    assert list(read_jsonl(path, problems.append)) == [(f"{path}, line 1", 1), (f"{path}, line 5", 5)]
    assert [str(problem).split(":")[0] for problem in problems] == [f"{path}, line 2", f"{path}, line 4"]


def test_a_key_that_stands_twice_with_other_content_is_refused() -> None:
    assert parse_json('{"a": 1, "a": 1}', "here") == {"a": 1}
    with pytest.raises(InputError, match="here: 'a' stands twice"):
        parse_json('{"b": {"a": 1, "a": 2}}', "here")


@pytest.mark.parametrize(
    ("name", "expected"), [("a.jsonl", "jsonl"), ("a.JSONL.GZ", "jsonl"), ("a.b.csv", "csv"), ("a", ""), ("a.gz", "")]
)
def test_a_format_is_the_end_of_a_name_before_gz(name: str, expected: str) -> None:
    assert format_of(Path(name)) == expected
