"""What the tests of the commands share."""

from pathlib import Path
from typing import Any

import pytest

from rank1_hf import reranker
from rank1_hf.models import identity
from tests.evaluation.stub import Stub, write_collection


@pytest.fixture(autouse=True)
def no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of models that exist nowhere reach the stand-ins for `Rank1`."""
    monkeypatch.setattr("rank1_hf.commands.model_options.check_available", lambda model, **source: False)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "collection")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Stands in for Rank1; `.options` are what it was loaded with."""
    stub: Any = Stub()

    def load(name: str | None = None, **options: Any) -> Stub:
        stub.name, stub.options = name, options
        return stub

    monkeypatch.setattr(reranker, "Rank1", load)
    monkeypatch.setattr(identity, "checkpoint_identity", str)
    return stub
