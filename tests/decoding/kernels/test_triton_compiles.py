"""Every kernel, compiled for cards that are not here: it fits, spills nothing, and multiplies on tensor cores.

Needs Triton's wheel, and no GPU. RANK1_ALL_KERNELS=1 compiles for every card, type and head size, which takes minutes.
"""

import os
from collections.abc import Iterator
from itertools import product

import pytest
import torch

from rank1_hf.decoding.kernels.contract import PagedBatch
from tests.decoding.kernels.inputs import assert_keeps_the_contract

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton interprets its kernels", allow_module_level=True)

from rank1_hf.decoding.kernels import triton as kernels
from rank1_hf.decoding.kernels.triton_attention import Blocks, choose_blocks, splits
from tests.decoding.kernels.cards import CARDS, Card, Compiled, compiling_for

KV_HEADS, GROUP = 4, 7  # of Qwen2.5 7B
LONGEST = [1, 300]  # decoding, and prefill
ALL = list(product([torch.bfloat16, torch.float16, torch.float32], [64, 80, 128, 256]))
EVERYTHING = os.environ.get("RANK1_ALL_KERNELS") == "1"
CASES = ALL if EVERYTHING else [(torch.bfloat16, 128)]
COMPILED_FOR = [card for card in CARDS if EVERYTHING or card.capability != 89]  # which gets what sm_86 does


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles anew, and leaves nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def attend(
    dtype: torch.dtype, head_dim: int, longest: int, n_rows: int = 1, width: int = 16, window: int | None = None
) -> None:
    """Attend a step as it comes: queries within a merged product, lengths and pages within one table."""
    heads = torch.zeros(n_rows * longest, GROUP * KV_HEADS + 2 * KV_HEADS, head_dim, dtype=dtype)
    pool = torch.zeros(1, KV_HEADS, 64, head_dim, dtype=dtype)
    table = torch.zeros(n_rows + 1, width + 3, dtype=torch.int32)
    batch = PagedBatch(table[:, 0].contiguous(), table[0, 1 : n_rows + 1], table[:n_rows, 3:], longest)
    kernels.attend(heads[:, : GROUP * KV_HEADS], pool, pool, batch, 0.1, window)


def assert_runs(kernel: Compiled, card: Card, dtype: torch.dtype) -> None:
    assert kernel.shared_memory <= card.shared_memory
    if dtype.itemsize == 2 and card.capability >= 80:
        assert kernel.spilled == 0


def test_it_has_the_operations_of_the_contract():
    assert_keeps_the_contract(kernels)


@pytest.mark.parametrize("card", COMPILED_FOR, ids=str)
@pytest.mark.parametrize(("dtype", "head_dim"), CASES)
@pytest.mark.parametrize("longest", LONGEST)
def test_attention(card: Card, dtype: torch.dtype, head_dim: int, longest: int):
    with compiling_for(card) as compiled:
        attend(dtype, head_dim, longest)
    assert [kernel.name for kernel in compiled] == ["_attend", "_merge"][: 2 if longest == 1 else 1]
    for kernel in compiled:
        assert_runs(kernel, card, dtype)
    attention = compiled[0]
    assert attention.shared_memory <= blocks_on(card, dtype, head_dim, longest).shared_memory(
        4 if card.capability < 80 else dtype.itemsize, head_dim
    )
    if head_dim <= 128:
        assert attention.programs >= 2
    if card.capability >= 80:
        assert attention.uses_tensor_cores == (dtype.itemsize == 2)
        assert attention.loads_ahead or longest > 1 or head_dim > 128


