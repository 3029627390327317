"""`rank1`, the class of the official code, with its names: a script written for that runs after changing one import.

Source: jhu-clsp/rank1, `rank1.py`. There the class wraps vLLM; here it wraps `Rank1`, which has more to offer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rank1_hf.inputs.values import is_missing
from rank1_hf.reranker import Rank1
from rank1_hf.reranking.processes import is_launched

_VLLM_ROWS = 256  # the most sequences that vLLM itself decodes together


class rank1:  # noqa: N801
    """The official class's constructor and `predict`.

    Args:
        model_name_or_path: as `model` of `Rank1`.
        batch_size: how many pairs decode together at most. More than 256, which is the most that vLLM takes by itself,
            means as many as are fast on the device.
        context_size: `max_length`.
        max_output_tokens: `max_new_tokens`.
        fp_options: `dtype`.
        num_gpus: more than 1 spreads one model over the GPUs there are, as vLLM does, layer by layer; under `accelerate
            launch` each GPU has a whole model and a share of the pairs, as in `Rank1`, which is faster where it fits.
        device: as in `Rank1`; None: CUDA where there is one.
        force_rethink: `rethink`. (The official loop for it fails; this one works.)
        dataset_prompt: `prompt_template`.
        silent: show no progress.
        **kwargs: anything else that `Rank1` takes, like `quantization`.

    Attributes:
        model: the `Rank1` that does the work.
        tokenizer: its tokenizer.

    Raises:
        TypeError: an argument is known neither to the official class nor to `Rank1`.
        CheckpointError, ContractError, ValueError: as `Rank1` raises them, with its names for the arguments.
    """

    name = "rank1"

    def __init__(
        self,
        model_name_or_path: str = "jhu-clsp/rank1-7b",
        batch_size: int = 999_999_999_999,
        context_size: int = 16000,
        max_output_tokens: int = 8192,
        fp_options: str = "float16",
        num_gpus: int = 1,
        device: str | None = None,
        force_rethink: int = 0,
        dataset_prompt: str | None = None,
        *,
        silent: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        n_gpus = int(num_gpus)  # the official scripts pass what argparse gave them
        if n_gpus > 1 and not is_launched():
            kwargs.setdefault("device_map", "auto")
            n_gpus = 1
        self.batch_size = batch_size
        self.silent = silent
        self.model = Rank1(
            model_name_or_path,
            dtype=fp_options,
            device=None if "device_map" in kwargs else device,
            num_gpus=n_gpus,
            max_length=context_size,
            max_new_tokens=max_output_tokens,
            rethink=force_rethink,
            prompt_template=dataset_prompt or None,
            **kwargs,
        )
        self.tokenizer = self.model.tokenizer

    def predict(self, input_to_rerank: Iterable[Any], *, batch_size: int | None = None) -> list[float]:
        """The scores of pairs.

        Args:
            input_to_rerank: (query, passage) or (query, passage, instruction) each. A passage is text or
                {"title", "text"}; an instruction of None or NaN is none.
            batch_size: for this call, instead of the constructor's.

        Returns:
            p(true) of each, in the order given. A pair without a score is NaN, and a warning says why; the official
            code gives 0.5 there.
        """
        n_rows = self.batch_size if batch_size is None else batch_size
        scores = self.model.predict(
            [_pair(item) for item in input_to_rerank],
            batch_size=None if n_rows > _VLLM_ROWS else n_rows,
            show_progress_bar=False if self.silent else None,
        )
        listed: list[float] = np.atleast_1d(scores).tolist()
        return listed


def _pair(item: Any) -> Any:  # noqa: ANN401
    """What `Rank1` takes for a pair or triple; whatever is wrong with one is for it to say."""
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        return item
    query, passage, *instruction = item
    if instruction and not is_missing(instruction[0]):
        query = {"text": query, "instruction": instruction[0]}
    if isinstance(passage, Mapping) and passage.get("title") == "" and isinstance(passage.get("text"), str):
        passage = f" {passage['text']}"  # the official code writes the space between title and text all the same
    return query, passage
