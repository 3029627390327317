"""What the engine is compared with: the plain loop, which test_plain.py compares with full forward passes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.models.loading import eos_ids
from rank1_hf.prompts.prompt import PromptEncoder
from tests import tiny_models

WORDS = sorted(set(tiny_models.TEXT.split()))

SHAPES = {
    "qwen2": {},
    "qwen2-tied": {"tie_word_embeddings": True, "close_scale": 1.0},
    "qwen2-no-groups": {"num_key_value_heads": 4},
    "qwen2-sliding-in-one-layer": {"sliding_window": 20, "max_window_layers": 1},
    "llama-one-kv-head": {"num_key_value_heads": 1, "num_hidden_layers": 3},
    "llama-wide-heads": {"head_dim": 48},
    "mistral-sliding": {"sliding_window": 33},
    "qwen2-repeats-itself": {"std": 0.06, "close_scale": 1.3, "seed": 1},
    "qwen2-says-eos": {"eos_scale": 3.0},
    "pieces": {"seed": 3},
    "sentencepiece": {},
}
"""Models that differ in what matters to the loop: the kind of checkpoint, then what is changed about it."""


@dataclass(frozen=True)
class Oracle:
    """A checkpoint with Transformers' own attention, and the encoder of its prompts."""

    model: PreTrainedModel
    encoder: PromptEncoder
    eos: frozenset[int]

    @classmethod
    def load(cls, folder: Path) -> "Oracle":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(model, PromptEncoder(tokenizer), eos_ids(model, tokenizer))

    @torch.inference_mode()
    def next_logits(self, ids: list[int]) -> torch.Tensor:
        """Of a fresh full forward pass."""
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()

    def plain(self) -> PlainDecoder:
        """The plain loop."""
        rules = self.encoder.chain_rules(self.eos)
        return PlainDecoder(self.model, rules, true_id=self.encoder.true_id, false_id=self.encoder.false_id)

    def decode(self, request: Request) -> Decoded:
        """One pair, by the plain loop."""
        return self.plain().decode(request)

    def decoder(self, folder: Path, *, rethinks: int = 0, **options: object) -> Decoder:
        """The decoder under test, on a model of its own."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        rules = self.encoder.chain_rules(self.eos)
        true_id, false_id = self.encoder.true_id, self.encoder.false_id
        options = DecodingOptions(**options)
        return Decoder(model, rules, true_id=true_id, false_id=false_id, rethinks=rethinks, options=options)

    def requests(self, n: int = 10, *, limit: int = 24) -> list[Request]:
        """Pairs of a few queries with passages of 0 to 100 words, so some prompts fill several pages and some none."""
        requests = []
        for i in range(n):
            begin = 7 * (i // 4) % len(WORDS)
            query = " ".join((WORDS * 2)[begin : begin + 5 + 20 * (i // 8 % 3)])
            start, length = (13 * i) % len(WORDS), (0, 3, 25, 60, 100)[i % 5]
            prompt = self.encoder.encode(query, " ".join((WORDS * 3)[start : start + length]))
            requests.append(Request(i, prompt.ids, prompt.n_shared, max(1, limit - i % 7)))
        return requests


def assert_same(decoded: list[Decoded], expected: list[Decoded]) -> None:
    """The same chains, token for token, and the same verdicts up to float32 rounding."""
    by_index = sorted(decoded, key=lambda result: result.index)
    assert [(d.index, list(d.thought), d.ended, d.error) for d in by_index] == [
        (e.index, list(e.thought), e.ended, e.error) for e in expected
    ]
    for ours, theirs in zip(by_index, expected, strict=True):
        assert abs(ours.true_logit - theirs.true_logit) < 1e-3
        assert abs(ours.false_logit - theirs.false_logit) < 1e-3
