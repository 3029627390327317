"""The layer lens: the verdict that every layer would give, and which tokens of the prompt the verdict attends to.

Source of the idea: nostalgebraist, "interpreting GPT: the logit lens" (2020): a layer's output is read as if it were
the last, through the final norm and the unembedding.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.decoding.watcher import Needs, Reading
from rank1_hf.inputs.extras import from_extra
from rank1_hf.results.notebook import notebook_view
from rank1_hf.tracing.observer import Observer, WatchedPair

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from rank1_hf.prompts.prompt import Prompt, PromptEncoder
    from rank1_hf.results.judgment import Judgment


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Lens:
    """What the layers made of one pair's verdict. It prints in a few lines.

    Attributes:
        log_odds: [layers], float32: logit(true) - logit(false), read from each decoder layer's output behind
            `</think>`, through the final norm and the output layer; the last layer's is the verdict's.
        attention: [layers, heads, prompt tokens], float32: how much the verdict attends to each token of the prompt.
            What is missing to a sum of 1 goes to the chain.
        prompt_ids: the prompt's token ids.
        prompt_texts: each one's share of the prompt; together they are the text as it was given.
        judgment: the pair's.
    """

    log_odds: np.ndarray[Any, np.dtype[np.float32]]
    attention: np.ndarray[Any, np.dtype[np.float32]]
    prompt_ids: list[int]
    prompt_texts: list[str]
    judgment: "Judgment"

    def to_arrow(self) -> "pa.Table":
        """A row for each layer, head and token of the prompt, in this order: layer, head, position, token_id, text,
        attention; and log_odds, which is the layer's.

        Raises:
            ImportError: pyarrow is missing.
        """
        with from_extra("tracing", "tables"):
            import pyarrow as pa
        layer, head, position = (places.ravel() for places in np.indices(self.attention.shape))
        return pa.table(
            {
                "layer": layer,
                "head": head,
                "position": position,
                "token_id": np.array(self.prompt_ids, dtype=np.int64)[position],
                "text": pa.array(self.prompt_texts, pa.string()).take(pa.array(position)),
                "attention": self.attention.ravel(),
                "log_odds": self.log_odds[layer],
            }
        )

    def to_pandas(self) -> "pd.DataFrame":
        """The table of `to_arrow` as a data frame.

        Raises:
            ImportError: pyarrow or pandas is missing.
        """
        with from_extra("tracing", "data frames"):
            import pandas as pd
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    @property
    def mean_attention(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[prompt tokens], float32: the mean over layers and heads."""
        mean: np.ndarray[Any, np.dtype[np.float32]] = self.attention.mean(axis=(0, 1))
        return mean

    def __repr__(self) -> str:
        n_layers, n_heads, n_tokens = self.attention.shape
        mean = self.mean_attention
        most = ", ".join(f"{self.prompt_texts[at]!r} {mean[at]:.3f}" for at in mean.argsort()[::-1][:5])
        heading = f"Lens of pair {self.judgment.index}: {n_layers} layers, {n_heads} heads, {n_tokens} prompt tokens"
        layers = " ".join(f"{value:+.1f}" for value in self.log_odds)
        return f"{heading}\n  log-odds   {layers}, layer by layer\n  attention  {most}"

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None: the plain text."""
        return notebook_view(self)


class LensObserver(Observer):
    """Reads one pair's verdict through the layers.

    Args:
        model: the model.
        true_id, false_id: the answers.
        layers: read log_odds from every layer.
        attention: read the attention of every head.

    Raises:
        ValueError: it has no final norm in a place that is known.
    """

    def __init__(
        self, model: PreTrainedModel, true_id: int, false_id: int, *, layers: bool = True, attention: bool = True
    ) -> None:
        n_layers, n_heads = n_layers_and_heads(model)
        self._model = model
        self._answers = [true_id, false_id]
        self._norm = getattr(model.base_model, "norm", None)
        if layers and self._norm is None:
            raise ValueError(f"the layer lens does not know where {type(model).__name__} has its final norm")
        self._shape = n_layers, n_heads
        self.verdict_needs = Needs(
            hidden_states=frozenset(range(n_layers) if layers else ()),
            attention=frozenset((i, j) for i in range(n_layers) for j in range(n_heads)) if attention else frozenset(),
        )
        self.log_odds: Tensor | None = None
        """[layers], float32, on the CPU, once the verdict is read."""
        self.attention: Tensor | None = None
        """[layers, heads, prompt tokens], float32, on the CPU, once the verdict is read."""

    @torch.inference_mode()
    def verdict(self, pair: WatchedPair, reading: Reading) -> None:
        """Read it."""
        n_layers, n_heads = self._shape
        if reading.hidden_states:
            assert self._norm is not None
            device = reading.hidden_states[n_layers - 1].device
            states = torch.stack([reading.hidden_states[layer].to(device) for layer in range(n_layers)])
            logits = self._model.get_output_embeddings()(self._norm(states[None]))[0][:, self._answers].float()
            self.log_odds = (logits[:, 0] - logits[:, 1]).cpu()
        if reading.attention:
            n_prompt = len(pair.prompt)
            weights = [reading.attention[i, j][:n_prompt].cpu() for i in range(n_layers) for j in range(n_heads)]
            self.attention = torch.stack(weights).view(n_layers, n_heads, n_prompt)

    def lens(self, judgment: "Judgment", prompt: "Prompt", encoder: "PromptEncoder") -> Lens:
        """What was read, once the pair has its judgment.

        Raises:
            RuntimeError: reading it has failed.
        """
        if self.log_odds is None or self.attention is None:
            raise RuntimeError("the layer lens of this pair failed; the log says why")
        return Lens(
            log_odds=self.log_odds.numpy(),
            attention=self.attention.numpy(),
            prompt_ids=prompt.ids,
            prompt_texts=encoder.prompt_texts(prompt),
            judgment=judgment,
        )


def n_layers_and_heads(model: PreTrainedModel) -> tuple[int, int]:
    """How many decoder layers a model has, and attention heads in each."""
    return len(model.base_model.layers), int(model.config.num_attention_heads)
