"""What the server costs, and what it stands: throughput beside one offline call, clients that leave, hostile requests.

    python scripts/server_check.py                          # the embedded model
    python scripts/server_check.py --model FOLDER --hostile 10000

They talk over loopback. The clients beside which the throughput is measured have a process of their own, but the same
cores. Prints a line for each figure, and ends with 1 where a request was lost, got a 5xx or left something behind.

Needs `pip install 'rank1-hf[serve,test]'`.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

import httpx
import psutil
import uvicorn

from rank1_hf import Rank1
from rank1_hf.decoding.loop import Decoder
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.serving.app import make_app
from rank1_hf.serving.engine import Engine

Body = dict[str, Any]

HEAD = b"POST /rerank HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
SCORE_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: test\r\n"
AT_ONCE = 16


def main() -> int:
    """The command line."""
    options = parse_options()
    reranker = Rank1(options.model, dtype=options.dtype, device=options.device, max_new_tokens=options.max_new_tokens)
    bodies = sample(options.clients, options.documents)
    with serving(reranker) as (engine, port):
        passed = measure_throughput(reranker, port, bodies, options.repeats)
        passed &= measure_leaving(engine, port, bodies)
        passed &= send_hostile(engine, port, options.hostile, random.Random(options.seed))
    return 0 if passed else 1


@contextmanager
def serving(reranker: Rank1) -> Iterator[tuple[Engine, int]]:
    """A server on loopback, in a thread: its engine and its port."""
    with (
        Engine(reranker, max_pairs=10_000) as engine,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listening,
    ):
        server = uvicorn.Server(uvicorn.Config(make_app(engine), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield engine, listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def sample(n_clients: int, n_documents: int) -> list[Body]:
    """A request for each client, no pair twice as long as the sample of Cranfield has so many."""
    collection = read_beir(SAMPLE)
    texts = {query: cycle(document.text for document in collection.corpus.values()) for query in collection.queries}
    return [
        {"query": collection.queries[query], "documents": list(islice(texts[query], n_documents))}
        for query in islice(cycle(collection.queries), n_clients)
    ]


# ---- throughput ------------------------------------------------------------------------------------------------------


def measure_throughput(reranker: Rank1, port: int, bodies: list[Body], repeats: int) -> bool:
    """The same pairs in one offline call and from clients that all ask at once, in turns."""
    pairs = [(body["query"], document) for body in bodies for document in body["documents"]]
    reranker.judge(pairs[:32], show_progress_bar=False)  # what is done once only
    offline: list[tuple[float, float]] = []
    served: list[tuple[float, float]] = []
    n_judged = 0
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as clients:
        clients.submit(ask, port, []).result()  # the process has started
        for _ in range(repeats):
            with timed(offline):
                reranker.judge(pairs, show_progress_bar=False)
            with timed(served):
                n_judged += sum(clients.submit(ask, port, bodies).result())
    wall, cpu = (sorted(there[i] / here[i] for there, here in zip(offline, served, strict=True)) for i in (0, 1))
    n_lost = repeats * len(pairs) - n_judged
    print(
        f"throughput: {len(bodies)} clients, {len(pairs)} pairs, {repeats} turns; as a share of one call's: "
        f"{statistics.median(wall):.3f} ({wall[0]:.3f}-{wall[-1]:.3f}) by the clock, "
        f"{statistics.median(cpu):.3f} ({cpu[0]:.3f}-{cpu[-1]:.3f}) by CPU time; "
        f"{statistics.median(len(pairs) / seconds for seconds, _ in served):.2f} pairs/s served; {n_lost} lost",
        flush=True,
    )
    return n_lost == 0


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[None]:
    """Note how many seconds and how much CPU time of this process, in seconds, the block takes."""
    started, cpu = time.perf_counter(), time.process_time()
    yield
    into.append((time.perf_counter() - started, time.process_time() - cpu))


def ask(port: int, bodies: list[Body]) -> list[int]:
    """Ask everything at once. Returns how many results each client got."""
    return asyncio.run(ask_all(port, bodies))


async def ask_all(port: int, bodies: list[Body]) -> list[int]:
    """`ask`, in an event loop."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
        url = f"http://127.0.0.1:{port}/rerank"
        responses = await asyncio.gather(*(client.post(url, json=body) for body in bodies))
    return [len(response.json().get("results", [])) for response in responses]


# ---- clients that leave ----------------------------------------------------------------------------------------------


def measure_leaving(engine: Engine, port: int, bodies: list[Body]) -> bool:
    """All clients ask and half of them leave: how long until the engine has nothing of theirs any more?"""
    leaving = [socket.create_connection(("127.0.0.1", port)) for _ in bodies[::2]]
    for connection, body in zip(leaving, bodies[::2], strict=True):
        connection.sendall(message(json.dumps(body).encode()))
    others = threading.Thread(target=lambda: counts.extend(asyncio.run(ask_all(port, bodies[1::2]))))
    counts: list[int] = []
    others.start()
    remaining = sum(len(body["documents"]) for body in bodies[1::2])
    stats = engine.reranker.decoder.stats
    wait_until(lambda: (engine.n_pairs > remaining and stats.live_rows > 0) or not others.is_alive())
    n_before, started = stats.live_rows, time.perf_counter()
    for connection in leaving:
        connection.close()
    wait_until(lambda: engine.n_pairs <= remaining)
    steps = stats.steps
    wait_until(lambda: stats.steps > steps or not engine.n_pairs)  # rows leave between steps
    seconds = time.perf_counter() - started
    others.join()
    n_lost = remaining - sum(counts)
    print(
        f"leaving: {len(leaving)} of {len(bodies)} clients left; {n_before} rows were live; theirs were freed in "
        f"{seconds:.3f} s; the others lost {n_lost} of {remaining} results",
        flush=True,
    )
    return n_lost == 0 and is_empty(engine)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    while not condition():
        time.sleep(0.001)


