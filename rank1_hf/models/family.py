"""The rank1 family: the shapes of its published checkpoints, for planning without a network.

The figures are those of the base models' published configurations (Qwen2.5, Llama 3.1, Mistral Small 2501). What a
checkpoint's own config says is what counts when it is loaded.
"""

from typing import Any

_QWEN: dict[str, Any] = {"model_type": "qwen2", "max_position_embeddings": 131_072}
_QWEN_SMALL: dict[str, Any] = {
    "model_type": "qwen2",
    "max_position_embeddings": 32_768,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_QWEN_7B = _QWEN | {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
_QWEN_14B = _QWEN | {
    "hidden_size": 5120,
    "intermediate_size": 13_824,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152_064,
}
_QWEN_32B = _QWEN_14B | {"intermediate_size": 27_648, "num_hidden_layers": 64}
_LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "max_position_embeddings": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
_MISTRAL_24B: dict[str, Any] = {
    "model_type": "mistral",
    "max_position_embeddings": 32_768,
    "hidden_size": 5120,
    "intermediate_size": 32_768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131_072,
}

FAMILY: dict[str, dict[str, Any]] = {
    "jhu-clsp/rank1-0.5b": _QWEN_SMALL
    | {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "jhu-clsp/rank1-1.5b": _QWEN_SMALL
    | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "jhu-clsp/rank1-3b": _QWEN_SMALL
    | {
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "jhu-clsp/rank1-7b": _QWEN_7B,
    "jhu-clsp/rank1-llama3-8b": _LLAMA_8B,
    "jhu-clsp/rank1-14b": _QWEN_14B,
    "jhu-clsp/rank1-mistral-2501-24b": _MISTRAL_24B,
    "jhu-clsp/rank1-32b": _QWEN_32B,
}
"""Hub name -> the arguments of its config, smallest first."""

RELATIVES: dict[str, dict[str, Any]] = {"songtingyu/limrank": _QWEN_7B}
"""Checkpoints of others that were trained for rank1's prompt, markers and answers, and run as rank1's do.

limrank: SighingSnow/limrank, `rerank-exps`; Qwen2.5-7B with `<think>` and `</think>` as added tokens.
"""

AWQ_FAMILY: dict[str, dict[str, Any]] = {
    f"{name}-awq": FAMILY[name] | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    for name in (
        "jhu-clsp/rank1-7b",
        "jhu-clsp/rank1-llama3-8b",
        "jhu-clsp/rank1-14b",
        "jhu-clsp/rank1-mistral-2501-24b",
        "jhu-clsp/rank1-32b",
    )
}
"""The checkpoints with AWQ weights, in the shapes of their originals."""

MEMBERS = FAMILY | AWQ_FAMILY | RELATIVES
"""All of these."""


def full_name(name: str) -> str | None:
    """The hub name of a member that is named in any case, whole or without its owner ("rank1-7b"); None: it is none."""
    asked = name.lower()
    return next((member for member in MEMBERS if asked in (member.lower(), member.lower().partition("/")[2])), None)
