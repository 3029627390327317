"""`CudaCapture` against an emulation of what PyTorch demands of CUDA graphs, so that it is tested without a GPU.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (`create_or_incref_pool`), aten/src/ATen/cuda/CUDAGraph.cpp and
CublasHandlePool.cpp, and of `torch.cuda.graph`:

1. A graph holds its memory pool. A pool whose graphs are all gone cannot be captured into again while anything in it is
   alive (PyTorch up to 2.11).
2. The first product on a stream makes cuBLAS's workspace for that stream, where allocations go at that moment. In
   PyTorch 2.12 and 2.13 destroying any graph captured on a stream frees that stream's workspace.
3. `torch.cuda.graph` without `stream=` captures everything in the process on one stream, on the device that was current
   the first time.
4. What waits for the device inside of a capture breaks it, and leaves the thread on the stream of the capture.
"""

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from rank1_hf.decoding import defaults, loop
from rank1_hf.decoding.graphs import CudaCapture
from rank1_hf.decoding.kernels import reference
from tests.decoding.oracle import assert_same


class Stream:
    """`torch.cuda.Stream`."""

    def __init__(self, device: object = None) -> None:
        self.device = device

    def wait_stream(self, other: "Stream") -> None: ...


DEFAULT = Stream()


class Cuda:
    """The emulation: what the device and PyTorch remember."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.pools: dict[int, int] = {}  # pool -> how many graphs hold it
        self.workspaces: dict[object, int | None] = {}  # stream -> the pool of its workspace; None: the ordinary one
        self.handles = itertools.count(1)
        self.default_stream: object = None
        self.current: object = DEFAULT
        self.capturing: int | None = None
        self.sync_debug_mode: str | int = 0
        self.broken_captures = 0

    def product(self) -> None:
        """A matrix product on the current stream."""
        self.workspaces.setdefault(self.current, self.capturing)

    def wait(self) -> None:
        """Something that waits for the device."""
        if self.capturing is not None:
            self.broken_captures += 1
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.sync_debug_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def empty_cache(self) -> None:
        for pool, n_graphs in list(self.pools.items()):
            if n_graphs == 0 and pool not in self.workspaces.values():
                del self.pools[pool]

    def released(self, pool: int, stream: object, on_stream: "weakref.WeakSet[Graph]") -> None:
        self.pools[pool] -= 1
        if self.version == "2.13" and stream in self.workspaces:
            del self.workspaces[stream]
            for graph in on_stream:
                graph.is_dangling = True


class Graph:
    """`torch.cuda.CUDAGraph`."""

    is_dangling = False

    def replay(self) -> None:
        assert not self.is_dangling, "cudaErrorIllegalAddress: the workspace that this graph uses is gone"
        self.again()


@pytest.fixture(params=["2.11", "2.13"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda(request.param)
    graphs_of: dict[object, weakref.WeakSet[Graph]] = {}

    @contextmanager
    def on(stream: object) -> Iterator[None]:
        before, cuda.current = cuda.current, stream
        try:
            yield
        finally:
            cuda.current = before

    class Capturing:
        def __init__(
            self, graph: Graph, pool: int, stream: object = None, *, capture_error_mode: str = "global"
        ) -> None:
            assert capture_error_mode == "thread_local", "another thread's work would break the capture"
            if stream is None:
                stream = cuda.default_stream = cuda.default_stream or Stream()
            self.graph, self.pool, self.stream = graph, pool, stream

        def __enter__(self) -> None:
            cuda.empty_cache()
            cuda.current = self.stream
            if cuda.pools.get(self.pool) == 0:
                raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED, please report a bug to PyTorch")
            cuda.pools[self.pool] = cuda.pools.get(self.pool, 0) + 1
            cuda.capturing = self.pool

        def __exit__(self, kind: object, *error: object) -> None:
            cuda.capturing = None
            if kind is not None:
                return
            cuda.current = DEFAULT
            graphs = graphs_of.setdefault(self.stream, weakref.WeakSet())
            graphs.add(self.graph)
            weakref.finalize(self.graph, cuda.released, self.pool, self.stream, graphs)

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(cuda.handles))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: cuda.current)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capturing)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: cuda.sync_debug_mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(cuda, "sync_debug_mode", mode))
    for module in (defaults, loop):
        monkeypatch.setattr(module, "kernels_for", lambda *model: reference)
    monkeypatch.setattr(defaults, "has_graphs", lambda device: True)
    return cuda


class Replaying(CudaCapture):
    """Runs the function again where the device would replay it."""

    def __call__(self, function):
        found, replay = super().__call__(function)
        replay.__self__.again = lambda: found.copy_(function())
        return found, replay


def prepared(oracle, folder, cuda: Cuda, device: str = "cuda:0", **options):
    """A decoder whose model tells the emulation of its products."""
    decoder = oracle.decoder(folder, **options)
    forward = decoder.model.get_output_embeddings().forward

    def multiplied(*args):
        cuda.product()
        return forward(*args)

    decoder.model.get_output_embeddings().forward = multiplied  # a forward hook would keep it from being captured
    decoder._graphs._capture = Replaying(torch.device(device))
    return decoder


def test_graphs_come_back_after_the_pools_have_moved(case, cuda: Cuda, caplog):
    folder, oracle, requests, expected = case("qwen2")
    decoder = prepared(oracle, folder, cuda)
    decoder._cache._capacity = 1  # so that the pools soon have to grow
    assert_same(list(decoder.run(requests, max_rows=3)), expected)
    assert "cannot be captured" not in caplog.text
    assert decoder.stats.captured_steps > decoder.stats.steps / 2


def test_a_model_that_goes_leaves_the_graphs_of_another_alone(case, cuda: Cuda):
    folder, oracle, requests, expected = case("qwen2")
    first, second = (prepared(oracle, folder, cuda) for _ in range(2))
    assert_same(list(first.run(requests, max_rows=3)), expected)
    assert_same(list(second.run(requests, max_rows=3)), expected)
    first._graphs.clear()
    assert_same(list(second.run(requests, max_rows=3)), expected)


def test_every_device_captures_on_a_stream_of_its_own(case, cuda: Cuda):
    folder, oracle, requests, expected = case("qwen2")
    for device in ("cuda:0", "cuda:1"):
        decoder = prepared(oracle, folder, cuda, device)
        assert_same(list(decoder.run(requests, max_rows=3)), expected)
        assert decoder._graphs._capture._stream.device == torch.device(device)
    assert cuda.default_stream is None


def test_one_stream_more_has_a_workspace(case, cuda: Cuda):
    """Each keeps 8 MiB or 32 MiB."""
    folder, oracle, requests, expected = case("qwen2")
    decoder = prepared(oracle, folder, cuda)
    assert_same(list(decoder.run(requests, max_rows=32)), expected)
    assert len(cuda.workspaces) == 2


def test_a_model_that_waits_for_the_device_is_found_before_any_capture(case, cuda: Cuda, caplog):
    """As dynamic NTK and longrope do, which look at the longest position."""
    folder, oracle, requests, expected = case("qwen2")
    decoder = prepared(oracle, folder, cuda)
    rotary = decoder.model.base_model.rotary_emb
    forward = rotary.forward

    def looking(*args, **options):
        cuda.wait()
        return forward(*args, **options)

    rotary.forward = looking
    assert_same(list(decoder.run(requests)), expected)
    assert cuda.broken_captures == decoder.stats.captured_steps == 0
    assert caplog.text.count("cannot be captured") == 1
    assert cuda.sync_debug_mode == 0


def test_a_capture_that_breaks_leaves_the_thread_where_it_was(case, cuda: Cuda):
    capture = CudaCapture(torch.device("cuda:0"))
    capture._never_waits = True
    runs = itertools.count()

    def function():
        if next(runs):
            cuda.wait()
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="not permitted"):
        capture(function)
    assert cuda.current is DEFAULT
