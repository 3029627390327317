"""Inputs of the operations, and what attention computes by its definition."""

import inspect
import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from rank1_hf.decoding.kernels.contract import Kernels, PagedBatch
from rank1_hf.decoding.kv_cache import PAGE_SIZE


class Attention:
    """Rows with random queries, keys and values; what no row may read in the pools is NaN.

    Args:
        rows: tokens of each row in this step, and in its whole context.
        width: of the page table; None: as wide as the longest row needs.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int]],
        n_kv_heads: int = 2,
        group: int = 3,
        head_dim: int = 16,
        dtype: torch.dtype = torch.float32,
        width: int | None = None,
        device: str = "cpu",
    ) -> None:
        new, contexts = [n for n, _ in rows], [n for _, n in rows]
        n_pages = [-(-n // PAGE_SIZE) for n in contexts]
        random = torch.Generator().manual_seed(len(rows) + sum(contexts))
        free = torch.randperm(sum(n_pages) + 2, generator=random).tolist()
        self.pages = [[free.pop() for _ in range(n)] for n in n_pages]
        shape = n_kv_heads, PAGE_SIZE, head_dim
        pools = torch.full((2, sum(n_pages) + 2, *shape), torch.nan)
        for pages, n in zip(self.pages, contexts, strict=True):
            for place, page in enumerate(pages):
                filled = min(n - place * PAGE_SIZE, PAGE_SIZE)
                pools[:, page, :, :filled] = torch.randn(2, n_kv_heads, filled, head_dim, generator=random)
        self.key_pool, self.value_pool = pools.to(device, dtype)
        self.queries = torch.randn(sum(new), n_kv_heads * group, head_dim, generator=random).to(device, dtype)
        table = torch.full((len(rows), width or max(*n_pages, 1)), free[0], dtype=torch.int32)
        for row, pages in enumerate(self.pages):
            table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
        starts = torch.tensor([0, *new]).cumsum(0)
        self.batch = PagedBatch(
            starts.int().to(device),
            torch.tensor(contexts, dtype=torch.int32, device=device),
            table.to(device),
            max(new),
        )
        self.rows = rows

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, PagedBatch]:
        return self.queries, self.key_pool, self.value_pool, self.batch

    def by_definition(self, scaling: float, window: int | None) -> Tensor:
        """One token and one head at a time, in float64: [tokens, heads, head dim]."""
        keys, values, queries = (x.double().cpu() for x in (self.key_pool, self.value_pool, self.queries))
        group = queries.shape[1] // keys.shape[1]
        output = torch.zeros_like(queries)
        token = 0
        for (n_new, n_context), pages in zip(self.rows, self.pages, strict=True):
            for position in range(n_context - n_new, n_context):
                seen = range(max(0, position - (window or math.inf) + 1), position + 1)
                for head in range(queries.shape[1] if n_context else 0):
                    places = [(pages[at // PAGE_SIZE], head // group, at % PAGE_SIZE) for at in seen]
                    k, v = (torch.stack([pool[place] for place in places]) for pool in (keys, values))
                    output[token, head] = (k @ queries[token, head] * scaling).softmax(0) @ v
                token += 1
        return output


def merged_product(
    n_heads: int, n_kv_heads: int, head_dim: int, n_rotated: int, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Tensor]:
    """The arguments of `rotate_and_write` for 7 tokens: the states are views of one product, the pools are 0."""
    torch.manual_seed(0)
    product = torch.randn(7, (n_heads + 2 * n_kv_heads) * head_dim).to(device, dtype)
    states = product.view(7, -1, head_dim).split([n_heads, n_kv_heads, n_kv_heads], 1)
    angles = torch.rand(7, n_rotated // 2).repeat(1, 2) * 6
    pools = torch.zeros(2, 3, n_kv_heads, PAGE_SIZE, head_dim).to(device, dtype)
    slots = torch.tensor([3, 64, -1, 65, 191, 0, -1], dtype=torch.int32, device=device)
    return {
        **dict(zip(("queries", "keys", "values"), states, strict=True)),
        "cos": angles.cos().to(device, dtype),
        "sin": angles.sin().to(device, dtype),
        "key_pool": pools[0],
        "value_pool": pools[1],
        "slots": slots,
    }


def assert_keeps_the_contract(kernels: ModuleType) -> None:
    """A module has the operations of the contract, with the same arguments."""
    operations = {name: f for name, f in vars(Kernels).items() if inspect.isfunction(f) and not name.startswith("_")}
    assert len(operations) == 5
    for name, operation in operations.items():
        _self, *expected = inspect.signature(operation).parameters.values()
        found = inspect.signature(getattr(kernels, name))
        assert list(found.parameters.values()) == expected, name
        assert found.return_annotation == inspect.signature(operation).return_annotation, name
