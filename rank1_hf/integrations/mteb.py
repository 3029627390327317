"""rank1 as a model of MTEB.

    import mteb
    from rank1_hf.integrations.mteb import rank1

    model = rank1("jhu-clsp/rank1-14b", num_gpus=1, device="cuda")
    mteb.evaluate(model, tasks=mteb.get_tasks(tasks=["NevIR"]))

Instructions (FollowIR, mFollowIR) stand behind the query, as in every prompt of rank1; titles before the passage, where
MTEB puts them. Tasks whose relevance differs get their dataset prompt.
"""

import hashlib
import inspect
import json
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from rank1_hf.decoding.options import OLD_NAMES, DecodingOptions
from rank1_hf.files.dataset_prompts import Prompts, built_in_prompts, dataset_prompt, fill, read_prompts
from rank1_hf.integrations.ranking import failures_last, with_decoding
from rank1_hf.models.devices import resolve_dtype
from rank1_hf.models.family import AWQ_FAMILY, FAMILY
from rank1_hf.models.hub import with_home
from rank1_hf.models.identity import checkpoint_identity, substituted_dtype
from rank1_hf.models.planning import Size
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.pair_text import query_text
from rank1_hf.reranker import Rank1
from rank1_hf.reranking.processes import is_launched

try:
    from mteb.models import ModelMeta
except ImportError as error:
    raise ImportError("this needs mteb; install it with: pip install 'rank1-hf[mteb]'") from error

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader

_BASES = {
    "jhu-clsp/rank1-0.5b": "Qwen/Qwen2.5-0.5B",
    "jhu-clsp/rank1-1.5b": "Qwen/Qwen2.5-1.5B",
    "jhu-clsp/rank1-3b": "Qwen/Qwen2.5-3B",
    "jhu-clsp/rank1-7b": "Qwen/Qwen2.5-7B",
    "jhu-clsp/rank1-14b": "Qwen/Qwen2.5-14B",
    "jhu-clsp/rank1-32b": "Qwen/Qwen2.5-32B",
    "jhu-clsp/rank1-llama3-8b": "meta-llama/Llama-3.1-8B",
    "jhu-clsp/rank1-mistral-2501-24b": "mistralai/Mistral-Small-24B-Base-2501",
}
_DECISIVE = (
    *("dtype", "quantization", "subfolder"),
    *("max_new_tokens", "max_length", "truncation"),
    *("prompt_template", "markers", "rethink", "min_thinking_tokens"),
)
"""The options of `Rank1` that decide a result; the others say where and how fast it is found, or which checkpoint it
comes from, which is in the revision."""

_DECISIVE_DECODING = ("reproducible",)
"""The fields of `DecodingOptions` that do."""

_DIGEST = "digest"
_PARAMETERS = inspect.signature(Rank1).parameters

_CITATION = """@misc{weller2025rank1,
  title = {Rank1: Test-Time Compute for Reranking in Information Retrieval},
  author = {Orion Weller and Kathryn Ricci and Eugene Yang and Andrew Yates and Dawn Lawrie and Benjamin Van Durme},
  year = {2025},
  eprint = {2502.18418},
  archivePrefix = {arXiv}
}"""


