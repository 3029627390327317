"""Observers of the decode loop, traces, the belief curve and the layer lens. Read `observer.py` first.

The loop notifies observers and imports nothing of this folder. `tracer.py` records the traces of
`rank1_hf.results.trace`, `lens.py` reads the verdict from every layer, and `rank1_hf.viewing` renders both.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rank1_hf.chains.beliefs import BeliefPoint
    from rank1_hf.decoding.watcher import Needs, Reading, Scores
    from rank1_hf.results.trace import Trace, read_traces, to_arrow, to_pandas, write_traces
    from rank1_hf.tracing.lens import Lens
    from rank1_hf.tracing.observer import Observer, WatchedPair
    from rank1_hf.tracing.tracer import TraceOptions

# Observers need torch, which `rank1-hf --help` should not wait for.
_HOMES = {
    "BeliefPoint": "rank1_hf.chains.beliefs",
    "Lens": "rank1_hf.tracing.lens",
    "Needs": "rank1_hf.decoding.watcher",
    "Observer": "rank1_hf.tracing.observer",
    "Reading": "rank1_hf.decoding.watcher",
    "Scores": "rank1_hf.decoding.watcher",
    "Trace": "rank1_hf.results.trace",
    "TraceOptions": "rank1_hf.tracing.tracer",
    "WatchedPair": "rank1_hf.tracing.observer",
    "read_traces": "rank1_hf.results.trace",
    "to_arrow": "rank1_hf.results.trace",
    "to_pandas": "rank1_hf.results.trace",
    "write_traces": "rank1_hf.results.trace",
}

__all__ = [
    "BeliefPoint",
    "Lens",
    "Needs",
    "Observer",
    "Reading",
    "Scores",
    "Trace",
    "TraceOptions",
    "WatchedPair",
    "read_traces",
    "to_arrow",
    "to_pandas",
    "write_traces",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
