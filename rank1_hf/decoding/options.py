"""The switches of the engine: one field for each thing that it does beyond the plain loop."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Self

from rank1_hf.inputs.choices import did_you_mean
from rank1_hf.inputs.values import whole_number

PAGE_SIZE = 64
"""Tokens a page. Larger pages are read in fewer pieces; each row wastes half of one on average, at its end."""

_DROPPED = {"compile": "layers are fused without it"}
_RENAMED = {
    "max_prefill_tokens": "prefill_chunk",
    "spare_tokens": "step_overhead_tokens",
    "cuda_graphs": "graphs",
    "run_ahead": "overlap",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How chains are decoded. In float32 no option changes a chain or a verdict; in 16 bits rounding may.

    None in a field leaves the choice to the engine, by the device and the model; `Decoder.options` has what it chose.

    Attributes:
        batch_size: the most pairs that decode together (vLLM: `max_num_seqs`). A call can set another.
        prefill_chunk: the most prompt tokens that a step feeds (vLLM: `max_num_batched_tokens`).
        page_size: the tokens of a page of the KV cache (vLLM: `block_size`), a power of two, at least 16.
        kv_cache_tokens: the most tokens that the KV cache holds, over all pairs that decode together.
        gpu_memory_utilization: where `kv_cache_tokens` is None, the share of a GPU's memory to use in all.
        speculate: draft tokens from what the chains of a run have in common, and verify them in the same step.
        step_overhead_tokens: the fixed cost of a step, in units of one token's compute. Drafts are limited to what it
            hides.
        share_prefixes: compute what the pairs of one query have in common once (vLLM: prefix caching).
        graphs: on a CUDA GPU, capture decode steps as CUDA graphs, where the model allows it.
        kernels: use the kernels written for the device, where there are any, instead of PyTorch's operations.
        fuse: with kernels, fuse the model's layers, where they have the usual form; see `layers.py`.
        overlap: launch a step before the one before is read, where it can be planned without its tokens (SGLang:
            overlap scheduling).
        pack: on a CPU, pack the weights of linear layers once, in a model that `Rank1` loads; see `packed.py`.
        reproducible: give every pair the same bits whatever else is in the batch; see `reproducible.py` for how.

    Raises:
        TypeError: a switch is neither True nor False.
        ValueError: a value makes no sense.
    """

    batch_size: int | None = None
    prefill_chunk: int | None = None
    page_size: int = PAGE_SIZE
    kv_cache_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    speculate: bool = True
    step_overhead_tokens: int | None = None
    share_prefixes: bool = True
    graphs: bool = True
    kernels: bool = True
    fuse: bool = True
    overlap: bool | None = None
    pack: bool = True
    reproducible: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "page_size", whole_number("page_size", self.page_size, least=1))
        for name in ("batch_size", "prefill_chunk", "kv_cache_tokens", "step_overhead_tokens"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, least=1))
        for name in _SWITCH_FIELDS:
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "overlap" and value is None):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        if self.page_size < 16 or self.page_size & (self.page_size - 1):
            raise ValueError(f"page_size must be a power of two and at least 16, not {self.page_size}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization must be above 0 and at most 1, not {self.gpu_memory_utilization!r}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "speculate=off,batch_size=32": on, off, auto, or a number.

        Raises:
            ValueError: the text is no such list, or names no option.
        """
        values: dict[str, Any] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            name, equals, value = (each.strip() for each in part.partition("="))
            name = name.replace("-", "_")
            if name not in FIELDS or not equals:
                meant = did_you_mean(name, FIELDS) if equals else ""
                raise ValueError(
                    f"{part!r} is no decoding option; write NAME=VALUE, with one of {', '.join(FIELDS)}{meant}"
                )
            values[name] = _parsed(name, value)
        return cls(**values)

    @classmethod
    def of(cls, given: Self | str | None) -> Self:
        """The options that a caller gave, as they are or as text; None: the defaults.

        Raises:
            TypeError: they are neither.
            ValueError: the text is no such list, or names no option.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str | None):
            raise TypeError(f"decoding must be DecodingOptions or text like 'speculate=off', not {given!r}")
        return cls.parse(given or "")

    def with_old_names(self, old: dict[str, Any], owner: str, *, stacklevel: int = 3) -> Self:
        """These options, with the keyword arguments that `owner` took before there were options.

        Args:
            old: the arguments, by their old names.
            owner: the class or function that took them.
            stacklevel: of the warnings, seen from here; 3: the caller of `owner`, which called this.

        Raises:
            TypeError: `owner` never took such an argument.
        """
        values: dict[str, Any] = {}
        for name, value in old.items():
            if name in _DROPPED:
                text = f"{owner}({name}=...) has no effect any more: {_DROPPED[name]}"
                warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)
                continue
            new = _RENAMED.get(name, name)
            if new not in FIELDS:
                raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")
            if name == "spare_tokens" and value == 0:
                new, value = "speculate", False
            values[new] = value
            warnings.warn(
                f"{owner}({name}=...) is now {owner}(decoding=DecodingOptions({new}={value!r}))",
                DeprecationWarning,
                stacklevel=stacklevel,
            )
        return dataclasses.replace(self, **values)

    def for_engine(self, engine: str) -> Self:
        """These options as an engine takes them. The plain loop has none: it takes what is off, and `reproducible`.

        Raises:
            ValueError: there is no such engine; or "plain" is to do what it cannot.
        """
        if engine not in ("paged", "plain"):
            raise ValueError(f"engine must be 'paged' or 'plain', not {engine!r}")
        if engine == "paged":
            return self
        defaults = type(self)(reproducible=self.reproducible)
        useless = [name for name in FIELDS if getattr(self, name) not in (False, getattr(defaults, name))]
        if useless:
            raise ValueError(
                f"engine='plain' decodes one pair at a time and has no {', '.join(useless)}; leave out engine, or these"
            )
        return dataclasses.replace(self, pack=False, kernels=False)

    def __str__(self) -> str:
        """As `parse` reads it, whole."""
        return ",".join(f"{name}={_written(getattr(self, name))}" for name in FIELDS)


FIELDS = tuple(field.name for field in dataclasses.fields(DecodingOptions))
_SWITCH_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(DecodingOptions)
    if isinstance(field.default, bool) or field.name == "overlap"
)
OLD_NAMES = (*FIELDS, *_RENAMED, *_DROPPED)
"""What was an argument of its own before there were options."""
_SWITCHES = {"on": True, "off": False, "auto": None}


def _parsed(name: str, value: str) -> Any:  # noqa: ANN401
    is_switch = name in _SWITCH_FIELDS
    may_be_auto = getattr(DecodingOptions(), name) is None
    if value in _SWITCHES and (may_be_auto if value == "auto" else is_switch):
        return _SWITCHES[value]
    if not is_switch:
        try:
            return float(value) if name == "gpu_memory_utilization" else int(value)
        except ValueError:
            pass
    kind = "on or off" if is_switch else "a number"
    raise ValueError(f"{name}={value}: write {kind}{' or auto' if may_be_auto else ''}")


def _written(value: object) -> str:
    return next((word for word, switch in _SWITCHES.items() if value is switch), str(value))
