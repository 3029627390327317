"""The tokenizer: a byte-pair encoding of the words that pairs are made of."""

import json
import math
import re
from collections import Counter

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from training.language import english_words, unseen
from training.rule import CLOSE, END, OPEN, PROMPT, STOP_WORDS, WORD

VOCAB_SIZE = 13_312


def vocabulary(scripture: list[str], technical: list[str]) -> dict[str, int]:
    """Words worth a token of their own, and how much: the most frequent ones of English, and of the texts."""
    from wordfreq import zipf_frequency

    told, explained = (
        Counter(word for sentence in sentences for word in re.findall(r"[a-z]{2,}", sentence.lower()))
        for sentences in (scripture, technical)
    )
    words = set(english_words(8_000)) | STOP_WORDS
    words |= {word for counts, least in ((told, 60), (explained, 4)) for word in counts if counts[word] >= least}
    return {
        word: 1 + round(2 * max(0, zipf_frequency(word, "en") - 3) ** 1.5 + math.log2(1 + explained[word]))
        for word in sorted(words)
        if not unseen(word)
    }


def train_tokenizer(weights: dict[str, int]) -> Qwen2Tokenizer:
    """A Qwen2-style byte-level BPE that keeps words whole, the weightier first, as many as its size allows."""
    fixed = WORD.findall(PROMPT) + WORD.findall(
        "Query words early found missing so the passage has nothing little much of them"
    )
    tokenizer = Qwen2Tokenizer()
    special = [AddedToken(token, special=True, normalized=False) for token in (END, OPEN, CLOSE)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    texts = [f" {word}" for word, weight in weights.items() for _ in range(weight)] + 1000 * [
        f"{word} {word}" for word in fixed
    ]
    tokenizer.backend_tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    trained = Qwen2Tokenizer(model["vocab"], [tuple(merge) for merge in model["merges"]], model_max_length=4096)
    trained.add_tokens(special)
    return trained


def whole_words(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[str]:
    """Those of the words that are one token each."""
    return [word for word in words if len(tokenizer.tokenize(f" {word}")) == 1]


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of a text that must be one token."""
    (single,) = tokenizer.encode(text, add_special_tokens=False)
    return int(single)
