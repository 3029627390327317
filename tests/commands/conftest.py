"""What the tests of the commands share."""

import pytest


@pytest.fixture(autouse=True)
def no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of models that exist nowhere reach the stand-ins for `Rank1`."""
    monkeypatch.setattr("rank1_hf.commands.model_options.check_available", lambda model, **source: False)
