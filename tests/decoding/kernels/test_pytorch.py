"""What devices without kernels compute with, against the definition of attention: as on a CPU, and as on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.decoding.kernels import pytorch
from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS
from tests.decoding.kernels.inputs import Attention, assert_keeps_the_contract

WINDOWS = [None, 1, 5, 64, 100]
FEW, MANY = [(1, 65), (3, 64), (8, 8), (2, 130)], [(20, 300), (1, 64), (9, 9), (30, 64)]


@pytest.fixture(params=["cpu", "gpu", "mps"], scope="module", autouse=True)
def device(request: pytest.FixtureRequest):
    """Attention as on these devices, on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "cpu":
            patch.setattr(pytorch, "_ROW_BY_ROW", ())
            patch.setattr(pytorch, "_TAKES_GROUPS", ())
        if request.param == "mps":
            patch.setattr(pytorch, "_ROUNDS_SCORES", ("cpu",))
        yield request.param


def test_it_has_the_operations_of_the_contract():
    assert_keeps_the_contract(pytorch)


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[int, int]]:
    most = draw(st.sampled_from([1, MAX_BATCHED_NEW_TOKENS, 40]))
    new = draw(st.lists(st.integers(1, most), min_size=1, max_size=4))
    return [(n, draw(st.integers(n, 140))) for n in new]


@given(rows(), st.sampled_from(WINDOWS), st.sampled_from([(1, 1), (2, 3), (1, 4)]))
def test_attention_is_its_definition(rows: list[tuple[int, int]], window: int | None, heads: tuple[int, int]):
    case = Attention(rows, *heads, head_dim=8)
    found = pytorch.attend(*case.arguments, 0.3, window)
    torch.testing.assert_close(found.double(), case.by_definition(0.3, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [FEW, MANY])
def test_scores_are_not_rounded_to_16_bits(dtype: torch.dtype, rows: list[tuple[int, int]]):
    case = Attention(rows, dtype=dtype)
    found = pytorch.attend(*case.arguments, 2.0, None)  # scores up to 50
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), case.by_definition(2.0, None), atol=4 * eps, rtol=2 * eps)


@pytest.mark.parametrize("rows", [[(1, 70), (2, 0)], [(20, 70), (12, 0)]])
def test_padding_attends_nothing(rows: list[tuple[int, int]]):
    output = pytorch.attend(*Attention(rows).arguments, 0.3, None)
    n_real = rows[0][0]
    assert (output[n_real:] == 0).all()
    assert output[:n_real].isfinite().all()


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_what_is_not_finite_stays_in_its_row(rows: list[tuple[int, int]]):
    case = Attention(rows)
    for pool in (case.key_pool, case.value_pool):
        pool[case.pages[0]] = torch.nan
    of_first, of_others = pytorch.attend(*case.arguments, 0.3, None).tensor_split([rows[0][0]])
    assert of_first.isnan().all()
    assert of_others.isfinite().all()


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_elsewhere_than_on_a_cpu_no_grouped_heads_are_asked_for(
    device: str, rows: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
):
    """With grouped heads and a mask, CUDA has all scores in memory, in float32."""
    asked = []

    def noting(*states: torch.Tensor, enable_gqa: bool = False, **options: object) -> torch.Tensor:
        asked.append(enable_gqa or len({state.shape[1] for state in states}) > 1)
        return attention_of_pytorch(*states, enable_gqa=enable_gqa, **options)

    attention_of_pytorch = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    pytorch.attend(*Attention(rows).arguments, 0.3, None)
    assert len(asked) == (1 if rows is FEW and device != "cpu" else len(rows))
    assert set(asked) == {device == "cpu"}
