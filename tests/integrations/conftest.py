"""The model that the adapters' tests share."""

import pytest

from rank1_hf.reranker import Rank1


@pytest.fixture(scope="session")
def reranker() -> Rank1:
    """The embedded model, with little KV memory, so that there are passages that it cannot judge."""
    return Rank1(device="cpu", dtype="float32", max_new_tokens=32, decoding="kv_cache_tokens=512")
