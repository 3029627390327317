"""The kernels against the oracle: those of the GPU where there is one, else those of the CPU.

Without a GPU one test here runs the others with the Triton kernels in Triton's interpreter, which reads them as NumPy.
Triton decides at its import whether it interprets, so that takes a process of its own.
"""

import math
import os
import subprocess
import sys

import pytest
import torch

from rank1_hf.decoding.kernels import cpu, native, reference
from tests.decoding.kernels.inputs import Attention, assert_keeps_the_contract, merged_product
from tests.decoding.kernels.test_cpu_products import assert_multiplies

HAS_GPU = torch.cuda.is_available()
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if HAS_GPU else "cpu"
IN_INTERPRETER = pytest.mark.skipif(INTERPRETS and not HAS_GPU, reason="Triton's interpreter has no bfloat16")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=IN_INTERPRETER)]
if HAS_GPU or INTERPRETS:
    pytest.importorskip("triton")
    from rank1_hf.decoding.kernels import triton as kernels
else:
    kernels = cpu
if INTERPRETS and not HAS_GPU:
    # A split without keys has no weight, and what is not finite is what some tests are about.
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.mark.skipif(HAS_GPU or INTERPRETS, reason="the Triton kernels run here")
def test_triton_in_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-q", "-x", "-p", "no:cacheprovider", "--noconftest"]  # it and the plugins take seconds to import
    command = [sys.executable, "-m", "pytest", *options, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def test_they_keep_the_contract():
    assert_keeps_the_contract(kernels)


@pytest.mark.skipif(HAS_GPU or INTERPRETS, reason="about the CPU kernels")
@pytest.mark.parametrize("lanes", [4, 16])
def test_vectors_of_other_processors(lanes: int, monkeypatch: pytest.MonkeyPatch):
    """With the vectors of AVX-512 and of Arm, which the compiler makes of what this processor has."""
    functions = native.compiled(cpu._SOURCE, f"-DLANES={lanes}", "-O2")  # a quarter of the time to compile
    monkeypatch.setattr(cpu, "compiled", lambda source: functions)
    for name in ("_kernel", "panel_width"):
        monkeypatch.setattr(cpu, name, getattr(cpu, name).__wrapped__)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert_attends(Attention([(1, 65), (20, 300), (1, 0)], 2, 7, 80, dtype), 100)
        test_the_norm(dtype, 24, residual=True)
        test_the_gate(dtype, "silu")
        test_rotation_and_writing(dtype, 3, 1, 24, 12)
        test_reading_logits(dtype, 20_001)
        assert_multiplies(dtype, 29, 97, 161)


def assert_attends(case: Attention, window: int | None = None, scaling: float = 0.3) -> None:
    found = kernels.attend(*case.arguments, scaling, window)
    expected = reference.attend(*case.arguments, scaling, window)
    eps = max(torch.finfo(expected.dtype).eps, 1e-6)
    torch.testing.assert_close(found, expected, atol=4 * eps, rtol=4 * eps)
    assert found.is_contiguous()


@pytest.mark.parametrize("window", [None, 1, 100])
def test_decoding(window: int | None):
    """One token a row; contexts within one split, of several, and at the edges of pages and splits."""
    assert_attends(Attention([(1, n) for n in (1, 64, 257, 513)], 1, 3, 8), window)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_16_bits(dtype: torch.dtype):
    assert_attends(Attention([(1, 65), (1, 300)], 2, 3, 16, dtype))
    assert_attends(Attention([(20, 65), (1, 70)], 2, 3, 16, dtype))


@pytest.mark.parametrize("window", [None, 20])
def test_prefill(window: int | None):
    """Chunks of different lengths, some of them behind a context that is there already."""
    assert_attends(Attention([(40, 40), (20, 140), (1, 70)], 1, 3, 8), window)


def test_drafts():
    """A few tokens a row, over contexts that are split."""
    assert_attends(Attention([(4, 300), (1, 20), (9, 130)], 1, 3, 8))


@pytest.mark.parametrize(
    ("n_kv_heads", "group", "head_dim"), [(1, 1, 64), (2, 7, 80), (1, 20, 16), (1, 6, 128), (1, 2, 256), (1, 40, 8)]
)
def test_heads(n_kv_heads: int, group: int, head_dim: int):
    assert_attends(Attention([(1, 70)], n_kv_heads, group, head_dim), scaling=head_dim**-0.5)
    assert_attends(Attention([(17, 70)], n_kv_heads, group, head_dim), scaling=head_dim**-0.5)


def test_queries_within_a_merged_product_are_read_where_they_are():
    case = Attention([(1, 70), (1, 300)])
    product = torch.randn(2, 10, 16, device=DEVICE)
    product[:, :6] = case.queries
    found = kernels.attend(product[:, :6], *case.arguments[1:], 0.3, None)
    assert torch.equal(found, kernels.attend(*case.arguments, 0.3, None))


@pytest.mark.parametrize("contexts", [(30,), (300, 30)])
def test_padding_attends_nothing(contexts: tuple[int, ...]):
    case = Attention([(1, n) for n in contexts] + [(1, 0)])
    output = kernels.attend(*case.arguments, 0.3, None)
    assert (output[-1] == 0).all()
    assert output.isfinite().all()


@pytest.mark.parametrize("n_new", [1, 17])
def test_what_a_row_computes_does_not_depend_on_the_rows_beside_it(n_new: int):
    alone = Attention([(n_new, 300)], 1, 2)
    starts, pages = torch.tensor([0, n_new, 2 * n_new]), torch.zeros(2, 12, dtype=torch.int32)
    pages[0, :4] = alone.batch.block_table[0, 0]
    pages[1, :5] = alone.batch.block_table[0]
    batch = type(alone.batch)(
        starts.int().to(DEVICE),
        torch.tensor([n_new + 5, 300], dtype=torch.int32, device=DEVICE),
        pages.to(DEVICE),
        n_new,
    )
    together = kernels.attend(alone.queries.repeat(2, 1, 1), alone.key_pool, alone.value_pool, batch, 0.3, None)
    assert torch.equal(together[n_new:], kernels.attend(*alone.arguments, 0.3, None))


@pytest.mark.parametrize("context", [50, 300])
def test_what_is_not_finite_is_seen(context: int):
    case = Attention([(1, context), (1, 20)])
    page = case.pages[0][-1]
    case.key_pool[page, 0, 0] = math.nan
    output = kernels.attend(*case.arguments, 0.3, None)
    assert output[0, :3].isnan().all()
    assert output[0, 3:].isfinite().all()
    assert output[1].isfinite().all()
    case.key_pool.nan_to_num_(1).abs_().clamp_(min=0.1)
    case.queries[0, 0, 0] = -math.inf  # all scores are: no weights make a sum of 1
    output = kernels.attend(*case.arguments, 0.3, None)
    assert output[0, 0].isnan().all()
    assert output[0, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [24, 64, 3584])
@pytest.mark.parametrize("residual", [False, True])
def test_the_norm(dtype: torch.dtype, size: int, residual: bool):
    states, other = torch.randn(2, 2, 3, size, device=DEVICE).to(dtype) * 3
    weight = torch.randn(size, device=DEVICE).to(dtype)
    arguments = states, other if residual else None, weight, 1e-5
    (normalized, total), (expected, expected_total) = (
        kernels.add_rms_norm(*arguments),
        reference.add_rms_norm(*arguments),
    )
    assert torch.equal(total, expected_total)
    eps = torch.finfo(dtype).eps
    # Twice for the rounding of the result, and twice for the sum of squares, whose order is free.
    torch.testing.assert_close(normalized, expected, atol=4 * eps, rtol=4 * eps)


def test_the_norm_of_heads_within_a_merged_product():
    product, weight = torch.randn(5, 6, 16, device=DEVICE), torch.randn(16, device=DEVICE)
    found, _ = kernels.add_rms_norm(product[:, 2:5], None, weight, 1e-5)
    torch.testing.assert_close(found, reference.add_rms_norm(product[:, 2:5], None, weight, 1e-5)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim", "n_rotated"), [(6, 2, 16, 16), (7, 1, 80, 80), (4, 4, 16, 4), (3, 1, 24, 12)]
)
def test_rotation_and_writing(dtype: torch.dtype, n_heads: int, n_kv_heads: int, head_dim: int, n_rotated: int):
    found, expected = (merged_product(n_heads, n_kv_heads, head_dim, n_rotated, dtype, DEVICE) for _ in range(2))
    queries, expected_queries = kernels.rotate_and_write(**found), reference.rotate_and_write(**expected)
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(queries, expected_queries, **tolerance)
    torch.testing.assert_close(found["key_pool"], expected["key_pool"], **tolerance)
    assert torch.equal(found["value_pool"], expected["value_pool"])
    assert queries.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_the_gate(dtype: torch.dtype, activation: str):
    merged = torch.randn(6, 2 * 1100, device=DEVICE).to(dtype) * 4
    merged[0, :4] = torch.tensor([90.0, -90.0, math.inf, math.nan])
    gated, up = merged.chunk(2, -1)
    eps = torch.finfo(dtype).eps
    found, expected = kernels.gate(gated, up, activation), reference.gate(gated, up, activation)
    # PyTorch's `1 + tanh` loses the digits of what is near 0.
    torch.testing.assert_close(found, expected, atol=max(4 * eps, 4e-6), rtol=4 * eps, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_vocabulary", [300, 8192, 20_001])
def test_reading_logits(dtype: torch.dtype, n_vocabulary: int):
    logits = torch.randn(6, n_vocabulary, device=DEVICE).to(dtype)
    logits[1, [7, 200, -1]] = 9.0  # the first of equals
    logits[2, -1] = 9.0
    logits[3] = -math.inf
    logits[4, [30, -1]] = math.nan  # the first of these as well
    logits[5, 250] = math.inf
    answers = torch.tensor([4, n_vocabulary - 1], device=DEVICE)
    found, expected = kernels.read_logits(logits, answers), reference.read_logits(logits, answers)
    assert found[4, 1].isnan()
    torch.testing.assert_close(found, expected, atol=0, rtol=0, equal_nan=True)
