"""Pairs judged by actors on two machines: Ray's own cluster of local processes, of which an actor and a machine die."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rank1_hf.evaluation.outputs import _COLUMNS
from rank1_hf.reranker import Rank1
from rank1_hf.viewing.judgments import COLUMNS
from tests.tiny_models import TEXT

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: tests tell nobody
ray = pytest.importorskip("ray")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from rank1_hf.integrations.ray import _Judge, rerank  # noqa: E402

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PASSAGES = [line for line in TEXT.splitlines() if line]
TEXTS: list[tuple[Any, Any]] = [
    (query, passage)
    for query in ("what carries an aeroplane?", "what is bread?", "who flies?", "where is the wing?")
    for passage in PASSAGES
]
TEXTS += [(" ", "air"), ("air", None), (None, "air"), TEXTS[3]]
"""Of four queries; three that cannot be judged, and one that stands there twice."""
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 48}


def table(texts: list[tuple[Any, Any]] = TEXTS, query: str = "query", passage: str = "passage") -> pa.Table:
    rows = [{"id": place, query: texts[place][0], passage: texts[place][1]} for place in range(len(texts))]
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head, and two machines that say they have a GPU."""
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # a machine that is gone is noticed
    head = small | {"include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_gpus=1, **small)
        ray.init(cluster.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def actors(node: Any) -> list[psutil.Process]:
    """The actors that judge on one machine."""
    processes = psutil.Process(node.all_processes["raylet"][0].process.pid).children()
    return [process for process in processes if process.cmdline()[:1] and "_Judge" in process.cmdline()[0]]


@pytest.fixture(scope="module")
def judged(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """What the README's snippet wrote, while first an actor died, and then the machine of the other."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "pairs").mkdir()
    pq.write_table(table(), folder / "pairs" / "0.parquet")
    (snippet,) = re.findall(r"^```py\n([^`]*integrations\.ray[^`]*)^```", README, flags=re.MULTILINE)
    small = f"None, batch_size=2, **{OPTIONS}"
    for theirs, ours in {'"jhu-clsp/rank1-7b"': small, "(1, 8)": "2", "/mnt/shared": str(folder)}.items():
        assert theirs in snippet
        snippet = snippet.replace(theirs, ours)
    first, second = cluster.worker_nodes
    over = threading.Event()
    died: list[int] = []

    def n_files() -> int:
        return len(list((folder / "judged").glob("*.parquet")))

    def kill() -> None:
        while not over.wait(0.02):
            if not died and n_files() >= 1 and actors(first) and actors(second):
                actors(first)[0].kill()
                died.append(n_files())
            elif died and n_files() >= died[0] + 3:
                cluster.remove_node(second, allow_graceful=False)
                died.append(n_files())
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        exec(compile(snippet, "README.md, the Ray snippet", "exec"), {})
    finally:
        over.set()
        killer.join()
    assert len(died) == 2
    assert died[0] < died[1] < n_files(), "both died in mid-run"
    return pq.read_table(folder / "judged").sort_by("id")


def test_every_pair_is_judged_once(judged: pa.Table):
    assert judged["id"].to_pylist() == list(range(len(TEXTS)))
    assert judged.select(["id", "query", "passage"]).equals(table())


def test_judgments_are_those_of_one_machine(judged: pa.Table):
    alone = [judgment.to_dict() for judgment in Rank1(**OPTIONS).judge(TEXTS)]
    for row, judgment in zip(judged.to_pylist(), alone, strict=True):
        for name in ("score", "log_odds"):
            assert row.pop(name) == pytest.approx(judgment[name], abs=1e-4)
        assert {name: row[name] for name in COLUMNS if name in row} == {
            name: judgment[name] for name in COLUMNS if name in row
        }


def test_columns_are_those_of_an_evaluation(judged: pa.Table):
    kinds = {field.name: field.type for field in judged.schema}
    assert {name: kinds[name] for name in COLUMNS} == {name: getattr(pa, _COLUMNS[name])() for name in COLUMNS}


def test_what_is_missing_or_in_the_way_is_said_before_anything_runs(cluster: Cluster):
    with pytest.raises(ValueError, match=r"no column 'passage', only 'id', 'query', 'text'; name yours"):
        rerank(ray.data.from_arrow(table(passage="text")), num_gpus=0)
    with pytest.raises(ValueError, match=r"\.rename_columns\({'score': 'first_score'}\)"):
        rerank(ray.data.from_arrow(table().append_column("score", [[1.0] * len(TEXTS)])), num_gpus=0)


def test_columns_known_only_once_data_is_read_are_checked_then(cluster: Cluster, tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "text": "b"}\n', encoding="utf-8")
    pairs = ray.data.read_json(str(tmp_path / "pairs.jsonl"))
    with pytest.raises(ray.exceptions.RayError, match="no column 'passage'"):
        rerank(pairs, num_gpus=4).take_all()  # for which there is no room: no actor starts


def test_a_model_that_is_not_there_ends_the_run(cluster: Cluster, tmp_path: Path):
    with pytest.raises(ray.exceptions.RayError, match=r"there is no folder .*nothing; give an existing folder"):
        rerank(ray.data.from_arrow(table()), tmp_path / "nothing", num_gpus=0).take_all()


def test_texts_with_instructions_and_titles_in_columns_of_any_name():
    queries = [{"text": "what flies?", "instruction": "Only birds."}, {"text": "what flies?", "instruction": None}]
    passages = [{"title": "Birds", "text": "They fly."}, {"title": None, "text": "It flies, and it is much longer."}]
    pairs = list(zip(queries, passages, strict=True))
    judged = _Judge(None, ("q", "p"), OPTIONS)(table(pairs, "q", "p"))
    assert judged.select(["id", "q", "p"]).equals(table(pairs, "q", "p"))
    expected = Rank1(**OPTIONS).judge(pairs)
    assert judged["chain"].to_pylist() == [judgment.chain for judgment in expected]
    assert judged["log_odds"].to_pylist() == pytest.approx([judgment.log_odds for judgment in expected], abs=1e-4)


class TestRefused:
    def test_options_that_rank1_does_not_have(self):
        with pytest.raises(TypeError, match="'max_token'"):
            rerank(None, num_gpus=1, max_token=3)

    @pytest.mark.parametrize("number", [-1, True, 0.5])
    def test_no_number_of_gpus(self, number: object):
        with pytest.raises(ValueError, match="num_gpus must be a whole number of at least 0"):
            rerank(None, num_gpus=number)

    @pytest.mark.parametrize(
        ("concurrency", "options", "free"),
        [(3, {}, 0), ((3, 9), {}, 0), (4, {}, -1), (3, {"num_cpus": 0.8}, 0.6), (1, {"num_cpus": 3}, 0)],
    )
    def test_actors_that_leave_no_cpu_for_reading(self, monkeypatch, concurrency, options, free):
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0, "GPU": 8.0})
        for num_gpus in (0, 1):  # an actor with a GPU holds a CPU too
            with pytest.raises(ValueError, match=f"would hold {3 - free:g} of the cluster's 3 CPUs.*fewer actors"):
                rerank(None, num_gpus=num_gpus, concurrency=concurrency, ray_options=options)

    @pytest.mark.parametrize(
        ("concurrency", "options"),
        [(None, {}), (2, {}), ((1, 8), {}), (8, {"num_cpus": 0}), (4, {"num_cpus": 0.5}), (1, {"num_cpus": 2})],
    )
    def test_actors_that_leave_one(self, monkeypatch, concurrency, options):
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0, "GPU": 8.0})
        with pytest.raises(AttributeError, match="schema"):  # of the dataset, which is looked at next
            rerank(None, num_gpus=1, concurrency=concurrency, ray_options=options)

    def test_what_is_not_reproducible(self):
        with pytest.raises(ValueError, match="reproducible=True cannot hold"):
            rerank(None, num_gpus=1, quantization="8bit", reproducible=True)

    def test_a_loaded_model(self):
        with pytest.raises(TypeError, match="give a hub name or a folder, not Rank1"):
            rerank(None, Rank1(device="cpu"), num_gpus=0)
