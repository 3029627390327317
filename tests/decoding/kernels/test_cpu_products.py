"""The CPU's product of a linear layer, against float64 and against itself beside other rows."""

import pytest
import torch
from torch import Tensor

from rank1_hf.decoding.kernels import cpu
from rank1_hf.decoding.packed import PANELS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def assert_multiplies(dtype: torch.dtype, n_rows: int, n_in: int, n_out: int) -> None:
    """Rounded once: within half a unit of the dtype, but for float32, whose sums have their own rounding."""
    states, weight = torch.randn(n_rows, n_in).to(dtype), (torch.randn(n_out, n_in) * n_in**-0.5).to(dtype)
    bias = torch.randn(n_out).to(dtype)
    found = cpu.multiply(states, PANELS.pack(weight), bias, n_out)
    expected = states.double() @ weight.double().T + bias.double()
    rounding = 1e-5 if dtype == torch.float32 else 0.51 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-5)
    torch.testing.assert_close(PANELS.unpack(PANELS.pack(weight), n_out), weight, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n_rows", "n_in", "n_out"),
    [
        (1, 64, 32),
        (5, 97, 161),  # no whole vectors, no whole panel
        (13, 1300, 40),  # inputs converted in several parts
        (230, 70, 50),  # more than a panel is read for at once
        (0, 16, 16),
        (3, 1, 1),
    ],
)
def test_products(dtype: torch.dtype, n_rows: int, n_in: int, n_out: int):
    torch.manual_seed(0)
    assert_multiplies(dtype, n_rows, n_in, n_out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_gets_the_same_bits_beside_any_others(dtype: torch.dtype):
    """Whatever block of rows it falls into, and however many threads there are."""
    torch.manual_seed(0)
    states, panels = torch.randn(230, 600).to(dtype), PANELS.pack(torch.randn(100, 600).to(dtype))
    together = cpu.multiply(states, panels, None, 100)
    n_threads = torch.get_num_threads()
    try:
        for n_rows in range(1, 30):
            torch.set_num_threads(1 + n_rows % 2)
            part = slice(n_rows, 2 * n_rows)
            assert torch.equal(cpu.multiply(states[part], panels, None, 100), together[part])
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_in_its_row_and_its_output(dtype: torch.dtype):
    states, weight = torch.ones(9, 40, dtype=dtype), torch.ones(20, 40, dtype=dtype)
    states[2, 7], states[4, 0], weight[19, 3] = torch.nan, torch.inf, -torch.inf
    output = cpu.multiply(states, PANELS.pack(weight), None, 20)
    expected = torch.full((9, 20), 40.0, dtype=dtype)
    expected[4], expected[:, 19], expected[2] = torch.inf, -torch.inf, torch.nan
    expected[4, 19] = torch.nan
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)


def test_states_may_have_any_leading_dimensions_and_strides():
    torch.manual_seed(0)
    weight, states = torch.randn(24, 18), torch.randn(2, 18, 5).transpose(1, 2)
    found = cpu.multiply(states, PANELS.pack(weight), None, 24)
    torch.testing.assert_close(found, states @ weight.T)
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("states", "error"), [(torch.ones(2, 9), RuntimeError), (torch.ones(2, 8, dtype=torch.bfloat16), TypeError)]
)
def test_what_the_kernel_would_misread_is_refused(states: Tensor, error: type[Exception]):
    with pytest.raises(error):
        cpu.multiply(states, PANELS.pack(torch.ones(4, 8)), None, 4)
