"""A row: one pair while it is being decoded."""

from dataclasses import dataclass, field

from rank1_hf.chain import Chain
from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.speculation import PromptLookup


@dataclass(eq=False, slots=True)
class Row:
    """The request, the chain (what the context should be), the KV (how much of it the model has seen), and a lookup.

    `rewritten` are the parts of the context, [start, stop), that the chain's rules wrote and not the model.
    """

    request: Request
    chain: Chain
    kv: RowKV = field(default_factory=RowKV)
    lookup: PromptLookup = field(default_factory=PromptLookup)
    rewritten: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """How many tokens of the context the model has not seen: 1 for a row that decodes."""
        return len(self.chain.tokens) - self.kv.length

    def advance(self, token: int) -> int:
        """Give the chain its next token. Returns how many leading tokens of the context are as they were."""
        n_before = len(self.chain.tokens)
        unchanged = self.chain.advance(token)
        start, n_tokens = min(unchanged, n_before), len(self.chain.tokens)
        if start < n_before or start < n_tokens - 1:
            self.rewritten = [(first, min(stop, start)) for first, stop in self.rewritten if first < start]
            self.rewritten.append((start, n_tokens))
        return unchanged
