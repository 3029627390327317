"""A stand-in for the model hub on this machine: it serves folders as repositories and notes what it was asked for."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """The server.

    Args:
        repositories: (name, revision) -> what it holds.

    Attributes:
        endpoint: what HF_ENDPOINT must say.
        asked: the path and the authorization of each request for a file.
    """

    def __init__(self, repositories: Mapping[tuple[str, str], Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        match [*unquote(urlsplit(self.path).path).strip("/").split("/"), "", ""]:
            case ["api", "models", owner, name, "revision", revision, *_]:
                self._send_list(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision, *_]:
                self._send_list(f"{owner}/{name}", revision, whole=False)
            case ["api", "models", owner, name, *_]:
                self._send_list(f"{owner}/{name}", "main")
            case [owner, name, "resolve", revision, *file]:
                self.server.asked.append((self.path, self.headers["Authorization"]))
                self._send_file(f"{owner}/{name}", revision, "/".join(filter(None, file)))
            case _:
                self._send(404, b"")

    def _send_list(self, name: str, revision: str, *, whole: bool = True) -> None:
        folder = self._folder(name, revision)
        if folder is None:
            return self._send(404, b"", "RepoNotFound")
        paths = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        files = [
            {"type": "file", "path": name, "rfilename": name, "size": file.stat().st_size, "oid": _digest(name)}
            for file in paths
            for name in [file.relative_to(folder).as_posix()]
        ]
        answer = {"id": name, "sha": _digest(f"{name}/{revision}"), "siblings": files} if whole else files
        return self._send(200, json.dumps(answer).encode())

    def _send_file(self, name: str, revision: str, file: str) -> None:
        folder = self._folder(name, revision)
        if folder is None:
            self._send(404, b"", "RepoNotFound")
        elif not (folder / file).is_file():
            self._send(404, b"", "EntryNotFound")
        else:
            self._send(200, (folder / file).read_bytes(), commit=_digest(f"{name}/{revision}"))

    def _folder(self, name: str, revision: str) -> Path | None:
        """By a branch, or by a commit."""
        for (known, branch), folder in self.server.repositories.items():
            if known == name and revision in (branch, _digest(f"{name}/{branch}")):
                return folder
        return None

    def _send(self, status: int, content: bytes, error: str = "", commit: str = "") -> None:
        self.send_response(status)
        found = {"X-Error-Code": error, "X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        for header, value in {**found, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
