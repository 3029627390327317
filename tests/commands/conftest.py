"""What the tests of the commands share."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from rank1_hf import reranker
from rank1_hf.models import identity
from tests.evaluation.stub import Stub, write_collection


@pytest.fixture(autouse=True)
def our_program_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an activated environment, so that what is printed to paste does not depend on where the tests run."""
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)


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
