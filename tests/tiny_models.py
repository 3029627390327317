"""Tiny random-weight checkpoints of every family, built in seconds and without any download.

The tokenizers are trained here, on `TEXT`, in the manner of the real ones: their normalizers, pre-tokenizers, special
tokens and post-processors. The models have two or three layers of random weights, large enough that greedy chains
wander instead of repeating one token, and a `</think>` that is likely enough for some chains to close themselves.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

TEXT = """\
Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.
Query: how do wings carry an aeroplane through thin air?
Passage: The wing of an aeroplane is carried by the pressure of the air below it, which is higher than above it.
The query is about wings. The passage names wings and pressure, so the answer is true and not false.
The query asks for rivers; the passage speaks of the moon, the stars, and 27 ships. So the answer is false.
Wait, is that right? Let me read the passage again! It says that heat flows from the warm plate to the cold one.
Okay, so I need to determine if the passage is relevant. It does not mention the query, so it is not relevant.
A boundary layer grows along the plate, and the flow turns from smooth to rough where the speed is high enough.
Every river ends in a sea, every sea is salt, and every cloud that stands over it comes back as rain, snow or hail.
Bread needs flour, water, salt, and time: mix them, wait for 12 hours, shape the loaf, bake it at 230 degrees.
Once upon a time there was a king who had three daughters; the youngest, she would say, was worth all the others.
The question is true or false. A true answer, a false answer, a false friend, a true story, true love, false alarm.
"""
"""What the tokenizers are trained on."""

THINK, CLOSE = "<think>", "</think>"


def prompt_of(query: str, passage: str) -> str:
    """The prompt contract, spelled out."""
    return (
        "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
        f"Query: {query}\n"
        f"Passage: {passage}\n"
        "<think>"
    )


_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PATTERN = _QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TOKENIZERS = ("qwen2", "llama", "mistral", "pieces", "sentencepiece")
"""Kinds of tokenizers:

