"""rank1 on many machines: a stage of a Ray Data pipeline.

    import ray
    from rank1_hf.integrations.ray import rerank

    pairs = ray.data.read_parquet("s3://bucket/pairs")  # with the columns "query" and "passage"
    judged = rerank(pairs, "jhu-clsp/rank1-7b", num_gpus=1, concurrency=(1, 8))
    judged.write_parquet("s3://bucket/judged")

Ray keeps the actors, moves the data, and gives the batches of an actor or machine that is lost to another one.
"""

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.inputs.values import is_whole_number, whole_number
from rank1_hf.integrations.ranking import with_decoding
from rank1_hf.models.quantization import check_batch_invariance
from rank1_hf.reranker import Rank1
from rank1_hf.viewing.judgments import COLUMNS

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, Dataset
except ImportError as error:
    raise ImportError("this needs Ray Data; install it with: pip install 'rank1-hf[ray]'") from error


def rerank(
    pairs: Dataset,
    model: str | Path | None = None,
    *,
    num_gpus: int,
    concurrency: int | tuple[int, int] | None = None,
    batch_size: int = 4096,
    query_column: str = "query",
    passage_column: str = "passage",
    ray_options: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401
) -> Dataset:
    """Judge every pair of a dataset. Lazy, as all of Ray Data: nothing runs until the result is written or read.

    Each actor has a whole model. Batches are judged as they come, so rows come in another order: give them an id.
    Where an actor or its machine is lost, its batches are judged again. A pair that cannot be judged gets an `error`
    and no score, and the others are unharmed.

    Args:
        pairs: a row each, with the columns `query_column` (text, or a struct of "text" and "instruction") and
            `passage_column` (text, or a struct of "title" and "text"). All columns are kept.
        model: a hub name, a folder that all machines see, or None: the small demonstration model that ships.
        num_gpus: of each actor. 0: on the CPU. More than 1 spreads the model of an actor over its GPUs.
        concurrency: how many actors; or the fewest and the most, between which Ray chooses. None: from 1 to as many as
            there is room for.
        batch_size: how many pairs an actor is given at a time, many times what decodes together, since at a batch's
            end only few are left. Fewer: less is done again when an actor is lost, and a small dataset has work for
            more actors.
        query_column, passage_column: where the pairs are.
        ray_options: other arguments of `Dataset.map_batches`: `num_cpus`, `memory`, `accelerator_type`, `runtime_env`.
        options: of `Rank1`. With `decoding="reproducible=on"` results do not depend on how the pairs fell into batches.
            No token as text: Ray keeps arguments where others can read them. Each machine takes its own, from
            `HF_TOKEN` in the environment in which Ray was started there, or from `hf auth login`.

    Returns:
        The dataset with the columns of `rank1_hf.viewing.judgments.COLUMNS`; null where there is no score.

    Raises:
        TypeError: an option is none of `Rank1`, or the model is a loaded one.
        ValueError: a column is missing or would be overwritten (where columns are only known once data is read, as of
            JSON, the run fails with this when the first are); `num_gpus` is no whole number; a token is given as text;
            or the actors would leave no CPU of the cluster for reading, so that the run would wait for ever.
    """
    if not is_whole_number(num_gpus, least=0):
        raise ValueError(f"num_gpus must be a whole number of at least 0, not {num_gpus!r}: a model fills its GPU")
    if not isinstance(model, str | Path | None):
        raise TypeError(f"each actor loads the model itself: give a hub name or a folder, not {type(model).__name__}")
    if num_gpus == 0:
        options = {"device": "cpu"} | options  # where there are GPUs, Ray has given them to others
    elif num_gpus > 1:
        options = {"device_map": "auto"} | options
    inspect.signature(Rank1).bind(model, **options)
    options = with_decoding(options, "rerank")
    if not isinstance(options.get("token"), bool | None):
        raise ValueError(
            "Ray would keep the token where others can read it; leave it out, and set HF_TOKEN in the environment of "
            "each machine before Ray is started there, or log in there with `hf auth login`"
        )
    if DecodingOptions.of(options.get("decoding")).reproducible:
        check_batch_invariance(options.get("quantization"))
    _check_cluster(concurrency, (ray_options or {}).get("num_cpus"))
    if model is not None and Path(model).is_dir():
        model = Path(model).resolve()  # actors work in other folders
    columns = (query_column, passage_column)
    schema = pairs.schema(fetch_if_missing=False)
    if schema is not None:
        _check_columns(schema.names, columns)
    else:  # said by the tasks that read, while the actors still load
        pairs = pairs.map_batches(_checked, batch_format="pyarrow", fn_args=(columns,))
    return pairs.repartition(target_num_rows_per_block=batch_size, strict=True).map_batches(
        _Judge,
        fn_constructor_args=(model, columns, options),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=_pool(concurrency),
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
        **(ray_options or {}),
    )


