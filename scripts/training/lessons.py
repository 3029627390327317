"""Batches of pairs with their chains, and the loop that learns from them."""

import itertools
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from training.pairs import Pair, PairMaker
from training.rule import CLOSE, END, PROMPT, Thought, stumble, think
from training.tokenizer import token_id

log = logging.getLogger("train_tiny")


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids, and for each place with a loss: where it is, what comes next, how much it counts."""

    ids: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    verdicts: Tensor  # p(true) where the verdict comes next, NaN elsewhere


class Lessons:
    """Batches of pairs with their chains, harder as training goes on; in a share of them the chain stumbles."""

    def __init__(
        self,
        maker: PairMaker,
        tokenizer: PreTrainedTokenizerBase,
        tokens: int,
        stumbles: float = 0.0,
        degrees: float = 0.0,
    ) -> None:
        self.maker, self.tokenizer, self.tokens = maker, tokenizer, tokens
        self.stumbles, self.degrees = stumbles, degrees
        self.marks = {token_id(tokenizer, f" {mark}") for mark in ("early", "found", "missing")}
        self.words = token_id(tokenizer, " true"), token_id(tokenizer, " false")

    def batch(self, progress: float) -> Batch:
        """Passages grow from a dozen words to hundreds, queries from two content words to sixteen."""
        rng = self.maker.rng
        longest = 12 * (400 / 12) ** min(1.0, progress / 0.7)
        length = round(math.exp(rng.uniform(math.log(6), math.log(longest))))
        asked = rng.randint(1, round(min(16, 2 + 40 * progress)))
        size = round(self.tokens / (50 + 1.4 * length + 5 * asked))
        pairs = [self.pair(asked, length) for _ in range(max(4, size))]
        return self.encode(pairs)

    def pair(self, query_words: int, passage_words: int) -> Pair:
        """A pair of these lengths, now and then with an empty passage."""
        empty = self.maker.rng.random() < 0.02
        return self.maker.make(query_words, 0 if empty else passage_words)

    def encode(self, pairs: list[Pair]) -> Batch:
        """Tokens of prompts and chains; a loss wherever the model, not the prompt, speaks next."""
        thoughts = [think(pair.query, pair.passage) for pair in pairs]
        prompts = self.encode_texts([PROMPT.format(query=p.query, passage=p.passage) for p in pairs])
        answers = [self.answer(thought) for thought in thoughts]
        longest = max(len(p) + len(a) for p, (a, _) in zip(prompts, answers, strict=True))
        ids = torch.zeros(len(pairs), longest, dtype=torch.long)
        places: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        verdicts: list[float] = []
        for row, (prompt, (answer, taught), thought) in enumerate(zip(prompts, answers, thoughts, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            start = row * longest + len(prompt) - 1
            places += range(start, start + len(answer))
            targets += answer
            weights += [
                is_taught * (4.0 if token in self.marks else 1.0)
                for token, is_taught in zip(answer, taught, strict=True)
            ]
            verdicts += [math.nan] * (len(answer) - 2) + [1 / (1 + math.exp(-thought.log_odds)), math.nan]
        return Batch(ids, *map(torch.tensor, (places, targets, weights, verdicts)))

    def answer(self, thought: Thought) -> tuple[list[int], list[bool]]:
        """The tokens that the model says, and whether each is to be learnt."""
        parts = [(thought.chain, True)]
        if self.stumbles and self.maker.rng.random() < self.stumbles:
            parts = stumble(thought, self.maker.rng)
        parts.append((f"{CLOSE} {str(thought.label).lower()}{END}", True))
        ids = self.encode_texts([text for text, _ in parts])
        taught = [[is_taught] * len(part) for part, (_, is_taught) in zip(ids, parts, strict=True)]
        return list(itertools.chain.from_iterable(ids)), list(itertools.chain.from_iterable(taught))

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Token ids, with `<think>` and the like as the special tokens they are here."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


def loss_and_accuracy(model: Qwen2ForCausalLM, batch: Batch, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy on chains and (softly) verdicts; how often each word's mark and the verdict are right."""
    hidden = model.model(batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)[batch.places]
    scores = model.lm_head(hidden).float().log_softmax(-1)
    verdict = ~batch.verdicts.isnan()
    losses = -scores.gather(1, batch.targets[:, None])[:, 0] * batch.weights
    p_true, (yes, no) = batch.verdicts[verdict], lessons.words
    soft = -(p_true * scores[verdict, yes] + (1 - p_true) * scores[verdict, no])
    misjudged = (scores[verdict, yes] - scores[verdict, no] - p_true.logit()).square()
    loss = (losses[~verdict].sum() + 4 * soft.sum() + lessons.degrees * misjudged.sum()) / batch.weights.sum()
    right = scores.argmax(-1) == batch.targets
    marks = torch.isin(batch.targets, torch.tensor(sorted(lessons.marks)))
    return loss, {
        "marks": right[marks].float().mean().item(),
        "verdicts": right[verdict].float().mean().item(),
        "tokens": right.float().mean().item(),
    }


@dataclass(frozen=True)
class Stage:
    """A part of the training, with an optimizer of its own.

    Attributes:
        steps: how many.
        peak: the highest learning rate.
        start: how far the lessons have come where it begins.
        stumbles: the share of chains that go wrong somewhere and get out of it.
        punctuation: the share of words with brackets, quotes, slashes and hyphens.
        degrees: the weight of the squared error of the verdict's log-odds, which tells 0.98 from 0.99 where cross
            entropy hardly does.
    """

    steps: int
    peak: float
    start: float = 0.0
    stumbles: float = 0.0
    punctuation: float = 0.0
    degrees: float = 0.0


STAGES = (
    Stage(1800, 4e-4),
    Stage(400, 1.5e-4, start=0.8, stumbles=0.15),
    Stage(900, 1.5e-4, start=0.7, stumbles=0.3),
    Stage(3000, 4e-4, start=0.6, stumbles=0.2, punctuation=0.1, degrees=1.0),
)


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    return peak * min(1.0, (step + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * progress))


def train(model: Qwen2ForCausalLM, lessons: Lessons, stage: Stage, folder: Path) -> None:
    """AdamW with a line in the log every 50 steps and a checkpoint every 500."""
    seeded: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (seeded if re.search(r"embed|[qk]_proj", name) else free).append(parameter)
    groups = [{"params": seeded, "scale": 0.25}, {"params": free, "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    averages: dict[str, float] = {}
    for step in range(stage.steps):
        progress = step / stage.steps
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, progress, stage.peak)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            loss, accuracy = loss_and_accuracy(
                model, lessons.batch(stage.start + (1 - stage.start) * progress), lessons
            )
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in {"loss": loss.item(), **accuracy}.items():
            averages[name] = 0.97 * averages.get(name, value) + 0.03 * value
        if step % 50 == 49:
            shown = " ".join(f"{name} {value:.3f}" for name, value in averages.items())
            log.info("step %d (%.0f%%) %s", step + 1, 100 * progress, shown)
        if step % 500 == 499:
            save(model, lessons.tokenizer, folder)
    save(model, lessons.tokenizer, folder)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the checkpoint in bfloat16, without touching the float32 weights being trained."""
    copy = Qwen2ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
