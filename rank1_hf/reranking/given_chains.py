"""Chains that a caller gives instead of having the model think: checked, and as the engine takes them."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from rank1_hf.chains.chain import ChainRules
from rank1_hf.inputs.values import token_ids
from rank1_hf.prompts.pair_text import PairError, checked_text
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.results.judgment import Judgment
from rank1_hf.results.trace import Trace
from rank1_hf.viewing.texts import with_given_chain

GivenChain: TypeAlias = str | Sequence[int]
"""What stands behind `<think>`: a text, as `Judgment.chain` is, or token ids, as `Trace.token_ids` are; no markers.

A text is tokenized anew, perhaps into other tokens than the model generated: only ids replay a chain exactly."""

Close = Literal["given", "forced"]
"""How a given chain is closed. given: `</think>` stands right behind it, as where a model has closed it itself. forced:
as the official code closes a chain that ran out of tokens, cut after its last sentence, with a line break before
`</think>`."""


@dataclass(frozen=True, slots=True)
class GivenChains:
    """A chain for each pair of a call.

    Attributes:
        chains: by the pair's place.
        close: how each is closed; None: it is not, and the model thinks on.

    Raises:
        ValueError: `close` is none.
    """

    chains: Sequence[GivenChain]
    close: Close | None = None

    def __post_init__(self) -> None:
        if self.close not in (None, "given", "forced"):
            raise ValueError(f"close must be 'given' or 'forced', not {self.close!r}")

    @classmethod
    def of(cls, chains: Iterable[GivenChain], close: Close | None, *, n_pairs: int) -> Self:
        """Those of a call, by their places, whatever holds them.

        Raises:
            TypeError: they are not in order, or none at all.
            ValueError: there are not as many as pairs, or `close` is none.
        """
        if isinstance(chains, Mapping | Set) or not isinstance(chains, Iterable):
            raise TypeError(f"chains must be a list with one for each pair, not a {type(chains).__name__}")
        listed = list(chains)  # by place, which a pandas Series would look up by its labels
        if isinstance(chains, str) or len(listed) != n_pairs:
            n = "one text" if isinstance(chains, str) else len(listed)
            raise ValueError(f"there must be one chain for each of the {n_pairs} pairs, not {n}")
        return cls(listed, close)

    def ids(self, index: int, encoder: PromptEncoder, rules: ChainRules) -> tuple[int, ...]:
        """The token ids of a pair's chain, without a marker.

        Args:
            index: the pair's place.
            encoder: text to ids.
            rules: which ids the model knows, and which end its text.

        Raises:
            PairError: it is no chain.
        """
        chain: object = self.chains[index]
        close = encoder.markers.close
        if isinstance(chain, str):
            if close in chain:
                raise PairError(f"a chain is given without {close}; cut it there")
            return tuple(encoder.chain_ids(checked_text(chain, "the chain")))
        if isinstance(chain, Judgment | Trace):
            raise PairError("a chain is a text or token ids; give judgment.chain, or judgment.trace.token_ids")
        try:
            ids = tuple(token_ids("the chain given", chain, rules.vocab_size))
        except TypeError:
            raise PairError(f"the chain given must be a text, or a list of token ids, not {chain!r}") from None
        except ValueError as error:
            raise PairError(str(error)) from None
        if any(ids[at : at + len(encoder.close_ids)] == encoder.close_ids for at in range(len(ids))):
            raise PairError(f"a chain is given without {close}; cut it there")
        if not rules.eos.isdisjoint(ids):
            raise PairError(
                f"a chain ends before EOS; leave out {min(rules.eos.intersection(ids))}, and what is behind it"
            )
        return ids

    def as_given(self, judgment: Judgment, encoder: PromptEncoder) -> Judgment:
        """A pair's judgment, with its chain as the caller has written it; an error stays as it is."""
        chain = self.chains[judgment.index]
        if judgment.error is not None or not isinstance(chain, str):
            return judgment
        return with_given_chain(judgment, chain, encoder)
