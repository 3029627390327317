"""Records of other engines' completions, as they have them: the forms are told apart by their fields.

- one object a pair with the query, the passage, the completion and the score, as scripts around the official code write
  them;
- vLLM's `RequestOutput`, as an object with "outputs";
- OpenAI's completions and chat completions, alone, as "response" beside the pair, or as the lines of a batch;
- judgments of this package: `judgments.jsonl` and `journal.jsonl`, whose queries and documents are ids.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rank1_hf.chains.chain import Ended
from rank1_hf.files.rows import at, is_parquet, parquet_rows
from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError, Skip, jsonl_rows, refuse
from rank1_hf.inputs.values import is_missing, is_whole_number
from rank1_hf.results.completion import Completion

NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "query-text", "question"),
    "passage": ("passage", "document", "document-text", "doc", "text", "contents", "content"),
    "title": ("title",),
    "instruction": ("instruction",),
    "completion": ("chain", "completion", "generated-text", "reasoning", "reasoning-content", "generation", "output"),
    "score": ("score", "relevance-score", "similarity", "probability"),
    "log_odds": ("log-odds", "logit-difference"),
    "label": ("label",),
    "prompt": ("prompt", "prompt-text"),
    "prompt_ids": ("prompt-token-ids", "prompt-ids"),
    "token_ids": ("token-ids", "completion-token-ids", "output-token-ids"),
    "template": ("dataset-prompt", "template", "prompt-template"),
    "budget": ("max-output-tokens", "max-new-tokens", "max-completion-tokens", "max-tokens", "budget"),
    "finish": ("finish-reason", "finish"),
    "stop": ("stop-reason", "stop"),
    "logprobs": ("logprobs",),
    "ended": ("ended",),
    "n_prompt_tokens": ("n-prompt-tokens", "prompt-tokens"),
    "n_chain_tokens": ("n-chain-tokens",),
    "query_id": fields.QUERY_ID,
    "document_id": fields.DOCUMENT_ID,
    "error": ("error",),
}
"""What a record tells, and the names that it usually has there; "-" is as good as "_", and case does not count."""

OF_VERDICTS = (
    *("query", "passage", "query_id", "document_id", "completion"),
    *("score", "log_odds", "finish", "stop", "ended", "error"),
)
"""The names of `NAMES` that say which pair was judged, what was thought and what came of it."""

_OPEN, _CLOSE = "<think>", "</think>"
_OURS = {"query", "document", "score", "log_odds", "chain", "ended"}  # of a judgment, whose texts are elsewhere


def read_completions(path: Path, names: Mapping[str, str] | None = None, skip: Skip = refuse) -> Iterator[Completion]:
    """The completions of a .jsonl or .parquet file, one at a time.

    Args:
        path: the file; JSONL may be gzipped.
        names: where records have what `NAMES` lists, if elsewhere: a field, or a path through objects and lists, as in
            "response.choices.0.text".
        skip: called with what is wrong with one record; the others are read all the same.

    Raises:
        InputError: the file cannot be read.
    """
    check_names(names or {})
    for where, record in read_records(path, skip):
        if is_journal_head(record):
            continue
        try:
            yield completion_of(record, where, names)
        except InputError as error:
            skip(error)


def check_names(names: Mapping[str, str]) -> None:
    """Refuse a mapping to what no record tells.

    Raises:
        InputError: it names something else than `NAMES` has.
    """
    for name in names:
        if name not in NAMES:
            raise InputError(f"there is no {name!r} to map a field to; there are {', '.join(NAMES)}")


def tells_completion(record: object) -> bool:
    """Whether a record has a completion, and not a score alone."""
    return isinstance(record, Mapping) and "completion" in _told(record, {}, "", ("completion",))


def completion_of(
    record: Any,  # noqa: ANN401
    where: str,
    names: Mapping[str, str] | None = None,
    wanted: Collection[str] = NAMES.keys(),
) -> Completion:
    """One record as a `Completion`; see `read_completions`.

    Args:
        record: as JSON has it.
        where: where it stands, for messages.
        names: see `read_completions`.
        wanted: which of `NAMES` are read; what stands in the other fields does not matter.

    Raises:
        InputError: it is no object, or a field has a value that makes no sense.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a record must be an object, not {type(record).__name__}")
    told = _told(record, names or {}, where, wanted)
    text, opens_again, closes = _chain(told, where)
    ids = _ids(told.get("token_ids"), "token_ids", where)
    budget = _count(told.get("budget"), "budget", where)
    n_chain = _count(told.get("n_chain_tokens"), "n_chain_tokens", where)
    return Completion(
        where=where,
        query=text_with(told, "query", "instruction"),
        passage=text_with(told, "passage", "title"),
        chain=text,
        token_ids=ids,
        opens_again=opens_again,
        ended="closed" if closes else _ended(told),
        score=_score(told, where),
        log_odds=None if is_missing(told.get("log_odds")) else fields.score_of(told["log_odds"], where),
        label=told["label"] if isinstance(told.get("label"), bool) else None,
        answers=_answers(told.get("logprobs"), ids, where),
        prompt=_text(told.get("prompt"), "prompt", where),
        prompt_ids=_ids(told.get("prompt_ids"), "prompt_ids", where),
        template=_text(told.get("template"), "template", where) or None,
        n_prompt_tokens=_count(told.get("n_prompt_tokens"), "n_prompt_tokens", where),
        n_chain_tokens=budget if n_chain is None and told.get("finish") == "length" else n_chain,
        query_id=_id(told.get("query_id"), where),
        document_id=_id(told.get("document_id"), where),
        error=None if is_missing(told.get("error")) else str(told["error"]) or None,
    )


