"""What a judgment is of: recognised by a digest, so that `resume_from` takes no other pair's."""

import hashlib
import json
from typing import Any

from transformers import LogitsProcessorList

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.prompt import Prompt
from rank1_hf.reranking.call_options import CallOptions


class Fingerprints:
    """The fingerprints of one call's pairs: digests of the prompt and of what decides the chain behind it.

    Unlike the key of a score cache they do not cover the bytes of the weights, but the model's name and config; nor the
    switches of the engine, so that another engine can go on with a chain.

    Args:
        decoder: runs the model.
        encoder: says how long a chain may be.
        options: of the call. Of a rule or a logits processor its type counts, and its numbers and texts.
    """

    def __init__(self, decoder: Decoder | PlainDecoder, encoder: PairEncoder, options: CallOptions) -> None:
        self._encoder, self._options = encoder, options
        prompts, given = encoder.encoder, options.given
        facts = {
            "config": decoder.model.config.to_dict(),
            "dtype": str(decoder.model.dtype),
            "answers": [prompts.true_id, prompts.false_id],
            "close": [decoder.rules.close, sorted(decoder.rules.eos)],
            "rethinks": decoder.rethinks,
            "min_thinking_tokens": encoder.min_thinking_tokens,
            "think": options.think,
            "rule": _described(options.rule),
            "trace": repr(options.traced),
            "given": None if given is None else [given.close],
        }
        self._facts = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())

    def of(self, index: int, prompt: Prompt, given: tuple[int, ...] = ()) -> str:
        """The fingerprint of a pair.

        Args:
            index: its place, by which it may have a logits processor.
            prompt: its prompt.
            given: the ids of the chain that the caller gave.
        """
        processor, limit = self._options.processor(index), self._encoder.chain_limit(len(prompt.ids))
        digest = self._facts.copy()
        digest.update(json.dumps([prompt.ids, prompt.truncated, limit, given, _described(processor)]).encode())
        return digest.hexdigest()[:32]


def _described(steering: object) -> Any:  # noqa: ANN401
    """A rule or a logits processor, as far as JSON can say what it is."""
    if isinstance(steering, LogitsProcessorList):
        return [*map(_described, steering)]
    fields = getattr(steering, "__dict__", {})
    plain = {name: value for name, value in fields.items() if isinstance(value, str | int | float)}
    return [type(steering).__module__, type(steering).__qualname__, sorted(plain.items())]
