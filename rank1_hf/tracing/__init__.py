"""Watching the decode loop: observers, traces, the belief curve and the layer lens.

It listens, and decoding knows nothing of it. Read `observer.py` first; `trace.py` says what a trace is, and `lens.py`
what the layers thought of the verdict.
"""

from rank1_hf.chain import BeliefPoint
from rank1_hf.decoding.watcher import Needs, Reading, Scores
from rank1_hf.tracing.lens import Lens
from rank1_hf.tracing.observer import Observer, WatchedPair
from rank1_hf.tracing.trace import Trace, TraceOptions, read_traces, to_arrow, to_pandas, write_traces

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
