"""Compiles the C++ kernels on first use, with the system's compiler, for the processor they will run on.

What is compiled is kept in a folder of the user's and found there by its source, compiler and processor. Processes that
start together may compile the same file; each puts its own in place in one move.
"""

import atexit
import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

_COMPILERS = ("g++", "c++")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fopenmp")
_PROCESSOR = "-march=native"
_SECONDS = 120


def compiled(source: Path, *options: str) -> ctypes.CDLL:
    """A source file as a loaded library.

    OpenMP is not linked: its functions are those of the runtime that PyTorch has loaded, of which there must be one.

    Args:
        source: the file; it may include headers beside it.
        options: more of the compiler's.

    Raises:
        ValueError: there is no compiler, or it fails; the message says why and what to do. It is tried once.
    """
    found = _outcome(source, options)
    if isinstance(found, str):
        raise ValueError(found)
    return found


@cache
def _outcome(source: Path, options: tuple[str, ...]) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        return _loaded(source, options)
    except (ValueError, OSError) as error:  # a full disk is one
        return str(error)


def _loaded(source: Path, options: tuple[str, ...]) -> ctypes.CDLL:
    if sys.platform != "linux":
        raise ValueError("the CPU kernels are for Linux")
    compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, _COMPILERS))[:1]
    if not compiler:
        raise ValueError("there is no C++ compiler to compile the CPU kernels with; install g++")
    library = cache_folder() / f"{source.stem}-{_key(compiler, source, options)}.so"
    if library.exists():
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # cut off, or from a machine that shares the folder
            logger.info("%s cannot be loaded, and is compiled again", library)
    logger.info("compiling the CPU kernels, once for this machine: a few seconds")
    _compile(compiler, source, library, options)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise ValueError(f"the CPU kernels cannot be loaded: {error}") from error


@cache
def cache_folder() -> Path:
    """Where compiled kernels are kept: RANK1_HF_CACHE, else the user's cache folder, else one for this process."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(os.environ.get("RANK1_HF_CACHE") or Path(home, "rank1_hf"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and _is_ours(folder):
            return folder
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="rank1_hf-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    logger.info("%s cannot be written to, so the CPU kernels are compiled anew in each process", folder)
    return Path(temporary)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put a library there, which we would load."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _key(compiler: list[str], source: Path, options: tuple[str, ...]) -> str:
    """Of everything that decides what is compiled."""
    target = _run([*compiler, _PROCESSOR, "-Q", "--help=target"])  # what "native" stands for here
    sources = [source, *sorted(source.parent.glob("*.h"))]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    parts = [*texts, _run([*compiler, "--version"]), target, *_FLAGS, *options]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: list[str], source: Path, library: Path, options: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unit, made = Path(folder, "kernels.o"), Path(folder, library.name)
        _run([*compiler, *_FLAGS, _PROCESSOR, *options, "-c", str(source), "-o", str(unit)])
        _run([*compiler, "-shared", str(unit), "-o", str(made)])  # without -fopenmp: see `compiled`
        made.replace(library)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"the C++ compiler {command[0]} cannot be run: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"the C++ compiler {command[0]} cannot compile the CPU kernels: {last}")
    return done.stdout