qwen2: byte-level BPE, NFC, no BOS; <think> and </think> are added tokens, <tool_call> an added one that is not special.
llama: byte-level BPE in the manner of Llama 3, with a BOS from its post-processor.
mistral: byte-level BPE in the manner of Tekken, with a BOS.
pieces: as qwen2, but <think> and </think> are ordinary text of several tokens.
sentencepiece: BPE over characters with byte fallback, spaces as "▁", one put before the first word, with a BOS.
"""

BYTE_LEVEL = ("qwen2", "llama", "mistral", "pieces")
"""The kinds whose ids decode to exactly the text they came from (after NFC, for those that normalize)."""

_ARCHITECTURES: dict[str, type[PretrainedConfig]] = {
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "pieces": Qwen2Config,
    "sentencepiece": LlamaConfig,
}


def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one of the kinds in `TOKENIZERS`; the same every time."""
    if kind == "sentencepiece":
        return _wrapped(_sentencepiece(), bos="<s>", eos="</s>", unk="<unk>", added=[])
    if kind == "llama":
        return _wrapped(
            _byte_level(_LLAMA3_PATTERN, ignore_merges=True),
            bos="<|begin_of_text|>",
            eos="<|end_of_text|>",
            added=["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        )
    if kind == "mistral":
        return _wrapped(_byte_level(_TEKKEN_PATTERN), bos="<s>", eos="</s>", unk="<unk>", added=["[INST]", "[/INST]"])
    return _wrapped(
        _byte_level(_QWEN2_PATTERN, normalizer=normalizers.NFC()),
        eos="<|endoftext|>",
        added=["<|im_start|>", "<|im_end|>"],
        plain_added=["<tool_call>", "</tool_call>"],
        think=kind != "pieces",
    )


def build_model(kind: str, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A float32 causal LM with random weights, in eval mode.

    Args:
        kind: one of `TOKENIZERS`; says the architecture (Qwen2, Llama or Mistral).
        tokenizer: says the vocabulary.
        seed: of the weights; other seeds think other chains.
        options: see `_config` and `_init_weights`; the rest goes to the config as it is: `num_key_value_heads`,
            `tie_word_embeddings`, `sliding_window`, `layer_types`, `head_dim`, `max_position_embeddings`, ...
    """
    init = {name: options.pop(name) for name in ("std", "close_scale", "eos_scale", "plain_chains") if name in options}
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(_config(kind, tokenizer, **options), dtype=torch.float32)
    _init_weights(model, tokenizer, **init)
    return model.eval()


def save_checkpoint(folder: Path, kind: str, *, seed: int = 0, tokenizer: str | None = None, **options: Any) -> Path:
    """Write a checkpoint folder: random weights of `kind` with the tokenizer of that kind, or of another."""
    fast = build_tokenizer(tokenizer or kind)
    fast.save_pretrained(folder)
    build_model(kind, fast, seed=seed, **options).save_pretrained(folder)
    return folder


def save_awq_checkpoint(source: Path, awq: Path, plain: Path, *, group: int = 32) -> None:
    """Write a checkpoint's weights in AWQ's format, and written out again as what they stand for there.

    The GEMM format of Lin et al. 2023 and AutoAWQ: each group of `group` weights of an output has a float16 scale and a
    4-bit zero point; eight 4-bit numbers of neighbouring outputs share an int32, in the order of `_AWQ_ORDER`.

    Args:
        source: a checkpoint folder, in one file.
        awq: gets the 4-bit numbers, in float16 otherwise.
        plain: gets the weights (number - zero) * scale, in float16.
        group: divides every layer's inputs.
    """
    packed, written = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        packed[name] = written[name] = weight.half()
        if not name.endswith("_proj.weight"):
            continue
        grouped = weight.float().unflatten(1, (-1, group))
        low, high = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-4).half()
        zero = (-low / scale).round().clamp(0, 15)
        numbers = (grouped / scale + zero).round().clamp(0, 15)
        written[name] = ((numbers - zero) * scale).flatten(1).half()
        del packed[name]
        layer = name.removesuffix("weight")
        packed[f"{layer}qweight"] = _int32(numbers.flatten(1).T)
        packed[f"{layer}qzeros"] = _int32(zero.squeeze(-1).T)
        packed[f"{layer}scales"] = scale.squeeze(-1).T.contiguous()
    config = json.loads((source / "config.json").read_text(encoding="utf-8")) | {"dtype": "float16"}
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    for folder, tensors, more in ((awq, packed, {"quantization_config": settings}), (plain, written, {})):
        shutil.copytree(source, folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config | more), encoding="utf-8")


_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _int32(numbers: torch.Tensor) -> torch.Tensor:
    """4-bit numbers [rows, columns] as int32 [rows, columns / 8]."""
    eights = numbers.long().unflatten(1, (-1, 8))
    together = sum(eights[..., column] << (4 * place) for place, column in enumerate(_AWQ_ORDER))
    return together.to(torch.int32).contiguous()  # the highest bit becomes the sign


def _config(kind: str, tokenizer: PreTrainedTokenizerFast, **options: Any) -> PretrainedConfig:
    sliding = {"use_sliding_window": True} if kind in ("qwen2", "pieces") and options.get("sliding_window") else {}
    settings = {
        "vocab_size": len(tokenizer) + 5,  # checkpoints often have more rows than their tokenizer has tokens
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    if kind in ("llama", "sentencepiece"):
        del settings["sliding_window"]  # Llama has none
    return _ARCHITECTURES[kind](**(settings | sliding | options))


@torch.no_grad()
def _init_weights(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    std: float = 0.2,
    close_scale: float = 2.0,
    eos_scale: float = 1.0,
    plain_chains: bool = False,
) -> None:
    """Random weights, and how chains go.

    Args:
        model: changed in place.
        tokenizer: of the model.
        std: of the weights.
        close_scale, eos_scale: a larger row in the output embedding makes a token louder: it is the maximum more often.
            At 0 it is never said.
        plain_chains: only `</think>`, EOS and words with a space before them are said, so that the text of a chain is
            tokenized to the very ids that were said.
    """
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=std)
        elif not bool((parameter == 1).all()):  # biases, not norms
            parameter.normal_(std=std / 2)
    rows = model.get_output_embeddings().weight
    rows[len(tokenizer) :] = 0  # rows without a token are never said
    if plain_chains:
        for id_, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
            is_word = token[0] in "Ġ▁" and token[1:].isalpha()
            if not is_word and token not in (CLOSE, tokenizer.eos_token):
                rows[id_] = 0
    for token, scale in ((CLOSE, close_scale), (tokenizer.eos_token, eos_scale)):
        id_ = tokenizer.get_added_vocab().get(token)
        if id_ is not None:
            rows[id_] *= scale


def _byte_level(pattern: str, *, normalizer: normalizers.Normalizer | None = None, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _sentencepiece() -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learner.train_from_iterator(TEXT.split("\n"), trainers.BpeTrainer(vocab_size=400, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocab = {piece: id_ for id_, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _wrapped(
    tokenizer: Tokenizer,
    *,
    eos: str,
    added: list[str],
    bos: str | None = None,
    unk: str | None = None,
    plain_added: list[str] | None = None,
    think: bool = True,
) -> PreTrainedTokenizerFast:
    special = [token for token in (unk, bos, eos, *added) if token is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    plain = [*(plain_added or []), *([THINK, CLOSE] if think else [])]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    if bos is not None:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        before = [tokenizer.post_processor] if tokenizer.post_processor is not None else []
        tokenizer.post_processor = processors.Sequence([*before, template])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unk, clean_up_tokenization_spaces=False
    )