class _Judge:
    """An actor: a model, and the batches that it is given."""

    def __init__(self, model: str | Path | None, columns: tuple[str, str], options: Mapping[str, Any]) -> None:
        self._reranker = Rank1(model, **options)
        self._columns = columns

    def __call__(self, batch: pa.Table) -> pa.Table:
        pairs = list(zip(*(batch[name].to_pylist() for name in self._columns), strict=True))
        # Long texts tend to get long chains, and what ends last should not begin last.
        order = sorted(range(len(pairs)), key=lambda place: -sum(len(str(text)) for text in pairs[place]))
        judgments = self._reranker.judge([pairs[place] for place in order], show_progress_bar=False)
        fields = [judgment.to_dict() for _, judgment in sorted(zip(order, judgments, strict=True))]
        for name, kind in COLUMNS.items():
            batch = batch.append_column(name, pa.array([each[name] for each in fields], getattr(pa, kind)()))
        return batch


def _pool(concurrency: int | tuple[int, int] | None) -> ActorPoolStrategy:
    if isinstance(concurrency, SupportsIndex):
        return ActorPoolStrategy(size=whole_number("concurrency", concurrency, least=1))
    fewest, most = concurrency or (None, None)
    return ActorPoolStrategy(min_size=fewest, max_size=most)


def _checked(batch: pa.Table, columns: tuple[str, str]) -> pa.Table:
    _check_columns(batch.column_names, columns)
    return batch


def _check_columns(names: Collection[str], columns: tuple[str, str]) -> None:
    for column in columns:
        if column not in names:
            raise ValueError(
                f"there is no column {column!r}, only {', '.join(map(repr, names))}; "
                "name yours with query_column and passage_column"
            )
    taken = [name for name in COLUMNS if name in names]
    if taken:
        renamed = {name: f"first_{name}" for name in taken}
        raise ValueError(f"the dataset has columns that judgments need: rename them with .rename_columns({renamed})")


def _check_cluster(concurrency: int | tuple[int, int] | None, n_cpus: float | None) -> None:
    """Refuse actors that would hold every CPU: the tasks that read the pairs would wait for one for ever.

    Args:
        concurrency: as `rerank` takes it. Of a range only the fewest count, since Ray adds actors where there is room.
        n_cpus: of each actor; None: 1, beside a GPU too, which is Ray Data's own default.
    """
    if not ray.is_initialized():
        return
    n_actors = concurrency if isinstance(concurrency, int) else (concurrency or (1,))[0]
    n_held, n_there = n_actors * (1 if n_cpus is None else n_cpus), ray.cluster_resources().get("CPU", 0)
    if n_there - n_held < 1:
        raise ValueError(
            f"{n_actors} actors would hold {n_held:g} of the cluster's {n_there:g} CPUs, and a task that reads pairs "
            "needs 1 of its own, so it would wait for ever: start fewer actors (concurrency), or give them less "
            'with ray_options={"num_cpus": 0}'
        )
