"""Judgments that no model made, with traces or without."""

import math
import random
import re
from typing import Any
from zlib import crc32

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.results.judgment import Judgment, sigmoid
from rank1_hf.results.trace import Trace

_SENTENCES = (
    "the query asks about wings and lift . this passage describes how pressure under a wing carries the aircraft . "
    "it does not name the weight directly , but the explanation is on the topic . so it answers what was asked ."
)


def chain_text(seed: int, n_words: int = 30) -> str:
    """Some words that look like a chain."""
    draw, words = random.Random(seed), _SENTENCES.split()
    return "\n" + re.sub(r" ([.,])", r"\1", " ".join(draw.choice(words) for _ in range(n_words))) + "."


def judgment(index: int, log_odds: float = 2.0, chain: str = "\nIt names wings.", **fields: Any) -> Judgment:
    known: dict[str, Any] = {
        "score": sigmoid(log_odds),
        "label": log_odds > 0,
        "n_prompt_tokens": 40,
        "n_chain_tokens": len(chain.split()),
        "ended": "closed",
        "truncated": False,
    }
    return Judgment(index=index, log_odds=log_odds, chain=chain, **(known | fields))


def trace_of(index: int, texts: list[str], log_odds: float = 2.0, **fields: Any) -> Trace:
    """A trace in which equal texts have equal ids."""
    n = len(texts)
    draw = random.Random(index)
    margins = [draw.expovariate(0.4) for _ in range(n)]
    shares = [math.exp(-margin) for margin in margins]  # of the runner-up
    sentence_ends = [place + 1 for place, text in enumerate(texts) if text.strip() in (".", "!", "?")] or [n // 2]
    known: dict[str, Any] = {
        "token_ids": [crc32(text.encode("utf-8", "backslashreplace")) for text in texts],
        "logprobs": [-math.log(1 + share) for share in shares],
        "alternative_ids": [number + 100 for number in range(n)],
        "alternative_texts": [draw.choice([" a", " other", ".", " not", "\n"]) for _ in range(n)],
        "margins": margins,
        "entropies": [2.5 * share for share in shares],
        "seconds": [0.01 * (place + 1) for place in range(n)],
        "belief": [
            BeliefPoint(place, log_odds * share**0.5 + draw.uniform(-1.5, 1.5) * (1 - share))
            for place, share in ((place, place / max(n, 1)) for place in [0, *sentence_ends])
        ],
        "lens": [log_odds * (layer / 8) ** 2 + draw.uniform(-0.3, 0.3) for layer in range(9)],
        "attention": None,
        "prompt_texts": [],
    }
    return Trace(index=index, texts=texts, **(known | fields))


def tokens(text: str) -> list[str]:
    """Words with the space before them, and marks: about as a tokenizer does."""
    return re.findall(r"\s*[\w']+|\s*[^\w\s]|\s+\Z", text)


def traced(index: int, log_odds: float = 2.0, chain: str = "\nIt names wings.", **fields: Any) -> Judgment:
    """A judgment with a trace of about what a model would leave. `prompt`: the prompt to spread attention over."""
    prompt = tokens(fields.pop("prompt", ""))
    draw = random.Random(index)
    weights = [draw.expovariate(1.0) ** 2 for _ in prompt]
    attention = [weight / sum(weights) for weight in weights] if prompt else None
    trace = trace_of(index, tokens(chain), log_odds, attention=attention, prompt_texts=prompt)
    return judgment(index, log_odds, chain, trace=trace, **({"n_chain_tokens": len(trace.texts)} | fields))


HOSTILE = (
    '</script><script>window.hacked = true</script><img src=x onerror="window.hacked = true"><!-- <script> '
    "\u202eright to left\u202c \x1b[31m & &lt;b&gt; \u2028 \x00 ]]> {{7*7}} $policy ${data} </div></details>"
)
"""A passage that tries what passages may try."""
