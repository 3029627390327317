"""What a decoder has done, for progress displays, logs and benchmarks."""

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """Counts since the decoder was made; `live_rows` is that of the last step. The tokens of given chains are drafts,
    all accepted.
    """

    steps: int = 0
    captured_steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    branches: int = 0
    branch_tokens: int = 0
    live_rows: int = 0
    preemptions: int = 0
    out_of_memory: int = 0
