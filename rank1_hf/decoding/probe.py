"""Reads what watchers request besides the likeliest tokens off a step, for the watched rows only.

Hidden states come from hooks on the layers that are named, for the time of the step. Attention weights, which no fast
kernel gives, are computed from the queries and the KV cache, for the heads that are named.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.plan import ScheduledRow
from rank1_hf.decoding.watcher import NOTHING, Needs, Reading, Scores


@dataclass(frozen=True, slots=True)
class WatchedToken:
    """A token at which a watcher requests more.

    Attributes:
        position: where it stands in the step.
        logits: where its logits stand among the step's.
        kv: its row's.
        n_context: how many tokens it sees, itself included.
        needs: what is wanted.
    """

    position: int
    logits: int
    kv: RowKV
    n_context: int
    needs: Needs


class Probe:
    """What is wanted of one step, and then what was found.

    Args:
        watched: in the order of the step; at least one.
        cache: where the rows keep their KV.
    """

    def __init__(self, watched: Sequence[WatchedToken], cache: KVCache) -> None:
        self._watched = {token.logits: token for token in watched}
        self._cache = cache
        self._logits: Tensor | None = None
        self._scores: dict[int, Scores] = {}
        self._hidden: dict[int, dict[int, Tensor]] = {token.logits: {} for token in watched}
        self._attention: dict[int, dict[tuple[int, int], Tensor]] = {token.logits: {} for token in watched}

    @classmethod
    def of(cls, rows: Sequence[ScheduledRow], cache: KVCache) -> "Probe | None":
        """The probe of a step whose rows' KV is extended already; None where nothing is requested."""
        watched: list[WatchedToken] = []
        n_tokens = n_logits = 0
        for part in rows:
            n_tokens += part.n_fed
            if not part.needs_logits:
                continue
            n_of_row = len(part.draft) + 1
            needs = part.row.needs(part.draft)
            if needs != NOTHING:
                watched += (
                    WatchedToken(
                        n_tokens - back,
                        n_logits + n_of_row - back,
                        part.row.kv,
                        part.row.kv.length - back + 1,
                        needs,
                    )
                    for back in range(n_of_row, 0, -1)
                )
            n_logits += n_of_row
        return cls(watched, cache) if watched else None

    @contextmanager
    def listening(self, model: PreTrainedModel) -> Iterator[None]:
        """Record the outputs of the requested layers."""
        layers = model.base_model.layers
        with ExitStack() as hooks:
            for index in frozenset().union(*(token.needs.hidden_states for token in self._watched.values())):
                hooks.enter_context(_hooked(layers[index], partial(self._keep_hidden, index)))
            yield

    def attended(self, layer: int, queries: Tensor, scaling: float, window: int | None) -> None:
        """A layer attends: [tokens, heads, head dim], rotated; its keys are in the KV cache."""
        for token in self._watched.values():
            heads = sorted(head for of_layer, head in token.needs.attention if of_layer == layer)
            if heads:
                keys, _ = self._cache.read(token.kv, layer, token.n_context)
                weights = _attention_weights(queries[token.position], keys, heads, scaling, window)
                self._attention[token.logits].update(zip(((layer, head) for head in heads), weights, strict=True))

    def found(self, logits: Tensor) -> None:
        """The step's logits: [tokens, vocabulary], float32."""
        self._logits = logits
        wanted = [at for at, token in self._watched.items() if token.needs.scores]
        if wanted:
            self._scores = dict(zip(wanted, _scores(logits[wanted]), strict=True))

    def reading(self, at: int) -> Reading | None:
        """What was found behind the token whose logits stand at this place among the step's."""
        token = self._watched.get(at)
        if token is None:
            return None
        assert self._logits is not None  # the step has been run
        return Reading(
            scores=self._scores.get(at),
            logits=self._logits[at] if token.needs.logits else None,
            hidden_states=self._hidden[at],
            attention=self._attention[at],
            kv=partial(self._kv, token) if token.needs.kv else None,
        )

    def _keep_hidden(self, layer: int, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        for at, token in self._watched.items():
            if layer in token.needs.hidden_states:
                self._hidden[at][layer] = states[0, token.position].clone()

    def _kv(self, token: WatchedToken, layer: int) -> tuple[Tensor, Tensor]:
        return self._cache.read(token.kv, layer, token.n_context)


@contextmanager
def _hooked(layer: nn.Module, keep: Callable[[Tensor | tuple[Tensor, ...]], None]) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda module, args, output: keep(output))
    try:
        yield
    finally:
        handle.remove()


def _attention_weights(query: Tensor, keys: Tensor, heads: list[int], scaling: float, window: int | None) -> Tensor:
    """One token's attention: query [all heads, head dim], keys [KV heads, context, head dim] to [heads, context]."""
    group = len(query) // len(keys)
    chosen = keys[[head // group for head in heads]].float()
    scores = (chosen @ query[heads].float()[..., None])[..., 0] * scaling
    if window is not None:
        scores[:, : max(scores.shape[1] - window, 0)] = -math.inf
    return scores.softmax(-1)


def _scores(logits: Tensor) -> list[Scores]:
    """[tokens, vocabulary]; all tokens at once, so that the device is waited for once."""
    best, ids = logits.topk(2)
    logprobs = logits.log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    columns = (ids.float(), logprobs.amax(-1), best[:, 0] - best[:, 1], entropy)  # every id is exact in float32
    return [
        Scores(int(token), logprob, int(alternative), margin, nats)
        for token, alternative, logprob, margin, nats in torch.column_stack(columns).tolist()
    ]
