"""The usual spellings of dtypes and of kinds of quantization, each with the one that is used from there on."""

from typing import TypeVar

_T = TypeVar("_T")

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "float": "float32",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
QUANTIZATIONS = {
    "8bit": "8bit",
    "8": "8bit",
    "int8": "8bit",
    "llm.int8": "8bit",
    "llm.int8()": "8bit",
    "4bit": "4bit",
    "4": "4bit",
    "nf4": "4bit",
}
"""What bitsandbytes' users call LLM.int8 and NF4; int4 and fp4 are other formats."""


def dtype_name(given: _T) -> _T | str:
    """A dtype's name as PyTorch has it, by any usual spelling ("fp16", "torch.half"); what else is given as it is."""
    if not isinstance(given, str):
        return given
    return DTYPES.get(given.strip().lower().removeprefix("torch."), given)


def quantization_kind(given: _T) -> _T | str:
    """One of "8bit" and "4bit", by any usual spelling ("4-bit", "nf4", "int8"); what else is given as it is."""
    if not isinstance(given, str):
        return given
    plain = given.strip().lower().replace("-", "").replace("_", "").replace(" ", "")
    return QUANTIZATIONS.get(plain, given)