def is_empty(engine: Engine) -> bool:
    """Whether nothing is left in the queue, in the loop and in the KV cache, at once or soon."""
    assert isinstance(engine.reranker.decoder, Decoder)
    for _ in range(1000):
        if not (engine.n_pairs or engine.n_waiting or engine.reranker.decoder._cache.n_pages_used):
            return True
        time.sleep(0.01)
    return False


# ---- hostile requests ------------------------------------------------------------------------------------------------


def send_hostile(engine: Engine, port: int, n_requests: int, chance: random.Random) -> bool:
    """Send what no client should: counts the answers, and what is left of it in memory."""
    process = psutil.Process()
    statuses: Counter[str] = Counter()
    resident: list[int] = []
    for _ in range(5):
        statuses += asyncio.run(send_all(port, (hostile(chance) for _ in range(n_requests // 5))))
        resident.append(process.memory_info().rss)
    emptied = is_empty(engine)
    (count,) = asyncio.run(ask_all(port, [{"query": "wings", "documents": ["A wing."]}]))
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in resident)
    print(
        f"hostile: {statuses.total()} requests: {dict(statuses.most_common())}; {sizes} MiB resident after each fifth; "
        f"{'nothing' if emptied else 'something'} is left; a good one is answered as before: {count == 1}"
    )
    return emptied and count == 1 and not any(status.startswith("5") for status in statuses)


def hostile(chance: random.Random) -> bytes:
    """A request that is wrong in one way or another, or cut off."""
    text = chance.choice(["wing", "", " ", "\x00", "</think> true", "🙂" * 50, "\u202e", "x" * 200_000, "<|im_end|>"])
    value = chance.choice([None, True, 3, -1, 1e400, 10**400, text, [], {}, [text], [[text]], {"text": text}])
    field = chance.choice(
        ["query", "documents", "texts", "top_n", "top_k", "rank_fields", "stream", "model", "instruction", text[:9]]
    )
    content = json.dumps({"query": "wings", "documents": ["A wing."]} | {field: value}).encode()
    mixed = {"query": "wings", "documents": ["A wing.", value, {"text": text, "of": value}, {"text": value}]}
    pairs = {"text_1": chance.choice(["wings", value]), "text_2": chance.choice([["A wing.", value], value])}
    ways = [
        lambda: message(content),
        lambda: message(json.dumps(mixed).encode()),
        lambda: message(json.dumps(pairs).encode(), SCORE_HEAD),
        lambda: message(content[: chance.randrange(len(content))]),
        lambda: message(bytes(chance.randrange(256) for _ in range(chance.randrange(200)))),
        lambda: message(b"[" * chance.choice([10, 1000, 100_000])),
        lambda: message(b'{"query": "\\ud800", "documents": ["\\udfff"]}'),
        lambda: message(json.dumps({"query": "a", "documents": ["b"] * chance.choice([0, 1001, 5000])}).encode()),
        lambda: (
            HEAD + b"Content-Length: " + chance.choice([b"-1", b"9" * 30, b"x", b"99999999999"]) + b"\r\n\r\n" + content
        ),
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chance.choice([b"zz\r\n", b"5\r\nab", b"0\r\n\r\n"]),
        lambda: HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        lambda: message(content)[: chance.randrange(len(content))],
        lambda: chance.choice([b"GET", b"PUT", b"BREW"]) + b" /rerank HTTP/1.1\r\nHost: test\r\n\r\n",
        lambda: b"GET /" + text.encode()[:50].hex().encode() + b"/../%00 HTTP/1.1\r\nHost: test\r\n\r\n",
        lambda: bytes(chance.randrange(256) for _ in range(50)) + b"\r\n\r\n",
    ]
    return chance.choice(ways)()


def message(content: bytes, head: bytes = HEAD) -> bytes:
    """A request with this body, as it goes over the wire."""
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


async def send_all(port: int, requests: Iterator[bytes]) -> Counter[str]:
    """Send requests, some at a time, and count the statuses that come back; "none" where none did."""
    statuses: Counter[str] = Counter()

    async def send(request: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            line = await asyncio.wait_for(reader.readline(), timeout=0.5)
            return line.split(b" ")[1].decode() if line else "none"
        except (OSError, TimeoutError):  # of a request that is not complete nothing comes back; the client leaves
            return "none"
        finally:
            writer.close()

    async def work() -> None:
        for request in requests:
            statuses[await send(request)] += 1

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return statuses


def parse_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; without it the embedded model")
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--documents", type=int, default=10, help="of each client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hostile", type=int, default=1000, help="hostile requests")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
