"""What the operations of a step compute, on any device: shapes, dtypes and rounding.

Tokens of several rows are packed end to end. `queries`, `keys` and `values` may be views of one merged product: the
stride of their first dimension is free, the others are contiguous. `key_pool` and `value_pool` are one layer's KV
cache, in the layer's dtype. Sums run in float32, whatever the dtype.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

MAX_BATCHED_NEW_TOKENS = 8
"""A step's rows with at most so many tokens are a batch of their own: those that decode, and what they have drafted."""


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Which part of the KV cache the tokens of a step read. All tensors are int32, on the layer's device.

    Every token belongs to a row; padding is a row without a context.

    Attributes:
        query_starts: [rows + 1], where each row's tokens start in the step, and where the last one's stop.
        context_lengths: [rows], how many tokens each row has in the cache, those of this step included; 0: the row is
            padding, whose tokens attend to nothing and give 0.
        block_table: [rows, most pages], the pages of each row, in order; what lies behind its last page is not read.
        longest_query: the most tokens that a row brings.
    """

    query_starts: Tensor
    context_lengths: Tensor
    block_table: Tensor
    longest_query: int


class Kernels(Protocol):
    """One implementation of the operations: a module with these functions."""

    UNIFORM_PAGES: int
    """Up to this width of a block table, what a row computes does not depend on how wide the table is."""

    def attend(
        self,
        queries: Tensor,
        key_pool: Tensor,
        value_pool: Tensor,
        batch: PagedBatch,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Causal attention of every token over its row's context, up to and including itself.

        Query head `h` reads KV head `h // (heads / KV heads)`. Scores and softmax are float32 and never rounded to 16
        bits; the weights may be rounded to the dtype before they multiply the values, whose sum is float32. On CUDA it
        must not wait for the device: steps are captured into graphs.

        Args:
            queries: [tokens, heads, head dim], rotated.
            key_pool, value_pool: [pages, KV heads, page size, head dim]; this step's tokens are stored already.
            batch: which row each token belongs to, and which pages it reads; see `PagedBatch`.
            scaling: what the scores are multiplied by.
            window: how many tokens a token sees, itself included; None: all before it.

        Returns:
            [tokens, heads, head dim] in the dtype of `queries`, contiguous.
        """

    def add_rms_norm(
        self, states: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add the residual, and normalize the sum by its root mean square.

        Rounds as Transformers' `Qwen2RMSNorm`: the sum to the dtype, the normalized sum to the dtype before it is
        multiplied by the weight.

        Args:
            states: [..., size]; also heads within a merged product, [tokens, heads, head dim].
            residual: the same shape; None: nothing is added.
            weight: [size].
            eps: added to the mean square.

        Returns:
            The normalized sum and the sum, both [..., size] in the dtype of `states`. Where nothing is added, the sum
            is `states` itself.
        """

    def rotate_and_write(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        cos: Tensor,
        sin: Tensor,
        key_pool: Tensor,
        value_pool: Tensor,
        slots: Tensor,
    ) -> Tensor:
        """Apply the rotary embedding to queries and keys, and store keys and values in the KV cache.

        Computes `x * cos + rotate_half(x) * sin`, and in 16 bits rounds each product and the sum, as Transformers'
        `apply_rotary_pos_emb`.

        Args:
            queries: [tokens, heads, head dim].
            keys, values: [tokens, KV heads, head dim].
            cos, sin: [tokens, rotated dims], at most head dim; the dims behind them are left as they are.
            key_pool, value_pool: [pages, KV heads, page size, head dim]; written in place.
            slots: [tokens], int32: `page * page size + offset`, where each token is stored; -1: it is not.

        Returns:
            The rotated queries, [tokens, heads, head dim], contiguous.
        """

    def gate(self, gated: Tensor, up: Tensor, activation: str) -> Tensor:
        """`activation(gated) * up`, of a gated MLP.

        Args:
            gated, up: [tokens, size]; may be the halves of one merged product.
            activation: "silu", or "gelu_tanh"; rounded to the dtype before the product, as in Transformers' MLPs.

        Returns:
            [tokens, size], contiguous.
        """

    def read_logits(self, logits: Tensor, answers: Tensor) -> Tensor:
        """The likeliest token of each position, and what the verdict needs.

        Args:
            logits: [tokens, vocabulary]; the last dimension is contiguous.
            answers: [2], int64: the ids of the two answers.

        Returns:
            [tokens, 4], float32: the likeliest token (the first of equals; every id is exact in float32), its logit,
            and the two answers' logits. The logit is NaN where any of the token's logits is.
        """
