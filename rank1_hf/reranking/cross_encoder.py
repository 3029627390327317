"""`CrossEncoder` of sentence-transformers, as its users and its own code know it, on top of `judge`.

Source: sentence_transformers.CrossEncoder, 5.1 to 6.2. Its arguments that mean something here mean the same; those that
mean nothing have no effect, as there; those that would mean something else are refused with what to do instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Literal, TypeAlias, Unpack, overload

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import OLD_NAMES
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.inputs.choices import did_you_mean
from rank1_hf.inputs.values import whole_number
from rank1_hf.prompts.pair_text import PairError, Passage, Query, check_any_passage, query_text
from rank1_hf.prompts.pairs import Pairs, is_pair
from rank1_hf.reranking.call_options import PairOptions, call_options
from rank1_hf.reranking.remarks import warn_of_failures
from rank1_hf.reranking.resuming import carrying
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.tracing.top_k_exit import TopKExit, top_k_exit_rule
from rank1_hf.viewing.judgments import Judgments, Ranking

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float32]] | np.float32
Activation: TypeAlias = Callable[[Tensor], Tensor]


class PredictOptions(PairOptions, total=False):
    """The arguments of `predict` that do not decide what kind of thing it returns."""

    inputs: Pairs | None
    batch_size: int | None
    show_progress_bar: bool | None
    prompt_name: None
    prompt: None
    activation_fn: Activation | None
    apply_softmax: bool | None
    device: str | torch.device | None
    pool: None
    chunk_size: int | None


_OF_CONSTRUCTOR = {
    "model_name_or_path": "Rank1 calls it model, which comes first and needs no name",
    "activation_fn": "give it to predict or rank",
    "trust_remote_code": "Rank1 runs no code that comes with a checkpoint; leave it out",
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "Rank1 takes quantization='4bit' or '8bit'"),
    "model_kwargs": "Rank1 takes dtype, quantization, device_map and max_memory by their own names",
    "tokenizer_kwargs": "load model and tokenizer yourself and give Rank1 both",
    "config_kwargs": "load model and tokenizer yourself and give Rank1 both",
}
"""What `CrossEncoder` or a model of Transformers is loaded with and `Rank1` is not, and what to do instead."""


def without_cross_encoder_options(options: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The other arguments of `Rank1` that are not `CrossEncoder`'s alone, all of them old ones.

    Args:
        options: what it was given besides.
        known: the names of its arguments.

    Raises:
        TypeError: one of them means something else here, or nothing.
    """
    for name, instead in _OF_CONSTRUCTOR.items():
        if name in options:
            raise TypeError(f"Rank1 has no argument {name!r}: {instead}")
    if options.get("num_labels") not in (None, 1):
        raise TypeError(f"num_labels must be 1, not {options['num_labels']!r}: there is one score for a pair")
    for name in options.keys() - {"num_labels", *OLD_NAMES}:
        raise TypeError(f"Rank1() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")
    return {name: value for name, value in options.items() if name != "num_labels"}


_ONLY_SCORES = {"trace": "an array of scores has no place for it; use judge, or rank and its judgments"}


class _NoModelCard:
    """Where sentence-transformers' evaluators write what they have measured, besides returning it. Nothing is kept."""

    def set_evaluation_metrics(self, evaluator: object, metrics: object, epoch: int = 0, step: int = 0) -> None:
        """Forget it."""


