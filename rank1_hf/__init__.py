"""rank1 reasoning rerankers on plain Hugging Face Transformers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rank1_hf.chain import EarlyExit, Rule
    from rank1_hf.contest import TopKExit
    from rank1_hf.loading import CheckpointError
    from rank1_hf.markers import ContractError, Markers
    from rank1_hf.official import rank1
    from rank1_hf.prompt import PairError
    from rank1_hf.reranker import Rank1
    from rank1_hf.results import Interrupted, Judgment, Judgments
    from rank1_hf.tracing import Observer, Trace, TraceOptions

__version__ = "0.1.0"

# torch and transformers take seconds to import, so each name is imported when it is first used.
_HOMES = {
    "CheckpointError": "rank1_hf.loading",
    "ContractError": "rank1_hf.markers",
    "EarlyExit": "rank1_hf.chain",
    "Interrupted": "rank1_hf.results",
    "Judgment": "rank1_hf.results",
    "Judgments": "rank1_hf.results",
    "Markers": "rank1_hf.markers",
    "Observer": "rank1_hf.tracing",
    "PairError": "rank1_hf.prompt",
    "Rank1": "rank1_hf.reranker",
    "Rule": "rank1_hf.chain",
    "TopKExit": "rank1_hf.contest",
    "Trace": "rank1_hf.tracing",
    "TraceOptions": "rank1_hf.tracing",
    "rank1": "rank1_hf.official",
}

__all__ = [
    "CheckpointError",
    "ContractError",
    "EarlyExit",
    "Interrupted",
    "Judgment",
    "Judgments",
    "Markers",
    "Observer",
    "PairError",
    "Rank1",
    "Rule",
    "TopKExit",
    "Trace",
    "TraceOptions",
    "rank1",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