class Rank1CrossEncoder:
    """A rank1 that MTEB can evaluate: its `CrossEncoderProtocol`.

    Args:
        model_name_or_path: a hub name, a checkpoint folder, or None: the small demonstration model that ships.
        revision: of the hub repository.
        device: where it runs; None: the fastest there is.
        num_gpus: more than 1 spreads one model over the GPUs there are; under `accelerate launch` each GPU has a whole
            model and a share of the pairs.
        batch_size: how many pairs decode together at most; None: what is fast. (MTEB's own `batch_size` is about how it
            reads its data, and decides nothing here.)
        prompts: dataset prompts by task, or "TASK/SUBSET"; or a file of them; None: those that ship; {}: none.
        options: of `Rank1`: `max_new_tokens`, `quantization`, `decoding`, ...

    Attributes:
        mteb_model_meta: the model's description for MTEB, which names and describes its results. The options that
            decide a result are part of it, by what they contain, so that MTEB keeps the results of each apart. No other
            option is: not where the model runs, and no token.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        *,
        num_gpus: int = 1,
        batch_size: int | None = None,
        prompts: Prompts | str | Path | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        model_name_or_path = None if model_name_or_path is None else with_home(model_name_or_path)
        given = read_prompts(Path(prompts)) if isinstance(prompts, str | Path) else prompts
        self._prompts = built_in_prompts() if given is None else given
        self._batch_size = batch_size
        options = with_decoding(options, "Rank1CrossEncoder")
        source = {name: options[name] for name in ("subfolder", "token", "allow_pickles") if name in options}
        identity = checkpoint_identity(model_name_or_path, revision=revision, **source)
        if num_gpus > 1 and not is_launched():  # as in the official class
            options, device, num_gpus = {"device_map": "auto"} | options, None, 1
        is_spread = any(options.get(name) is not None for name in ("device_map", "max_memory"))
        dtype = resolve_dtype(options.get("dtype")) or substituted_dtype(
            model_name_or_path, revision=revision, device=device, is_spread=is_spread, **source
        )
        self._decisive = _decisive_options(options | {"dtype": dtype}, self._prompts)
        self.mteb_model_meta = model_meta(model_name_or_path, _revision_of(identity))
        self._reranker = Rank1(model_name_or_path, revision=revision, device=device, num_gpus=num_gpus, **options)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The model's description for MTEB; see above."""
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: ModelMeta) -> None:
        # `ModelMeta.load_model` sets one that has every keyword argument in it, whatever it is.
        others = {name: value for name, value in (meta.experiment_kwargs or {}).items() if name not in _NOT_OTHERS}
        update = {"experiment_kwargs": others | self._decisive or None, "loader_kwargs": {}}
        self._meta = meta.model_copy(update=update)

    def predict(
        self,
        inputs1: "DataLoader[BatchedInput]",
        inputs2: "DataLoader[BatchedInput]",
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: "PromptType | None" = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The log-odds of each pair, float32 [pairs]: they rank as the scores do, also where scores round to 1.

        A pair that cannot be judged comes last, and a warning says why.

        Args:
            inputs1: the queries, with their instructions.
            inputs2: the passages, with their titles.
            task_metadata, hf_subset: say which dataset prompt to use.
            hf_split, prompt_type: decide nothing here.
            kwargs: MTEB's `encode_kwargs`; `show_progress_bar` is honoured.
        """
        template = dataset_prompt(self._prompts, task_metadata.name, hf_subset)
        passages = (text for batch in inputs2 for text in batch["text"])
        pairs = [(fill(template, query), passage) for query, passage in zip(_queries(inputs1), passages, strict=True)]
        judgments = self._reranker.judge(
            pairs, batch_size=self._batch_size, show_progress_bar=kwargs.get("show_progress_bar")
        )
        errors = [judgment.error for judgment in judgments if judgment.error is not None]
        if errors:
            said = f"{len(errors)} of {len(pairs)} pairs have no score and come last ({errors[0]})"
            warnings.warn(said, stacklevel=2)
        return failures_last([judgment.log_odds for judgment in judgments]).astype(np.float32)


_NOT_OTHERS = {_DIGEST, *OLD_NAMES, *_PARAMETERS, *inspect.signature(Rank1CrossEncoder).parameters}

rank1 = Rank1CrossEncoder
"""As the model cards spell it."""


def _queries(inputs: "DataLoader[BatchedInput]") -> Iterator[str]:
    """Each query as it stands in the prompt, with its instruction."""
    for batch in inputs:
        texts = batch["query"]
        for text, instruction in zip(texts, batch.get("instruction", [None] * len(texts)), strict=True):
            yield query_text({"text": text, "instruction": instruction})


def _decisive_options(options: Mapping[str, Any], prompts: Prompts) -> dict[str, Any]:
    """What of the options of a `Rank1CrossEncoder` decides its judgments, as JSON has it; without what is the default.

    MTEB names a folder after them, with an underscore for each "/", "?", "<", ...; where there are any, a digest keeps
    texts apart that would get the same name.
    """
    given = {
        name: options[name] for name in _DECISIVE if name in options and options[name] != _PARAMETERS[name].default
    }
    decoding = DecodingOptions.of(options.get("decoding"))
    given |= {name: getattr(decoding, name) for name in _DECISIVE_DECODING if getattr(decoding, name)}
    if prompts != built_in_prompts():
        given["prompts"] = dict(prompts)
    given = {name: value for name, value in given.items() if value is not None and value != Markers()}
    plain: dict[str, Any] = json.loads(json.dumps(given, default=_plain))
    if not all(re.fullmatch(r"[\w.-]*", str(value)) for value in plain.values()):
        plain[_DIGEST] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    return plain


def _plain(value: object) -> object:
    """What JSON has in the place of an option."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Markers):
        return asdict(value)
    if isinstance(value, QuantizationConfigMixin):
        return json.loads(value.to_json_string(use_diff=False))
    if isinstance(value, Path):
        return str(value)
    return operator.index(value)  # type: ignore[arg-type]  # numpy's whole numbers; a TypeError for what is none


def _revision_of(identity: str) -> str:
    """A commit, or the beginning of a digest, of what `checkpoint_identity` gives."""
    return re.split("[@:]", identity)[-1][:40]


def model_meta(model_name: str | Path | None, revision: str | None = None) -> ModelMeta:
    """What MTEB is told of a checkpoint: all there is to say of the rank1 family, little of others.

    Args:
        model_name: as `Rank1CrossEncoder` takes it.
        revision: None: of the family, unknown until a model is loaded; of others, what the checkpoint itself says, that
            is a commit, or a digest of its files.
    """
    if model_name in FAMILY or model_name in AWQ_FAMILY:
        return _family_meta(str(model_name)).model_copy(update={"revision": revision})
    # MTEB wants a name with one slash in it, and makes a folder of it.
    name = f"local/{Path(model_name or 'rank1-tiny').resolve().name}"
    return ModelMeta.create_empty(
        {
            "name": name if model_name is None or Path(model_name).is_dir() else str(model_name),
            "revision": revision or _revision_of(checkpoint_identity(model_name)),
            **_COMMON,
        }
    )


_COMMON: dict[str, Any] = {
    "loader": Rank1CrossEncoder,
    "model_type": ["cross-encoder"],
    "modalities": ["text"],
    "use_instructions": True,
    "framework": ["PyTorch", "Transformers", "safetensors"],
}


@cache
def _family_meta(name: str) -> ModelMeta:
    original = name.removesuffix("-awq")
    config = AutoConfig.for_model(**FAMILY[original])
    size = Size.of(config)
    return ModelMeta(
        name=name,
        revision=None,
        release_date="2025-02-25",  # the paper's
        languages=["eng-Latn"],
        n_parameters=size.total,
        n_embedding_parameters=config.vocab_size * config.hidden_size,
        memory_usage_mb=round(size.n_bytes(torch.bfloat16, "awq" if name in AWQ_FAMILY else None) / 2**20),
        max_tokens=config.max_position_embeddings,
        embed_dim=None,  # it makes no embeddings
        license="mit",
        open_weights=True,
        public_training_code="https://github.com/orionw/rank1",
        public_training_data="https://huggingface.co/datasets/jhu-clsp/rank1-training-data",
        reference=f"https://huggingface.co/{name}",
        similarity_fn_name=None,
        training_datasets={"MSMARCO"},  # chains of DeepSeek R1 over its queries and passages
        adapted_from=original if name in AWQ_FAMILY else _BASES[name],
        citation=_CITATION,
        **_COMMON,
    )