@pytest.mark.parametrize("card", COMPILED_FOR, ids=str)
@pytest.mark.parametrize("dtype", sorted({dtype for dtype, _ in CASES}, key=str))
def test_the_other_operations(card: Card, dtype: torch.dtype):
    heads = torch.zeros(1, GROUP * KV_HEADS + 2 * KV_HEADS, 128, dtype=dtype)
    queries, keys, values = heads.split([GROUP * KV_HEADS, KV_HEADS, KV_HEADS], 1)
    angles, pool = torch.zeros(1, 128, dtype=dtype), torch.zeros(1, KV_HEADS, 64, 128, dtype=dtype)
    with compiling_for(card) as compiled:
        kernels.add_rms_norm(states := torch.zeros(1, 3584, dtype=dtype), states, states[0], 1e-6)
        kernels.rotate_and_write(queries, keys, values, angles, angles, pool, pool, torch.zeros(1, dtype=torch.int32))
        kernels.gate(*torch.zeros(1, 2 * 18_944, dtype=dtype).chunk(2, -1), "silu")
        kernels.read_logits(torch.zeros(1, 152_064, dtype=dtype), torch.zeros(2, dtype=torch.long))
    assert [kernel.name for kernel in compiled] == ["_add_rms_norm", "_rotate_and_write", "_gate", "_read_logits"]
    for kernel in compiled:
        assert_runs(kernel, card, dtype)
        assert kernel.spilled == 0
        assert kernel.programs >= 2
        assert (
            kernel.name == "_rotate_and_write" or "global.v4" in kernel.ptx or "cp.async.cg" in kernel.ptx
        )  # 16 bytes
    assert compiled[-1].loads_ahead == (card.capability >= 80)


def test_a_model_needs_each_kernel_once():
    with compiling_for(CARDS[4]) as compiled:
        for n_rows, width, window in [(1, 16, None), (5, 17, 100), (16, 64, 4096), (33, 1024, 1)]:
            attend(torch.float16, 64, 1, n_rows, width, window)
    assert sorted(kernel.name for kernel in compiled) == ["_attend", "_merge"]


def blocks_on(card: Card, dtype: torch.dtype, head_dim: int, longest: int = 1, group: int = GROUP) -> Blocks:
    capability = divmod(card.capability, 10)
    return choose_blocks(capability, card.shared_memory, dtype.itemsize, head_dim, group, longest)


@pytest.mark.parametrize("card", CARDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("longest", LONGEST)
@pytest.mark.parametrize("group", [1, 7, 20])
def test_every_head_size_fits_every_card(card: Card, dtype: torch.dtype, longest: int, group: int):
    itemsize = 4 if card.capability < 80 else dtype.itemsize
    for head_dim in range(8, 257 if group <= 16 else 129, 8):
        blocks = blocks_on(card, dtype, head_dim, longest, group)
        needed = blocks.shared_memory(itemsize, head_dim)
        assert needed * (2 if head_dim <= 128 and group <= 16 else 1) <= card.shared_memory
        assert blocks.rows >= group
        assert 64 % blocks.keys == 0


def test_blocks_are_as_large_as_a_card_allows():
    half, whole = torch.float16, torch.float32
    sm_75, _, sm_86, sm_89, sm_90, _, sm_120 = CARDS
    assert blocks_on(sm_90, half, 128) == Blocks(16, 64, 4, 3)
    assert blocks_on(sm_90, half, 128, 300) == Blocks(64, 64, 4, 3)
    for card in (sm_86, sm_89, sm_120):
        assert blocks_on(card, half, 128) == Blocks(16, 32, 4, 3)
        assert blocks_on(card, half, 128, 300) == Blocks(64, 32, 4, 2)
        assert blocks_on(card, whole, 128) == Blocks(16, 16, 4, 3)
    assert blocks_on(sm_75, half, 256) == Blocks(16, 16, 4, 1)
    assert blocks_on(sm_75, whole, 128) == Blocks(16, 16, 4, 1)


def test_a_head_that_no_block_holds_is_refused():
    with pytest.raises(ValueError, match="heads of 4096 numbers"):
        blocks_on(CARDS[0], torch.float32, 4096)


def test_splits_follow_the_longest_row():
    assert splits(1) == splits(4) == (1, 256)
    assert splits(16) == (4, 256)
    assert splits(128) == (32, 256)
    for width in range(1, 3000):
        n_splits, size = splits(width)
        assert (n_splits - 1) * size < width * 64 <= n_splits * size
        assert n_splits <= 32
