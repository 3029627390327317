"""What the tests of the loop share: small models, requests, and what the slow way to decode says of them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rank1_hf.decoding.requests import Decoded, Request
from tests.decoding.oracle import SHAPES, Oracle

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def case(checkpoint: Checkpoint) -> Callable[[str], tuple[Path, Oracle, list[Request], list[Decoded]]]:
    """`case(shape)`: the checkpoint, its oracle, requests, and what the oracle says of them."""

    @cache
    def build(shape: str) -> tuple[Path, Oracle, list[Request], list[Decoded]]:
        folder = checkpoint(shape.split("-")[0], **SHAPES[shape])
        oracle = Oracle.load(folder)
        requests = oracle.requests()
        return folder, oracle, requests, [oracle.decode(request) for request in requests]

    return build
