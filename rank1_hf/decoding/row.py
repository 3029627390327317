"""A row: one pair while it is being decoded."""

from dataclasses import dataclass, field

from rank1_hf.chain import Chain
from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.speculation import PromptLookup


@dataclass(eq=False, slots=True)
class Row:
    """The request, the chain (what the context should be), the KV (how much of it the model has seen), and a lookup."""

    request: Request
    chain: Chain
    kv: RowKV = field(default_factory=RowKV)
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def pending(self) -> int:
        """How many tokens of the context the model has not seen: 1 for a row that decodes."""
        return len(self.chain.tokens) - self.kv.length
