"""The steps of a GPU on fake CUDA tensors: nothing waits for the device, and few kernels are launched."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.step import placeholder
from tests.decoding.fake_cuda import DEVICE, FakeGpu, fake_gpu

MEMBERS = ["0.5b", "7b", "llama3-8b", "mistral-2501-24b"]
KERNELS_OF_A_LAYER = 12
"""Two norms, four products (q, k and v with their biases may take two), rotation, attention in two, gate, residual."""

KERNELS_AROUND_THE_LAYERS = 32
"""Of a captured step: its table, the embedding, rotary angles, the final norm, the logits and what is read of them."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """With two layers of a 7B model."""
    with fake_gpu("7b", 2, monkeypatch) as found:
        yield found


@pytest.mark.parametrize("member", MEMBERS)
def test_kernels_of_a_decode_step(member: str, monkeypatch: pytest.MonkeyPatch):
    with fake_gpu(member, 2, monkeypatch) as gpu:
        rows = [RowKV() for _ in range(5)]
        gpu.eager([(row, [5] * 100) for row in rows])
        found = gpu.captured([(row, [5, 6, 7]) for row in rows])  # each with a draft
        assert (found.shape, found.device) == ((15, 4), DEVICE)
        first, second = (i for i, name in enumerate(gpu.launches.names) if name == "attend")
        assert second - first <= KERNELS_OF_A_LAYER
        assert len(gpu.launches.names) <= 2 * KERNELS_OF_A_LAYER + KERNELS_AROUND_THE_LAYERS


def test_layers_on_two_gpus(monkeypatch: pytest.MonkeyPatch):
    """Each layer computes on its device, with its keys and values and its tables there; fused, as on one."""
    with fake_gpu("7b", 4, monkeypatch, n_gpus=2) as gpu:
        first, second = RowKV(), RowKV()
        gpu.eager([(first, [5] * 100), (second, [5] * 40)])
        found = gpu.eager([(first, [5]), (second, [5] * 3)])
        assert found.shape == (2, 4)
        assert [gpu.cache.layer(n)[0].device.index for n in range(4)] == [0, 0, 1, 1]
        assert gpu.launches.names.count("rotate_and_write") == 4
        gpu.eager([(first, [placeholder(0)]), (second, [placeholder(1)])], found[:, 0])


def test_a_7b_model_launches_at_most_420_kernels_a_step():
    assert 28 * KERNELS_OF_A_LAYER + KERNELS_AROUND_THE_LAYERS <= 420


def test_a_replay_launches_a_few_kernels_besides_the_graph(gpu: FakeGpu):
    row = RowKV()
    gpu.eager([(row, [5] * 100)])
    found = gpu.captured([(row, [5])])
    gpu.captured([(row, [placeholder(0)])], found[:, 0])
    assert not {"linear", "attend"} & set(gpu.launches.names)
    assert len(gpu.launches.names) <= 12  # the table filled in and copied, the result copied


def test_prefill_drafts_and_chunks_wait_for_nothing(gpu: FakeGpu):
    first, second, third = (RowKV() for _ in range(3))
    gpu.eager([(first, [5] * 300), (second, [5] * 100)])
    behind = [gpu.cache.fork(first, n_tokens) for n_tokens in (150, 128)]  # within a page, and at its end
    found = gpu.eager([(first, [5]), (second, [5] * 4), (behind[0], [5] * 200), (behind[1], [5] * 60)])
    assert (found.shape, found.device) == ((4, 4), DEVICE)
    gpu.eager([(second, [placeholder(1)]), (third, [5] * 500)], found[:, 0])
    gpu.eager([(third, [5] * 400)])


def test_rows_with_few_tokens_are_attended_in_one_call_and_the_others_in_one(gpu: FakeGpu):
    rows = [RowKV() for _ in range(6)]
    gpu.eager([(row, [5] * 100) for row in rows[:3]])
    assert gpu.launches.names.count("attend") == 2  # layers
    gpu.eager([*((row, [5]) for row in rows[:3]), *((row, [5] * 50) for row in rows[3:])])
    assert gpu.launches.names.count("attend") == 2 * 2


ROPE = {"rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("rope", "asks_the_device"),
    [
        ({"rope_type": "linear"}, False),
        ({"rope_type": "yarn"}, False),
        ({"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}, False),
        ({"rope_type": "dynamic"}, True),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_kinds_of_rope_that_cannot_be_captured(rope: dict, asks_the_device: bool, monkeypatch: pytest.MonkeyPatch):
    """Dynamic NTK waits for the longest position: the dry run before a capture refuses that.

    So does longrope in Transformers before it chose its factors on the device.
    """
    with fake_gpu("7b", 1, monkeypatch, rope_parameters=ROPE | rope) as gpu:
        row = RowKV()
        if asks_the_device:
            with pytest.raises(DataDependentOutputException):
                gpu.eager([(row, [5] * 100)])
        else:
            gpu.eager([(row, [5] * 100)])
            gpu.captured([(row, [5])])


@pytest.mark.parametrize(
    "waits",
    [
        lambda on_gpu: on_gpu.sum().item(),
        lambda on_gpu: on_gpu.nonzero(),
        lambda on_gpu: on_gpu[on_gpu > 0],
        lambda on_gpu: on_gpu[[1, 0]],
        lambda on_gpu: on_gpu[torch.tensor([1, 0])],
        lambda on_gpu: on_gpu.to("cpu"),
        lambda on_gpu: torch.ones(3).to(DEVICE),
        lambda on_gpu: on_gpu.copy_(torch.ones(3)),
        lambda on_gpu: on_gpu + torch.ones(3),
        lambda on_gpu: torch.nn.functional.scaled_dot_product_attention(*[on_gpu[None, None]] * 3),
    ],
)
def test_what_fake_tensors_refuse(gpu: FakeGpu, waits: Callable[[Tensor], object]):
    on_gpu = torch.empty(3, device=DEVICE)
    with torch.inference_mode(), gpu.launches, pytest.raises((AssertionError, RuntimeError)):
        waits(on_gpu)
