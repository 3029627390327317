"""The options of every command that loads a model, defined once: the fields of `ModelOptions`."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rank1_hf.commands import options
from rank1_hf.commands.log import log_on_stderr
from rank1_hf.files.inputs import InputError
from rank1_hf.inputs.choices import must_be_one_of
from rank1_hf.models.hub import CheckpointError, check_available
from rank1_hf.models.spellings import DTYPES, QUANTIZATIONS, dtype_name, quantization_kind
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.prompt import QUERY_PLACEHOLDER

if TYPE_CHECKING:
    from rank1_hf.decoding.options import DecodingOptions
    from rank1_hf.reranker import Rank1

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
TRUNCATIONS = ("passage", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, how it is loaded, what it is asked and how it decodes, as the command line has it.

    The fields have the names of `Rank1`'s arguments, and its defaults are in force where one is None.
    """

    model: options.ModelOption = None
    revision: options.RevisionOption = None
    subfolder: options.SubfolderOption = None
    allow_pickles: Annotated[
        bool, typer.Option("--allow-pickles", help="Take weights from .bin files where there are no safetensors.")
    ] = False
    dtype: options.DtypeOption = None
    quantization: options.QuantizationOption = None
    device: options.DeviceOption = None
    device_map: Annotated[
        str | None,
        typer.Option(help=f"Spread the layers over all GPUs, instead of --device: {', '.join(DEVICE_MAPS)}."),
    ] = None
    max_memory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE=SIZE",
            help="The most memory for weights on a device, as in --max-memory 0=10GiB --max-memory cpu=30GiB.",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="The share of a GPU's memory to use in all. Default: 0.9.")
    ] = None
    kv_cache_tokens: Annotated[
        int | None, typer.Option(min=1, help="The most tokens that the KV cache holds. Default: as many as fit.")
    ] = None
    batch_size: options.BatchOption = None
    max_new_tokens: options.BudgetOption = None
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most tokens of prompt and chain together: a passage gets what the query and --max-new-tokens "
            "leave. Default: 16000.",
        ),
    ] = None
    min_thinking_tokens: Annotated[
        int | None, typer.Option(min=0, help="A chain that would end with fewer tokens is made to think again.")
    ] = None
    rethink: Annotated[
        int | None, typer.Option(min=0, help="How many times a closed chain is made to think again.")
    ] = None
    truncation: Annotated[
        str | None,
        typer.Option(
            help="What happens to a prompt that is too long: passage cuts the passage's end (default), error refuses."
        ),
    ] = None
    prompt_template: options.TemplateOption = None
    instruction: Annotated[
        str | None, typer.Option(help="What else decides relevance; it is appended to every query.")
    ] = None
    marker: options.MarkerOption = None
    reproducible: options.ReproducibleOption = False
    decoding: options.DecodingOption = None
    cache: options.CacheOption = None

    def source(self) -> dict[str, Any]:
        """Where the checkpoint is, besides its name: arguments of `Rank1` and of `open_checkpoint`."""
        return _given(
            revision=self.revision, subfolder=self.subfolder, allow_pickles=True if self.allow_pickles else None
        )

    def decisive(self, dataset_prompt: str | None = None) -> dict[str, Any]:
        """What decides a judgment, beside the model: arguments of `Rank1`.

        Args:
            dataset_prompt: the prompt template, from elsewhere than `--prompt-template`.

        Raises:
            InputError: an option makes no sense.
        """
        if self.truncation not in (None, *TRUNCATIONS):
            raise InputError(f"--truncation must be {' or '.join(TRUNCATIONS)}, not {self.truncation!r}")
        dtype, quantization = dtype_name(self.dtype), quantization_kind(self.quantization)
        for name, value, known in (("dtype", dtype, DTYPES), ("quantization", quantization, QUANTIZATIONS)):
            if value not in (None, *known.values()):
                raise InputError(must_be_one_of(f"--{name}", value, dict.fromkeys(known.values())))
        markers = options.markers(self.marker)
        return {
            "dtype": dtype,
            "quantization": quantization,
            "max_new_tokens": self.max_new_tokens,
            "prompt_template": self._template(dataset_prompt),
            **_given(
                max_length=self.max_length,
                min_thinking_tokens=self.min_thinking_tokens,
                rethink=self.rethink,
                truncation=self.truncation,
                markers=None if markers == Markers() else markers,
            ),
        }

    def engine(self) -> "DecodingOptions":
        """How chains are decoded.

        Raises:
            InputError: an option makes no sense, or `--decoding` contradicts another.
        """
        own = _given(
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_tokens=self.kv_cache_tokens,
            batch_size=self.batch_size,
        )
        return options.decoding(self.decoding, self.reproducible, own)

    def arguments(self, dataset_prompt: str | None = None) -> dict[str, Any]:
        """All arguments of `Rank1` but the model, checked as far as that is quick; or the end of the command, where
        the checkpoint cannot be had.

        Args:
            dataset_prompt: the prompt template, from elsewhere than `--prompt-template`.

        Raises:
            InputError: an option makes no sense.
        """
        if self.device_map not in (None, *DEVICE_MAPS):
            raise InputError(f"--device-map must be one of {', '.join(DEVICE_MAPS)}, not {self.device_map!r}")
        decisive = self.decisive(dataset_prompt)
        try:
            check_available(self.model, subfolder=self.subfolder)
        except CheckpointError as error:
            options.fail(str(error), options.BAD_MODEL)
        return {
            **decisive,
            **self.source(),
            "device": self.device,
            **_given(device_map=self.device_map, max_memory=_max_memory(self.max_memory)),
            **_given(cache=options.score_cache(self.cache)),
            "decoding": self.engine(),
        }

    def check(self) -> None:
        """Say at once what would be said otherwise when the model is loaded, after long files were read.

        Raises:
            InputError: this machine, or the quantization, lacks what an option asks for.
        """
        from rank1_hf.models.devices import check_devices, memory_limits, resolve_device, resolve_dtype
        from rank1_hf.models.planning import check_quantization
        from rank1_hf.models.quantization import check_batch_invariance

        spread = self.device_map is not None or self.max_memory is not None
        if self.device is not None and spread:
            raise InputError("give either --device or --device-map and --max-memory, not both")
        try:
            resolve_dtype(self.dtype)
            resolve_device(self.device)
            check_devices(memory_limits(_max_memory(self.max_memory)) or {})
            check_quantization(self.quantization)
            if self.engine().reproducible:
                check_batch_invariance(self.quantization)
        except ValueError as error:
            raise InputError(str(error)) from error

    def load(self, quiet: bool = False, **arguments: Any) -> "Rank1":  # noqa: ANN401
        """The model, with what `arguments` gave; or the end of the command, with what is wrong."""
        return options.load(self.model, quiet, **arguments)

    def _template(self, dataset_prompt: str | None) -> str | None:
        template = options.template_text(self.prompt_template) if dataset_prompt is None else dataset_prompt
        if self.instruction is None or not self.instruction.strip():
            return template
        if QUERY_PLACEHOLDER in self.instruction:
            raise InputError(f"--instruction has {QUERY_PLACEHOLDER} in it, which --prompt-template alone may have")
        # As `query_text` puts a query's own instruction behind it.
        return (template or QUERY_PLACEHOLDER).replace(QUERY_PLACEHOLDER, f"{QUERY_PLACEHOLDER} {self.instruction}")


