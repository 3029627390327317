"""The tokenizer: a byte-pair encoding of the words that pairs are made of."""

import json
import re
from collections import Counter

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from training.language import english_words, unseen
from training.rule import CLOSE, END, OPEN, PROMPT, STOP_WORDS, WORD

VOCAB_SIZE = 13_312


def vocabulary(scripture: list[str], technical: list[str]) -> list[str]:
    """Words worth a token of their own: the most frequent ones of English, and of the texts."""
    words = set(english_words(7_000)) | STOP_WORDS
    for sentences, least in ((scripture, 20), (technical, 3)):
        counts = Counter(word for sentence in sentences for word in re.findall(r"[a-z]{2,}", sentence.lower()))
        words |= {word for word, count in counts.items() if count >= least}
    return sorted(word for word in words if not unseen(word))


def train_tokenizer(words: list[str]) -> Qwen2Tokenizer:
    """A Qwen2-style byte-level BPE that keeps `words` whole, as many of them as its size allows."""
    fixed = WORD.findall(PROMPT) + WORD.findall("Query words found missing so the passage has none few half most all")
    tokenizer = Qwen2Tokenizer()
    special = [AddedToken(token, special=True, normalized=False) for token in (END, OPEN, CLOSE)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    texts = [f" {word}" for word in words] + 1000 * [f"{word} {word}" for word in fixed]
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
