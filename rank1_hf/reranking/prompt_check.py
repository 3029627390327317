"""Whether the prompt that another engine was given is the one that this tokenizer makes of the pair."""

from collections.abc import Callable, Iterator

from rank1_hf.chains.chain import common_prefix_length
from rank1_hf.prompts.prompt import Prompt, PromptEncoder
from rank1_hf.results.completion import Completion
from rank1_hf.results.verification import Finding

_SHOWN = 30  # characters


def prompt_findings(completion: Completion, prompt: Prompt, encoder: PromptEncoder) -> list[Finding]:
    """What is wrong with a completion's prompt, as far as it is known.

    Args:
        completion: whose prompt, as text or ids, or its length.
        prompt: as this tokenizer has it.
        encoder: of this tokenizer.
    """
    found: dict[str, Finding] = {}
    for finding in _findings(completion, prompt, encoder):
        found.setdefault(finding.kind, finding)
    return list(found.values())


def bare_text(completion: Completion, encoder: PromptEncoder) -> str | None:
    """The text of a completion's prompt without a BOS and `<think>`; None: it is not known."""
    if completion.prompt is not None:
        return _without_markers(completion.prompt, encoder)[0]
    if completion.prompt_ids is not None:
        return _without_markers(encoder.decode(list(completion.prompt_ids)), encoder)[0]
    return None


def _findings(completion: Completion, prompt: Prompt, encoder: PromptEncoder) -> Iterator[Finding]:
    if completion.opens_again:
        yield Finding("think twice", f"the completion begins with another {encoder.markers.think}")
    if completion.prompt is not None:
        yield from _of_text(completion.prompt, prompt, encoder)
    if completion.prompt_ids is not None:
        yield from _of_ids(list(completion.prompt_ids), prompt, encoder)
    n = completion.n_prompt_tokens
    if completion.prompt_ids is None and n is not None and n != len(prompt.ids):
        yield Finding("prompt tokens", f"it has {n} tokens, and this tokenizer gives {len(prompt.ids)}")


def _of_text(text: str, prompt: Prompt, encoder: PromptEncoder) -> Iterator[Finding]:
    """An engine that is given text puts a BOS before it, and finds special tokens in it."""
    bare, n_bos, _ = _without_markers(text, encoder)
    if n_bos:
        yield Finding("bos", "the text begins with a BOS, and engines put another one before a text")
    yield from _of_bare(text, prompt.text, encoder)
    named = sorted(marker for marker in map(_decoded(encoder), encoder.special_ids) if marker and marker in bare)
    if named and bare == prompt.text:
        yield Finding("special tokens", f"an engine that is given text makes one token of {', '.join(named)} in it")


def _of_ids(ids: list[int], prompt: Prompt, encoder: PromptEncoder) -> Iterator[Finding]:
    if ids == prompt.ids:
        return
    bos = list(encoder.bos_ids)
    n_bos = 0
    while bos and ids[n_bos * len(bos) : (n_bos + 1) * len(bos)] == bos:
        n_bos += 1
    if bos and n_bos != 1:
        yield Finding("bos", f"it begins with {n_bos or 'no'} BOS, and this tokenizer puts one there")
    elif not bos and ids[1:] == prompt.ids:
        yield Finding("bos", f"it begins with {encoder.decode(ids[:1])!r}, and this tokenizer puts nothing there")
        return
    rest, own = ids[n_bos * len(bos) :], prompt.ids[len(bos) :]
    if rest == own:
        return
    expected, _, _ = _without_markers(encoder.decode(own), encoder)
    findings = list(_of_bare(encoder.decode(rest), expected, encoder))
    yield from findings
    special = encoder.special_ids.intersection(rest[: -len(encoder.think_ids)])
    if special and not findings:
        named = ", ".join(sorted(map(_decoded(encoder), special)))
        yield Finding("special tokens", f"{named} is one token, and text in this tokenizer's prompt")
    elif not findings:
        at = common_prefix_length(rest, own)
        yield Finding("prompt tokens", f"the text is right, and its tokens differ from token {at + n_bos} on")


def _of_bare(text: str, expected: str, encoder: PromptEncoder) -> Iterator[Finding]:
    """Compare texts with their `<think>` and without a BOS before them."""
    bare, _, n_think = _without_markers(text, encoder)
    if n_think == 0:
        yield Finding("no think", f"it ends in {bare[-_SHOWN:]!r}")
    elif n_think > 1:
        yield Finding("think twice", f"it ends in {encoder.markers.think} {n_think} times")
    if bare == expected or (n_think != 1 and bare.rstrip() == expected.rstrip()):
        return
    at = common_prefix_length(bare, expected)
    shown = f"{bare[at : at + _SHOWN]!r} and not {expected[at : at + _SHOWN]!r} at character {at}"
    yield Finding("template" if encoder.split(bare) is None else "prompt text", shown)


def _without_markers(text: str, encoder: PromptEncoder) -> tuple[str, int, int]:
    """A prompt's text without a BOS and `<think>`, and how many there were of each."""
    bos, think = encoder.decode(list(encoder.bos_ids)), encoder.markers.think
    n_bos = n_think = 0
    while bos and text.startswith(bos):
        text, n_bos = text.removeprefix(bos), n_bos + 1
    while text.rstrip().endswith(think):
        text, n_think = text.rstrip().removesuffix(think), n_think + 1
    return text, n_bos, n_think


def _decoded(encoder: PromptEncoder) -> Callable[[int], str]:
    return lambda id_: encoder.decode([id_]).strip()