def text_with(told: Mapping[str, Any], name: str, more: str) -> Any:  # noqa: ANN401
    """A query with its instruction, or a passage with its title, as `judge` takes them. What is an object already, or
    missing, stays as it is.

    Args:
        told: what a record tells, by `NAMES`.
        name, more: the names of the text and of what stands with it.
    """
    value, added = told.get(name), told.get(more)
    if value is None or isinstance(value, Mapping) or is_missing(added) or added == "":
        return value
    return {"text": value, more: added}


def read_records(path: Path, skip: Skip = refuse) -> Iterator[tuple[str, Any]]:
    """What a .jsonl or .parquet file holds, a record at a time, after where it stands.

    Args:
        path: the file; JSONL may be gzipped.
        skip: called with what is wrong with one line.

    Raises:
        InputError: the file cannot be read.
    """
    for row in parquet_rows(path) if is_parquet(path) else jsonl_rows(path):
        if row.problem is not None:
            skip(row.problem)
        else:
            yield row.where, row.value


def is_journal_head(record: object) -> bool:
    """Whether a record is the first line of a journal, which is no judgment."""
    return isinstance(record, Mapping) and record.keys() == {"journal", "settings"}


def _told(record: Mapping[str, Any], names: Mapping[str, str], where: str, wanted: Collection[str]) -> dict[str, Any]:
    """What a record tells, under those names of `NAMES` that are wanted."""
    parts = [*_inner(record), record, *_plain_response(record)]  # what stands inside counts before what is beside it
    told: dict[str, Any] = {}
    for name in wanted:
        for part in parts:
            found = fields.find(part, NAMES[name])
            if found is not None and not (is_missing(part[found]) and name in told):
                told[name] = part[found]
                break
    if record.keys() >= _OURS and "passage" not in record and _are_ids(record["query"], record["document"]):
        told |= {"query_id": record["query"], "document_id": record["document"], "query": None, "passage": None}
    elif is_missing(told.get("document_id")) and "passage" in record and _are_ids(record.get("document")):
        told["document_id"] = record["document"]  # which is no text where there is another one
    for name, path in names.items():
        told[name] = at(record, path, where)
    return told