def takes_model_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:  # noqa: ANN401
    """Give a command all options of `ModelOptions`; it gets them as one argument of that type, `chosen`.

    Args:
        defaults: those of this command that are others than `ModelOptions` has.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(ModelOptions, include_extras=True)
        own = inspect.signature(command, eval_str=True)
        added = {
            each.name: inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(each.name, each.default),
                annotation=hints[each.name],
            )
            for each in fields(ModelOptions)
        }

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:  # noqa: ANN401
            chosen = ModelOptions(**{name: given.pop(name) for name in added})
            with log_on_stderr(quiet=given.get("quiet", False)):
                command(chosen=chosen, **given)

        kept = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in own.parameters.items()
            if name != "chosen"
        ]
        parameters = [*kept, *added.values()]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _given(**values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {name: value for name, value in values.items() if value is not None}


def _max_memory(given: list[str] | None) -> dict[int | str, int | str] | None:
    """What `--max-memory` says, by device; a GPU by its number.

    Raises:
        InputError: one is no DEVICE=SIZE.
    """
    limits: dict[int | str, int | str] = {}
    for one in given or []:
        device, _, size = one.partition("=")
        if not device or not size:
            raise InputError(f"--max-memory takes DEVICE=SIZE, as in 0=10GiB or cpu=30GiB, not {one!r}")
        limits[int(device) if device.isdecimal() else device] = size
    return limits or None
