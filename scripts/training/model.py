"""A small Qwen2 whose heads start as circuits that walk through the query and look words up in the passage."""

import math
import re
import string

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from training.rule import END, OPEN, PROMPT, STOP_WORDS
from training.tokenizer import token_id


def new_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A small Qwen2 with untrained weights."""
    end = token_id(tokenizer, END)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager")  # on a CPU, short rows go backward faster through it
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    seed_circuits(model, tokenizer)
    return model


class Heads:
    """Views of the weights of one key-value group and of the query heads that share it, to be written in place."""

    def __init__(self, layer: Qwen2DecoderLayer, group: int) -> None:
        attention = layer.self_attn
        size, shared = attention.head_dim, attention.num_key_value_groups
        hidden = attention.q_proj.in_features
        self.query = attention.q_proj.weight.view(-1, shared, size, hidden)[group]
        self.query_bias = attention.q_proj.bias.view(-1, shared, size)[group]
        self.key = attention.k_proj.weight.view(-1, size, hidden)[group]
        self.key_bias = attention.k_proj.bias.view(-1, size)[group]
        self.value = attention.v_proj.weight.view(-1, size, hidden)[group]
        self.output = attention.o_proj.weight.view(hidden, -1, shared, size)[:, group]
        self.angles = attention.config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        self.slow = (self.angles < 0.01).repeat(2)  # dimensions that hardly turn with the distance

    def prefer_offset(self, head: int, offset: int, strength: float = 8.0) -> None:
        """Biases whose rotated product peaks at the token `offset` places before."""
        fast = (self.angles > 0.1) * math.sqrt(strength * math.sqrt(len(self.key_bias)))
        turn = offset * self.angles
        self.key_bias.copy_(torch.cat([fast, 0 * fast]))
        self.query_bias[head] = torch.cat([fast * turn.cos(), -fast * turn.sin()])

    def prefer_near(self, head: int, slope: float) -> None:
        """Biases whose rotated product falls by about `slope` a token, as far back as a sine is nearly straight."""
        pair = int((self.angles - 0.0178).abs().argmin())
        size = math.sqrt(slope / self.angles[pair].item() * math.sqrt(len(self.key_bias)))
        self.key_bias[pair] = size
        self.query_bias[head, pair + len(self.angles)] = size

    def match(self, head: int, query: Tensor, key: Tensor, strength: float) -> None:
        """Score by the product of two codes, read from the rows of `query` here and of `key` there."""
        self.query[head] = strength * query * self.slow[:, None]
        self.key.copy_(strength * key * self.slow[:, None])

    def prefer(self, head: int, dimension: int, feature: Tensor) -> None:
        """Score by how much there is of `feature` there, through a `dimension` that then has no other use."""
        self.query[:, dimension] = 0
        self.query_bias[head, dimension] = 5.0
        self.key[dimension] = feature


@torch.no_grad()
def seed_circuits(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Start from heads that can walk through the query and look words up in the passage.

    In the spirit of Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers" (2023). The first layer
    copies the two tokens before and marks the tokens of the passage and of the query. The second looks for the current
    token in both (is it there? does the word go on? was it said before?), and copies to each token of the query the
    content word before it. The third finds the next content word by that, and marks what comes after a sentence's end.
    The last looks for the current token before that mark. All else starts silent, so that this shows from step one.
    Words are told apart by random codes, and what is known of a token stands along `features`.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embeddings = torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    directions = torch.nn.init.orthogonal_(torch.empty(256, 256))
    features, codes = directions[:12], directions[12:].view(4, 61, 256)
    stop, after_stop, in_passage, in_query, found, inside, goes_on, repeated, ends, late, early, _ = features
    identity, before, before_that, word_before = (torch.cat([torch.zeros(3, 256), code]) for code in codes)
    embeddings -= embeddings @ features.T @ features  # words say nothing along them, but for stop words
    embeddings[stop_tokens(tokenizer)] += 0.5 * stop
    embeddings[inner_tokens(tokenizer)] += 0.5 * inside
    embeddings[[token_id(tokenizer, mark) for mark in ".?!"]] += 0.5 * ends
    start, query, passage, thinking = (
        unit(embeddings[tokenizer.encode(text)[0]]) for text in (PROMPT[:9], "Query", "Passage", OPEN)
    )
    first, second, third, last = model.model.layers

    copy = Heads(first, 0)
    copy.prefer_offset(0, 1)
    copy.prefer_offset(1, 2)
    copy.value.copy_(0.12 * identity)
    copy.output[:, 0], copy.output[:, 1] = before.T, before_that.T
    copy.value[0], copy.output[:, 0, 0] = 0.05 * stop, after_stop

    mark = Heads(first, 1)
    mark.prefer(0, -1, 1.5 * passage + 2.5 * thinking)
    mark.prefer(1, -2, 1.5 * query + 2.5 * passage)
    mark.value[0], mark.value[1] = 0.1 * passage, 0.1 * query
    mark.output[:, 0, 0], mark.output[:, 1, 1] = 0.25 * in_passage, 0.25 * in_query

    look_up = Heads(second, 0)
    for head in (0, 1):
        look_up.match(head, identity, before, strength=3.0)
    look_up.prefer(0, -1, 4 * in_passage + 5.5 * start)
    look_up.prefer(1, -2, 4 * in_query + 5.5 * start)
    torch.nn.init.orthogonal_(look_up.value)
    look_up.value[0], look_up.value[1], look_up.value[2] = in_passage, inside, in_query
    look_up.output[:, 0], look_up.output[:, 1] = 0.1 * look_up.value.T, 0.2 * look_up.value.T
    look_up.output[:, :, :3] = 0
    look_up.output[:, 0, 0] = 0.1 * found
    look_up.output[:, 1, 1], look_up.output[:, 1, 2] = 0.1 * goes_on, 0.1 * repeated

    previous_word = Heads(second, 1)
    previous_word.prefer_near(0, slope=2.5)
    previous_word.prefer(0, -1, -12 * after_stop)
    previous_word.value.copy_(0.1 * before)
    previous_word.output[:, 0] = word_before.T

    shown = torch.nn.init.orthogonal_(torch.empty(128, 256))
    shown -= shown @ start[:, None] * start
    for group, half in enumerate(shown.view(2, 64, 256)):
        next_word = Heads(third, group)
        next_word.match(0, before_that, word_before, strength=2.4)
        next_word.prefer(0, -1, 5 * in_query - 4 * stop + 8 * start)
        next_word.value.copy_(half)
        next_word.value[0] = repeated
        next_word.output[:, 0] = 0.6 * half.T
    after_end = Heads(third, 0)
    after_end.query[1] = 0
    after_end.prefer(1, -2, 4 * ends + 4 * in_passage + 5.5 * start)
    after_end.value[1] = ends
    after_end.output[:, 1, 1] = 0.3 * late

    look_early = Heads(last, 0)
    look_early.match(0, identity, before, strength=3.0)
    look_early.prefer(0, -1, 4 * in_passage - 6 * late + 5.5 * start)
    look_early.value[0] = in_passage
    look_early.output[:, 0, 0] = 0.1 * early


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that name nothing: stop words, and punctuation but for what joins words and ends the line."""
    texts = {*(f" {word}" for word in STOP_WORDS), *string.punctuation} - set("-'")
    ids: list[list[int]] = tokenizer(sorted(texts), add_special_tokens=False)["input_ids"]
    return [first for (first, *rest) in ids if not rest]


def inner_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that go on with a word."""
    return [place for token, place in tokenizer.get_vocab().items() if re.match("[A-Za-z0-9'-]", token)]


def unit(vectors: Tensor) -> Tensor:
    """The vectors, scaled to length one."""
    return torch.nn.functional.normalize(vectors, dim=-1)