def _inner(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a record that other engines put the completion into, the innermost first."""
    body = record.get("response")
    if isinstance(body, str) and body.lstrip().startswith("{"):
        try:
            body = json.loads(body)
        except ValueError:
            body = None
    if isinstance(body, Mapping):
        inside = body.get("body")
        yield from _inner(inside if isinstance(inside, Mapping) else body)
        body = inside if isinstance(inside, Mapping) else body
        yield body
    for name in ("outputs", "choices"):
        several = record.get(name)
        if isinstance(several, Sequence) and several and isinstance(several[0], Mapping):
            first = several[0]
            completion = first.get("text")
            message = first.get("message")
            if isinstance(message, Mapping):
                thought = message.get("reasoning_content") or message.get("reasoning")
                content = message.get("content") or ""
                completion = f"{thought}{_CLOSE}{content}" if thought and content else thought or content
            rest = {key: value for key, value in first.items() if key not in ("text", "message", "index")}
            yield {**rest, "completion": completion}
    usage = record.get("usage")
    if isinstance(usage, Mapping):
        yield {"prompt_tokens": usage.get("prompt_tokens")}


def _plain_response(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A completion that is called "response" and is text; `_inner` reads one that is an object."""
    body = record.get("response")
    if isinstance(body, str) and not body.lstrip().startswith("{"):
        yield {"completion": body}


def _are_ids(*values: object) -> bool:
    """Whether all of them could be ids, and not only texts."""
    try:
        return bool([fields.id_of(value, "") for value in values])
    except InputError:
        return False


def _chain(told: Mapping[str, Any], where: str) -> tuple[str | None, bool, bool]:
    """The chain, whether it opens again, and whether it holds its close."""
    text = _text(told.get("completion"), "completion", where)
    if text is None:
        return None, False, False
    opens_again = text.lstrip().startswith(_OPEN)
    if opens_again:
        text = text.lstrip().removeprefix(_OPEN)
    chain, close, _ = text.partition(_CLOSE)
    return chain, opens_again, bool(close)


def _ended(told: Mapping[str, Any]) -> Ended | None:
    """How a chain ended that does not hold its close; None where nothing says so."""
    ended, finish, stop = (told.get(name) for name in ("ended", "finish", "stop"))
    if ended is not None:
        return ended if ended in get_args(Ended) else "stopped"
    if finish == "stop":
        if isinstance(stop, str):
            return "closed" if _CLOSE in stop else "stopped"
        return "eos" if "stop" in told else None  # vLLM says by what; others do not
    return None if finish is None else "budget" if finish == "length" else "stopped"


def _score(told: Mapping[str, Any], where: str) -> float | None:
    """The score; NaN where its field is empty."""
    if "score" not in told:
        return None
    return math.nan if is_missing(told["score"]) else fields.score_of(told["score"], where)


def _answers(logprobs: Any, ids: Sequence[int] | None, where: str) -> dict[str | int, float]:  # noqa: ANN401
    """The log-probabilities at the verdict, by text or by id, from what vLLM or OpenAI's API returns."""
    try:
        places = _places(logprobs, ids)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f'{where}: "logprobs" are neither those of vLLM nor those of OpenAI\'s API') from None
    behind = [at + 1 for at, (text, _) in enumerate(places) if text.strip() == _CLOSE]
    if behind and behind[-1] < len(places):
        return places[behind[-1]][1]
    if places and places[-1][0].strip().lower() in ("true", "false"):
        return places[-1][1]
    return {}


def _places(logprobs: Any, ids: Sequence[int] | None) -> list[tuple[str, dict[str | int, float]]]:  # noqa: ANN401
    """The text of each token, and the log-probabilities there."""
    places: list[tuple[str, dict[str | int, float]]] = []
    if isinstance(logprobs, Mapping):
        if isinstance(logprobs.get("content"), Sequence):  # chat completions
            for place in logprobs["content"]:
                top = {each["token"]: each["logprob"] for each in place.get("top_logprobs") or []}
                places.append((place["token"], {place["token"]: place["logprob"], **top}))
        elif isinstance(logprobs.get("tokens"), Sequence):  # completions
            tops = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
            places += [(token, dict(top or {})) for token, top in zip(logprobs["tokens"], tops, strict=False)]
    elif isinstance(logprobs, Sequence) and not isinstance(logprobs, str):  # vLLM
        for number, place in enumerate(logprobs):
            top = _of_vllm(place)
            chosen = ids[number] if ids is not None and number < len(ids) else None
            text = next((each.get("decoded_token") for key, each in place.items() if str(key) == str(chosen)), "")
            places.append((text or "", top))
    return places


def _of_vllm(place: Mapping[Any, Any]) -> dict[str | int, float]:
    found: dict[str | int, float] = {}
    for key, each in place.items():
        logprob = each["logprob"] if isinstance(each, Mapping) else each
        if logprob is not None:
            found[int(key) if str(key).isdigit() else str(key)] = float(logprob)
    return found


def _text(value: object, name: str, where: str) -> str | None:
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise InputError(f'{where}: "{name}" must be a string, not {value!r}')
    return value


def _ids(value: Any, name: str, where: str) -> tuple[int, ...] | None:  # noqa: ANN401
    if is_missing(value):
        return None
    if not isinstance(value, Sequence) or not all(is_whole_number(each, least=0) for each in value):
        raise InputError(f'{where}: "{name}" must be a list of token ids, not {value!r}')
    return tuple(value)


def _count(value: object, name: str, where: str) -> int | None:
    if is_missing(value):
        return None
    if not is_whole_number(value, least=0):
        raise InputError(f'{where}: "{name}" must be a whole number, not {value!r}')
    return int(value)  # type: ignore[call-overload,no-any-return]


def _id(value: object, where: str) -> str | None:
    return None if is_missing(value) or value == "" else fields.id_of(value, where)
