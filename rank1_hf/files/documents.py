"""The documents of a run, on disk: a corpus is read once, front to back, and what the run asks for is kept by its id.

So any source that can be read front to back will do, and none is ever held in memory.
"""

import hashlib
import json
import sqlite3
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from rank1_hf.files.inputs import Document
from rank1_hf.inputs.textfiles import InputError, Skip, refuse


class DocumentStore:
    """Documents in an SQLite file that lives as long as this object does.

    Args:
        path: the file; one that is there is replaced.
        documents: the corpus.
        wanted: the ids that will be asked for.
        named: the ids that the digest is about.
        skip: called with each document that has the id of an earlier one and another content; the earlier one counts.

    Attributes:
        digest: SHA-256 over the named documents, in the corpus's order.
        n_kept: how many wanted documents there are.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        documents: Iterable[Document],
        *,
        wanted: Container[str],
        named: Container[str],
        skip: Skip = refuse,
    ) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._sha = hashlib.sha256()
        self._database = sqlite3.connect(path)
        try:
            self._fill(self._rows(documents, wanted, named))
            self._report_conflicts(skip)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise OSError(f"cannot keep the documents in {path}: {error}") from error
            raise
        self.digest = self._sha.hexdigest()

    def get(self, id_: str) -> Document | None:
        """A wanted document, or None where the corpus lacks it. Of several with the same id, the first one."""
        found = self._database.execute(
            "SELECT content FROM documents WHERE id = ? ORDER BY rowid LIMIT 1", (id_,)
        ).fetchone()
        return None if found is None else Document(*json.loads(found[0]))

    def close(self) -> None:
        """Delete the file."""
        self._database.close()
        self._path.unlink(missing_ok=True)

    def _fill(self, rows: Iterator[tuple[str, str, str]]) -> None:
        # A file that is not read after a crash need not survive one.
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
            "CREATE TABLE documents (id TEXT, content TEXT, place TEXT)"
        )
        self.n_kept = self._database.executemany("INSERT INTO documents VALUES (?, ?, ?)", rows).rowcount
        # Afterwards, since sorting once is faster than keeping an index in order.
        self._database.execute("CREATE INDEX by_id ON documents (id)")
        self._database.commit()

    def _report_conflicts(self, skip: Skip) -> None:
        repeated = self._database.execute(
            "SELECT id FROM documents GROUP BY id HAVING COUNT(*) > 1 ORDER BY MIN(rowid)"
        )
        for (id_,) in repeated:
            (first, place), *others = self._database.execute(
                "SELECT content, place FROM documents WHERE id = ? ORDER BY rowid", (id_,)
            )
            for content, where in others:
                if content != first:
                    skip(InputError(f"{where}: document {id_} with another content than at {place}, which counts"))

    def _rows(
        self, documents: Iterable[Document], wanted: Container[str], named: Container[str]
    ) -> Iterator[tuple[str, str, str]]:
        for document in documents:
            if document.id in named:
                # As ASCII: a lone surrogate, which is for the reranker to report, cannot be stored otherwise.
                content = json.dumps([document.text, document.title, document.id])
                self._sha.update(content.encode())
                if document.id in wanted:
                    yield document.id, content, document.where
