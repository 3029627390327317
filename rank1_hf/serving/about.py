"""The description of the server's model, in the forms of OpenAI and vLLM (`/v1/models`) and of TEI (`/info`)."""

from typing import Literal

from pydantic import BaseModel, Field

from rank1_hf import __version__
from rank1_hf.serving.engine import Engine
from rank1_hf.serving.limits import Limits


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server started, in seconds since 1970.")
    owned_by: str = "rank1_hf"
    root: str
    max_model_len: int = Field(description="The most tokens of a prompt and its chain together.")


class ModelList(BaseModel):
    """The models that there are: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Labels(BaseModel):
    """The one label of a TEI reranker."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(BaseModel):
    """What kind of model it is."""

    reranker: Labels


class Info(BaseModel):
    """What TEI's clients look up before they cut their work into requests."""

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int = Field(description="The most documents of all requests that wait or are decoded.")
    max_input_length: int = Field(description="The most tokens of a prompt.")
    max_batch_tokens: int = Field(description="The tokens of a full queue.")
    max_batch_requests: int | None = None
    max_client_batch_size: int = Field(description="The most documents of a request.")
    auto_truncate: bool = Field(description="Whether a document that is too long is cut at its end.")
    tokenization_workers: int = 1
    version: str


def model_list(engine: Engine, model: str, started: int) -> ModelList:
    """The answer to `/v1/models`."""
    return ModelList(data=[ModelCard(id=model, created=started, root=model, max_model_len=engine.reranker.max_length)])


def info(engine: Engine, model: str, limits: Limits) -> Info:
    """The answer to `/info`."""
    reranker = engine.reranker
    max_input_length = reranker.max_length - reranker.max_new_tokens
    return Info(
        model_id=model,
        model_dtype=str(reranker.model.dtype).removeprefix("torch."),
        model_type=ModelType(reranker=Labels(id2label={"0": "relevant"}, label2id={"relevant": 0})),
        max_concurrent_requests=engine.max_pairs,
        max_input_length=max_input_length,
        max_batch_tokens=engine.max_pairs * max_input_length,
        max_client_batch_size=limits.documents,
        auto_truncate=reranker.truncation == "passage",
        version=__version__,
    )
