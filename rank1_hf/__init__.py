"""rank1 reasoning rerankers on plain Hugging Face Transformers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rank1_hf.chains.rules import EarlyExit, Rule
    from rank1_hf.decoding.options import DecodingOptions
    from rank1_hf.integrations.official import rank1
    from rank1_hf.models.loading import EMBEDDED_MODEL, CheckpointError
    from rank1_hf.prompts.markers import ContractError, Markers
    from rank1_hf.prompts.pair_text import PairError
    from rank1_hf.reranker import Rank1
    from rank1_hf.reranking.score_cache import CacheError, ScoreCache
    from rank1_hf.results.judgment import Interrupted, Judgment
    from rank1_hf.tracing import Observer, Trace, TraceOptions
    from rank1_hf.tracing.top_k_exit import TopKExit
    from rank1_hf.viewing.judgments import Judgments


__version__ = "0.1.0"

# torch and transformers take seconds to import, so each name is imported when it is first used.
_HOMES = {
    "CacheError": "rank1_hf.reranking.score_cache",
    "CheckpointError": "rank1_hf.models.loading",
    "ContractError": "rank1_hf.prompts.markers",
    "DecodingOptions": "rank1_hf.decoding.options",
    "EMBEDDED_MODEL": "rank1_hf.models.loading",
    "EarlyExit": "rank1_hf.chains.rules",
    "Interrupted": "rank1_hf.results.judgment",
    "Judgment": "rank1_hf.results.judgment",
    "Judgments": "rank1_hf.viewing.judgments",
    "Markers": "rank1_hf.prompts.markers",
    "Observer": "rank1_hf.tracing",
    "PairError": "rank1_hf.prompts.pair_text",
    "Rank1": "rank1_hf.reranker",
    "Rule": "rank1_hf.chains.rules",
    "ScoreCache": "rank1_hf.reranking.score_cache",
    "TopKExit": "rank1_hf.tracing.top_k_exit",
    "Trace": "rank1_hf.tracing",
    "TraceOptions": "rank1_hf.tracing",
    "rank1": "rank1_hf.integrations.official",
}

__all__ = [
    "EMBEDDED_MODEL",
    "CacheError",
    "CheckpointError",
    "ContractError",
    "DecodingOptions",
    "EarlyExit",
    "Interrupted",
    "Judgment",
    "Judgments",
    "Markers",
    "Observer",
    "PairError",
    "Rank1",
    "Rule",
    "ScoreCache",
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