class CrossEncoderMethods(ABC):
    """What makes a class that can `judge` a `CrossEncoder`.

    Attributes:
        model: the model that scores.
        decoder: runs it.
        num_labels: 1: there is one score for a pair.
    """

    model: PreTrainedModel
    decoder: Decoder | PlainDecoder
    model_card_data = _NoModelCard()
    num_labels = 1

    @property
    def device(self) -> torch.device:
        """Where the model is, or its first layer."""
        here: torch.device = self.model.device
        return here

    @abstractmethod
    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Unpack[PairOptions],
    ) -> Judgments:
        """Think about every pair."""

    @overload
    def predict(
        self,
        pairs: Pairs | None = ...,
        *,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> Scores: ...

    @overload
    def predict(
        self,
        pairs: Pairs | None = ...,
        *,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **options: Unpack[PredictOptions],
    ) -> Tensor: ...

    @overload
    def predict(
        self,
        pairs: Pairs | None = ...,
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> list[Tensor] | Tensor: ...

    def predict(
        self,
        pairs: Pairs | None = None,
        *,
        inputs: Pairs | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        prompt_name: None = None,
        prompt: None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        **options: Unpack[PairOptions],
    ) -> Scores | Tensor | list[Tensor]:
        """The scores of pairs, as `CrossEncoder.predict` gives them.

        Args:
            pairs, batch_size, show_progress_bar: as in `judge`.
            inputs: another name for `pairs`.
            prompt_name, prompt: None; a dataset prompt is an argument of the class.
            activation_fn: log-odds -> scores, float32 [pairs]; `torch.nn.Identity()` for the log-odds themselves. None:
                the sigmoid, which makes p(true) of them.
            apply_softmax: without effect, as for every CrossEncoder with one label.
            convert_to_numpy: an array; with neither this nor `convert_to_tensor`, a list of tensors.
            convert_to_tensor: a tensor, on the CPU.
            device: the model's own, or None.
            pool, chunk_size: None, or without effect; see `start_multi_process_pool`.
            options: instruction, think, rule, logits_processor and observers: see `Rank1.judge`.

        Returns:
            float32 [pairs], in the order given; for one pair alone a single float32. A pair without a score is NaN, and
            a warning says why.

        Raises:
            TypeError: as `judge`; `pairs` and `inputs` are both given; or `activation_fn` is no function.
            ValueError: there is a prompt, a pool or another device; or `activation_fn` changes the shape.
        """
        if pairs is not None and inputs is not None:
            raise TypeError("pairs and inputs are two names of one argument; give one of them")
        self._check_options(prompt_name, prompt, device, pool, activation_fn)
        asked = call_options(self.predict, self.decoder, options, unsupported=_ONLY_SCORES, warns=False)  # judge warns
        options["observers"], options["resume_from"] = asked.observers, asked.resume_from  # they may be iterators
        given = inputs if pairs is None else pairs
        single = is_pair(given)
        judgments = self.judge(given, batch_size=batch_size, show_progress_bar=show_progress_bar, **options)  # type: ignore[arg-type]
        warn_of_failures(judgments)
        with carrying(judgments):
            scores = _scores(judgments, activation_fn)
        if convert_to_tensor:
            return scores[0] if single else scores
        if not convert_to_numpy:
            return scores[0] if single else list(scores)
        return np.float32(scores[0].item()) if single else scores.numpy()

    def rank(
        self,
        query: Query,
        documents: Iterable[Passage],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        early_exit: Literal["top_k"] | TopKExit | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        prompt_name: None = None,
        prompt: None = None,
        activation_fn: Activation | None = None,
        device: str | torch.device | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        **options: Unpack[PairOptions],
    ) -> Ranking:
        """Rank passages for one query, as `CrossEncoder.rank` does.

        Args:
            query: what is searched for.
            documents: the passages.
            top_k: keep only the best so many.
            return_documents: put each passage into its dict, as "text".
            early_exit: "top_k" stops thinking about passages that k others lead by a margin, see `TopKExit`, whose
                thresholds can be given instead. Such a chain is closed where it is, as "stopped". The ranking may lack
                passages that it would have without; `TopKExit` says what was measured. Who is given up depends on how
                many passages decode together too: the more, the sooner one is known to be behind.
            batch_size: how many pairs decode together at most. None: what is fast on the device.
            show_progress_bar: None: only on a terminal.
            activation_fn: as in `predict`; then the ranking is by what it gives.
            prompt_name, prompt, device, pool, chunk_size: as in `predict`.
            options: instruction, think, rule, logits_processor, trace and observers: see `Rank1.judge`. Traces are in
                `Ranking.judgments`.

        Returns:
            Dicts, best first by log_odds, ties in the order given, passages without a score last, and a warning says
            why: "corpus_id" (the place in `documents`), "score", "log_odds", "label", "chain", "n_chain_tokens",
            "ended", "truncated", "error". The list shows itself in a notebook, and its `judgments` can be written as an
            HTML page.

        Raises:
            PairError: the query is not usable text, or none of the passages is.
            TypeError: `documents` is not a list of passages.
            ValueError: as `predict`; or `early_exit` without `top_k`, or with a rule, or it is none.
        """
        self._check_options(prompt_name, prompt, device, pool, activation_fn)
        if top_k is not None:
            top_k = whole_number("top_k", top_k, least=1)
        asked = call_options(self.rank, self.decoder, options, warns=False)  # judge warns
        options["resume_from"], observers = asked.resume_from, asked.observers  # they may be iterators
        exit_rule = top_k_exit_rule(top_k, early_exit)
        if exit_rule is not None and options.get("rule") is not None:
            raise ValueError("early_exit is a rule by itself; leave out rule, or early_exit")
        if isinstance(documents, str | bytes | Mapping):
            raise TypeError(f"documents must be a list of passages, not one {type(documents).__name__}")
        documents = list(documents)
        if top_k is not None and top_k >= len(documents):
            exit_rule = None  # all are among the best
        if isinstance(query, list | tuple | Set | np.ndarray):
            raise PairError("rank takes one query and its passages; judge(pairs) takes pairs of several queries")
        query_text(query)  # raises where it is none
        check_any_passage(documents)
        if exit_rule is not None:
            options["rule"], observers = exit_rule, (*observers, exit_rule)
        options["observers"] = observers
        pairs = [(query, document) for document in documents]
        judgments = self.judge(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar, **options)
        scores = [judgment.score for judgment in judgments]
        order = sorted(judgments, key=ranking_key)
        warn_of_failures(judgments)
        with carrying(judgments):
            if activation_fn is not None:
                scores = _scores(judgments, activation_fn).tolist()
                order.sort(key=lambda judgment: (judgment.error is not None, -scores[judgment.index]))
        results = [_hit(judgment, scores[judgment.index]) for judgment in order[:top_k]]
        if return_documents:
            for result in results:
                result["text"] = documents[result["corpus_id"]]
        return Ranking(results, judgments)

    def start_multi_process_pool(self, target_devices: object = None) -> None:
        """There is none.

        Raises:
            ValueError: always; it says what to do instead.
        """
        raise ValueError(_NO_POOL)

    def stop_multi_process_pool(self, pool: object = None) -> None:
        """There is none to stop.

        Raises:
            ValueError: always.
        """
        raise ValueError(_NO_POOL)

    def _check_options(
        self,
        prompt_name: object,
        prompt: object,
        device: object,
        pool: object,
        activation_fn: object,
    ) -> None:
        if prompt_name is not None or prompt is not None:
            raise ValueError(
                "there are no prompts by name, and none that stand before the query; "
                "give Rank1 a prompt_template, or a query an instruction"
            )
        if pool is not None or isinstance(device, list | tuple):
            raise ValueError(_NO_POOL)
        if device is not None and not _is_on(self.device, device):
            raise ValueError(
                f"the model stays on {self.device}, where it was loaded; leave device={str(device)!r} out, "
                "or say it when the model is loaded: Rank1(..., device=...)"
            )
        if activation_fn is not None and not callable(activation_fn):
            raise TypeError(f"activation_fn must be a function of a tensor, not {activation_fn!r}")


_NO_POOL = (
    "Rank1 has no pool of processes; leave it out, or share the pairs among GPUs with Rank1(..., num_gpus=N) under "
    "`accelerate launch --num_processes N`"
)


def _is_on(here: torch.device, device: Any) -> bool:  # noqa: ANN401
    """Whether a device that a caller names is this one; "cuda" is any of its kind."""
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{device!r} is not a device; leave device out") from error
    return named.type == here.type and named.index in (None, here.index or 0)


def _scores(judgments: Sequence[Judgment], activation_fn: Activation | None) -> Tensor:
    """float32 [judgments], NaN where there is none."""
    if activation_fn is None:
        return torch.tensor([judgment.score for judgment in judgments], dtype=torch.float32)
    log_odds = torch.tensor([judgment.log_odds for judgment in judgments], dtype=torch.float32)
    scores = torch.as_tensor(activation_fn(log_odds)).float()
    if scores.shape != log_odds.shape:
        raise ValueError(
            f"activation_fn must give a score for each of {len(log_odds)} pairs, not {tuple(scores.shape)}"
        )
    return scores.masked_fill(log_odds.isnan(), torch.nan)


def _hit(judgment: Judgment, score: float) -> dict[str, Any]:
    return {
        "corpus_id": judgment.index,
        "score": score,
        "log_odds": judgment.log_odds,
        "label": judgment.label,
        "chain": judgment.chain,
        "n_chain_tokens": judgment.n_chain_tokens,
        "ended": judgment.ended,
        "truncated": judgment.truncated,
        "error": judgment.error,
    }
