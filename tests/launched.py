"""What each process of `test_processes.py` runs: `accelerate launch ... tests/launched.py FOLDER`."""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from rank1_hf import Interrupted, Rank1
from rank1_hf.commands import cli
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.reranking.processes import Processes
from tests.tiny_models import TEXT

PASSAGES = [line for line in TEXT.splitlines() if line]
PAIRS: list[Any] = [
    (query, passage) for query in ("what carries an aeroplane?", "what is bread?") for passage in PASSAGES
]
PAIRS += [(" ", "air"), PAIRS[3], ("what is bread?", "Bread. " * 60), PAIRS[0]]
"""Of two queries; a blank one, two that stand there twice and a long one."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=48, num_gpus=2)
    index = reranker._processes.index
    requests: list[Request] = []
    run = reranker.decoder.run

    def spy(incoming: Iterable[Request], **options: Any) -> Iterator[Decoded]:
        return run((requests.append(request) or request for request in incoming), **options)

    reranker.decoder.run = spy
    judgments = reranker.judge(PAIRS)
    arguments = [
        "rerank",
        "what is bread?",
        "--file",
        str(folder / "passages.jsonl"),
        "--max-new-tokens",
        "24",
        "--json",
    ]
    report: dict[str, Any] = {
        "judgments": [judgment.to_dict() for judgment in judgments],
        "decoded": [request.index for request in requests],
        "tokens": sum(len(request.prompt) for request in requests),
        "rank": [hit["corpus_id"] for hit in reranker.rank("what is bread?", PASSAGES, top_k=3)],
        "nothing": reranker.judge([]),
        "different": message_of(lambda: reranker.judge(PAIRS[: 3 + index])),
        "stream": message_of(lambda: reranker.judge(PAIRS, stream=True)),
        "command": outcome_of(arguments),
        "three": message_of(lambda: Processes(3, "cpu")),
    }

    def spoilt(incoming: Iterable[Request], error: BaseException, **options: Any) -> Iterator[Decoded]:
        yield next(iter(run(incoming, **options)))
        if index == 1:
            raise error

    reranker.decoder.run = lambda incoming, **options: spoilt(incoming, OSError("no disk"), **options)
    report["failure"] = message_of(lambda: reranker.judge(PAIRS))
    reranker.decoder.run = lambda incoming, **options: spoilt(incoming, KeyboardInterrupt(), **options)
    try:
        reranker.judge(PAIRS)
    except Interrupted as interrupted:
        report["interrupted"] = [judgment.index for judgment in interrupted.judgments]
    (folder / f"{index}.json").write_text(json.dumps(report), encoding="utf-8")
    if index == 1:
        os._exit(3)  # as if killed
    reranker.judge(PAIRS)


def outcome_of(arguments: list[str]) -> tuple[Any, str, str]:
    """The exit status, the standard output and the standard error of the console script."""
    status, sys.argv = None, ["rank1-hf", *arguments]
    shown, told = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(shown), redirect_stderr(told):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
    texts = []
    for stream in (shown, told):
        stream.seek(0)
        texts.append(stream.read())
    return status, *texts


def message_of(call: Any) -> str:
    try:
        call()
    except (OSError, RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
