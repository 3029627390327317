"""The judgments in a score cache, by everything that decides them: a change of any of it finds nothing."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from rank1_hf import __version__
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import FIELDS
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.prompt import Prompt
from rank1_hf.reranking.as_loaded import AsLoaded
from rank1_hf.reranking.score_cache import ScoreCache
from rank1_hf.results.judgment import Judgment, sigmoid

RULES = 2
"""The version of what makes a judgment of a prompt: to be raised whenever the same prompt may get another one."""

_NOT_IN_KEY = {"batch_size", "kv_cache_tokens", "gpu_memory_utilization", "step_overhead_tokens", "overlap"}
"""Decoding options that follow the memory and the load, not the pair. In reproducible mode they change no bit, but for
the batch size, which is in the key there; else they may change rounding in 16 bits, as other pairs in the batch do."""


class CachedJudgments:
    """What one call may find in a cache, and puts there.

    Args:
        cache: the file.
        facts: what decides a judgment besides its prompt and its budget, as JSON; see `deciding_facts`.
        encoder: says how long a chain may be.
        loaded: says whether the model is still what the facts say.
    """

    def __init__(self, cache: ScoreCache, facts: Mapping[str, Any], encoder: PairEncoder, loaded: AsLoaded) -> None:
        self._cache, self._encoder, self._loaded = cache, encoder, loaded
        self._facts = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())

    def get(self, index: int, prompt: Prompt) -> Judgment | None:
        """The judgment of a prompt, or None where there is none, or the model has got a hook since the call began."""
        if self._loaded.has_hooks:
            return None
        found = self._cache.get(self._key(prompt))
        if found is None:
            return None
        log_odds = found["log_odds"]
        return Judgment(
            index=index,
            score=sigmoid(log_odds),
            log_odds=log_odds,
            label=log_odds > 0,
            chain=found["chain"],
            n_prompt_tokens=len(prompt.ids),
            n_chain_tokens=found["n_chain_tokens"],
            ended=found["ended"],
            truncated=prompt.truncated,
            cached=True,
        )

    def put(self, prompt: Prompt, judgment: Judgment) -> None:
        """Keep a judgment. One without a score is not kept, so that its pair is tried again."""
        if judgment.error is None and math.isfinite(judgment.log_odds) and not self._loaded.has_hooks:
            fields = {name: getattr(judgment, name) for name in ("log_odds", "chain", "n_chain_tokens", "ended")}
            self._cache.put(self._key(prompt), fields)

    def _key(self, prompt: Prompt) -> bytes:
        digest = self._facts.copy()
        digest.update(json.dumps([self._encoder.chain_limit(len(prompt.ids)), prompt.ids]).encode())
        return digest.digest()


def deciding_facts(
    weights: str,
    model: PreTrainedModel,
    decoder: Decoder | PlainDecoder,
    encoder: PairEncoder,
    *,
    batch_size: int | None,
) -> dict[str, Any]:
    """What decides a judgment besides its prompt and its budget, to the last bit.

    Args:
        weights: which they are; see `weights_fingerprint`.
        model: as it is loaded.
        decoder: runs it.
        encoder: pairs to prompts.
        batch_size: of the call; None: the decoder's own. In reproducible mode it is how wide all steps are.
    """
    prompts, options = encoder.encoder, None if isinstance(decoder, PlainDecoder) else decoder.options
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it lies, and who wrote it
        config.pop(name, None)
    return {
        "rules": [RULES, __version__],
        "weights": weights,
        "config": json.loads(json.dumps(config, default=str)),
        "tokenizer": prompts.fingerprint,
        "markers": asdict(prompts.markers),
        "answers": [prompts.true_id, prompts.false_id],
        "close": [list(decoder.rules.close), sorted(decoder.rules.eos)],
        "rethinks": decoder.rethinks,
        "min_thinking_tokens": encoder.min_thinking_tokens,
        "context": encoder.context,
        "dtype": str(model.dtype),
        "decoding": None
        if options is None
        else {name: getattr(options, name) for name in sorted({*FIELDS}.difference(_NOT_IN_KEY))},
        "reproducible": (batch_size or options.batch_size) if options is not None and options.reproducible else None,
        "devices": sorted({_device(parameter.device) for parameter in model.parameters()}),
        "libraries": [torch.__version__, transformers.__version__],
    }


def _device(device: torch.device) -> str:
    """What computes there: other hardware, or another number of threads, rounds differently."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return device.type
