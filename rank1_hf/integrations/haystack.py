"""rank1 as a ranker component of Haystack.

    from haystack import Pipeline
    from rank1_hf.integrations.haystack import Rank1Ranker

    pipeline = Pipeline()
    pipeline.add_component("ranker", Rank1Ranker("jhu-clsp/rank1-7b", top_k=3))
    pipeline.run({"ranker": {"query": query, "documents": documents}})

A pipeline that was written with `dumps` is read with `Pipeline.loads(text, allowed_modules=["rank1_hf.*"])`.
"""

import math
import threading
from dataclasses import replace
from typing import Any

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.inputs.values import is_missing, is_whole_number
from rank1_hf.integrations.ranking import check_documents, metadata, ranked
from rank1_hf.prompts.pair_text import Passage
from rank1_hf.reranker import Rank1

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import ComponentDevice, Secret
except ImportError as error:
    raise ImportError("this needs haystack-ai; install it with: pip install 'rank1-hf[haystack]'") from error


@component
class Rank1Ranker:
    """Ranks documents, best first.

    The documents that come back are copies. Their score is p(true), and their meta has it too, as `relevance_score`,
    with `rank1_chain`, `rank1_log_odds`, `rank1_label`, ... beside it: see `rank1_hf.integrations.ranking.KEYS`. A
    document that cannot be judged, like one without any text, comes last, with None as its score and the reason as
    `rank1_error`. Of documents with the same id one is ranked: as in Haystack's own rankers the one with the highest
    score, or the first of them.

    Calls that come together, as from an asynchronous pipeline, take turns.

    Args:
        model: a hub name or a checkpoint folder; None: the small demonstration model that ships.
        top_k: how many documents are given back; None: all.
        device: where the model runs; None: the fastest there is.
        token: for a private checkpoint on the hub; None, or one that is not set: as you are logged in.
        instruction: what else decides about relevance.
        meta_fields_to_embed: meta fields that stand before the content in the passage, like a title, each where a
            document has it: None and NaN, which is how pandas writes an empty cell, are left out.
        model_kwargs: anything else that `Rank1` takes, like {"max_new_tokens": 512, "decoding": "speculate=off"}. They
            are written to pipeline files as they are, `DecodingOptions` as text.

    Raises:
        ValueError: `top_k` is not above 0, or `model_kwargs` has what has an argument of its own, or decoding options
            that make no sense.
        TypeError: `token` is no `Secret`.
    """

    def __init__(
        self,
        model: str | None = None,
        top_k: int | None = 10,
        *,
        device: ComponentDevice | None = None,
        token: Secret | None = None,
        instruction: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        _check_top_k(top_k)
        if not isinstance(token, Secret | None):
            raise TypeError(
                "token must be a Secret, as Secret.from_env_var('HF_TOKEN'): text would be written to files"
            )
        for name in ("model", "device", "token"):
            if name in (model_kwargs or {}):
                hint = ", a Secret, which keeps it out of pipeline files" if name == "token" else ""
                raise ValueError(f"give {name} as the argument of that name{hint}, not in model_kwargs")
        self.model = model
        self.top_k = top_k
        self.device = device
        self.token = token
        self.instruction = instruction
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.model_kwargs = model_kwargs or {}
        DecodingOptions.of(self.model_kwargs.get("decoding"))  # says now what is wrong with it, not in the first run
        self._reranker: Rank1 | None = None
        self._loading = threading.Lock()

    def warm_up(self) -> None:
        """Load the model, once. The first run does it too.

        Raises:
            CheckpointError, ContractError, ValueError: as `Rank1` raises them.
        """
        self._warm()

    def to_dict(self) -> dict[str, Any]:
        """The component as a pipeline file has it."""
        kwargs = {
            name: str(value) if isinstance(value, DecodingOptions) else value
            for name, value in self.model_kwargs.items()
        }
        data: dict[str, Any] = default_to_dict(
            self,
            model=self.model,
            top_k=self.top_k,
            device=self.device,
            token=self.token,
            instruction=self.instruction,
            meta_fields_to_embed=self.meta_fields_to_embed,
            model_kwargs=kwargs,
        )
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Rank1Ranker":
        """The component from a pipeline file."""
        ranker: Rank1Ranker = default_from_dict(cls, data)
        return ranker

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rank documents for one query.

        Args:
            query: what is searched for.
            documents: the candidates.
            top_k: instead of the component's own; None: that one.

        Returns:
            {"documents": the `top_k` best}.

        Raises:
            PairError: the query is not usable text.
            TypeError: `documents` are no documents of Haystack.
            ValueError: `top_k` is not above 0.
        """
        top_k = self.top_k if top_k is None else top_k
        _check_top_k(top_k)
        if not documents:
            return {"documents": []}
        check_documents(documents, Document)
        candidates = _deduplicated(documents)
        passages = [self._passage(document) for document in candidates]
        judgments = ranked(self._warm(), query, passages, top_n=top_k, instruction=self.instruction)
        best = []
        for judgment in judgments:
            document, meta = candidates[judgment.index], metadata(judgment)
            best.append(replace(document, score=meta["relevance_score"], meta=document.meta | meta))
        return {"documents": best}

    def _warm(self) -> Rank1:
        with self._loading:
            if self._reranker is None:
                self._reranker = Rank1(
                    self.model,
                    device=None if self.device is None else self.device.to_torch_str(),
                    token=None if self.token is None else self.token.resolve_value(),
                    **self.model_kwargs,
                )
            return self._reranker

    def _passage(self, document: Document) -> Passage:
        fields = (document.meta.get(name) for name in self.meta_fields_to_embed)
        title = " ".join(filter(None, (str(field) for field in fields if not is_missing(field))))
        return title if title and document.content is None else {"title": title, "text": document.content}


def _deduplicated(documents: list[Document]) -> list[Document]:
    """One document for each id, as `haystack.utils.misc._deduplicate_documents` chooses it: the highest score wins, and
    where scores are equal or missing the first. It stands where the first of its id stood.
    """
    best: dict[str, Document] = {}
    for document in documents:
        known = best.setdefault(document.id, document)
        if _retrieval_score(document) > _retrieval_score(known):
            best[document.id] = document
    return list(best.values())


def _retrieval_score(document: Document) -> float:
    return -math.inf if document.score is None else document.score


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and not is_whole_number(top_k, least=1):
        raise ValueError(f"top_k must be above 0, not {top_k}")
