"""Cards that are not here: the kernels are compiled for them as they would be launched on them, and not run.

The real functions are called, on a CPU's tensors, and each launch only compiles; so the types, constants and
alignments are those that Triton finds. The compiler and the assembler come with Triton's wheel.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rank1_hf.decoding.kernels import triton_attention

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Card:
    """Sizes of a compute capability, from the CUDA programming guide's table of technical specifications.

    Attributes:
        capability: times ten.
        shared_memory: what a program may have, in bytes.
        threads: a multiprocessor's.
    """

    capability: int
    shared_memory: int
    threads: int

    def __str__(self) -> str:
        return f"sm_{self.capability}"


CARDS = [
    Card(75, 65_536, 1024),
    Card(80, 166_912, 2048),
    Card(86, 101_376, 1536),
    Card(89, 101_376, 1536),
    Card(90, 232_448, 2048),
    Card(100, 232_448, 2048),
    Card(120, 101_376, 1536),
]


@dataclass(frozen=True)
class Compiled:
    """A kernel as a card would get it.

    Attributes:
        name: the kernel's.
        shared_memory: bytes a program.
        registers: of a thread.
        spilled: bytes of a thread that did not fit into registers.
        programs: how many of them fit on a multiprocessor.
        ptx, ttgir: what it was compiled from.
    """

    name: str
    shared_memory: int
    registers: int
    spilled: int
    programs: int
    ptx: str
    ttgir: str

    @property
    def uses_tensor_cores(self) -> bool:
        return bool(re.search(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma", self.ptx))

    @property
    def loads_ahead(self) -> bool:
        """Whether keys and values are on their way while those before them are waited for."""
        waits = re.findall(r"async_wait.*?num = (\d+)", self.ttgir)
        return bool(waits) and int(waits[0]) > 0


@contextmanager
def compiling_for(card: Card) -> Iterator[list[Compiled]]:
    """Within, launches compile for a card; the list is what has been compiled."""
    target = SimpleNamespace(
        get_current_device=lambda: card.capability,  # Triton keeps compiled kernels by device
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", card.capability, 32),
    )
    compiled: dict[str, Compiled] = {}
    run = JITFunction.run

    def warm_up(self: JITFunction, *args: object, grid: object, warmup: bool, **options: object) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in compiled:
            compiled[kernel.hash] = _examined(card, kernel)
            found.append(compiled[kernel.hash])

    found: list[Compiled] = []
    limits = divmod(card.capability, 10), card.shared_memory
    before = driver._active
    driver.set_active(target)
    try:
        with (
            patch.object(JITFunction, "run", warm_up),
            patch.object(triton_attention, "device_limits", lambda _: limits),
        ):
            yield found
    finally:
        driver._active = before


def _examined(card: Card, kernel: object) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([_TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True)
    numbers = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    registers, threads = numbers["REG"], 32 * kernel.metadata.num_warps
    # A program's shared memory has 1 KB of the system's, and registers come by the eight.
    by_shared_memory = (card.shared_memory + 1024) // (kernel.metadata.shared + 1024)
    by_registers = 65_536 // (-(-registers // 8) * 8 * threads)
    return Compiled(
        kernel.metadata.name,
        kernel.metadata.shared,
        registers,
        numbers["STACK"] + numbers["LOCAL"],
        min(by_shared_memory, by_registers, card.threads // threads),
        kernel.asm["ptx"],
        kernel.asm["ttgir"],
    )
