"""The model that the adapters' tests share."""

import pytest

from rank1_hf.reranker import Rank1


@pytest.fixture(scope="session")
def reranker() -> Rank1:
    """The embedded model, with a small budget, and little KV memory: there are passages that it cannot judge."""
    return Rank1(device="cpu", dtype="float32", max_new_tokens=8, decoding="kv_cache_tokens=512")


@pytest.fixture(scope="session")
def thinking() -> Rank1:
    """The embedded model, with a budget within which it closes its chains."""
    return Rank1(device="cpu", dtype="float32", max_new_tokens=32)
