"""The measures that can be computed here, by ir_measures' names for them."""

import re
from typing import TYPE_CHECKING

from rank1_hf.files.inputs import InputError
from rank1_hf.inputs.choices import did_you_mean

try:
    import ir_measures
except ImportError as error:
    raise ImportError("metrics need ir_measures; install it with: pip install ir-measures") from error

if TYPE_CHECKING:
    from ir_measures import Measure
    from ir_measures.providers import Provider

_IN_PARENTHESES = re.compile(r"\([^)]*\)")
_KINDS = {
    int: "a whole number",
    float: "a number with a point, as in 0.5",
    bool: "True or False",
    dict: "a {grade: gain}",
}


def parse_measure(name: str) -> "Measure":
    """ir_measures' measure of this name; trec_eval's names (`ndcg_cut_10`, `map`) are known too, and any case.

    Raises:
        InputError: there is none, or it cannot be computed here, whatever the run is.
    """
    measure = _parsed(name)
    if reason := _wrong_parameter(measure) or _without_provider(measure):
        raise InputError(f"{name} cannot be computed: {reason}")
    return measure


def _parsed(name: str) -> "Measure":
    if "," in _IN_PARENTHESES.sub("", name):  # of which ir_measures would take the first, and drop the others
        raise InputError(f"{name!r} is a list; give each measure by itself, as in --measure nDCG@10 --measure AP")
    try:
        return ir_measures.parse_measure(name)
    except Exception as error:  # its parser lets through whatever Python's makes of the text
        if (usual := _usual_spelling(name)) is not None:
            return usual
        base, at, cutoff = re.match(r"([^\W\d]*)(@?)(\d*)", name).groups()  # type: ignore[union-attr]  # or nothing
        known = ir_measures.measures.registry
        end = f"@{cutoff}" if cutoff else ""
        is_known = base in known and (at or not cutoff)
        meant = "" if is_known else did_you_mean(base + end, [each + end for each in known])
        raise InputError(
            f"{name!r} is no measure that ir_measures knows; write it as in nDCG@10 or AP(rel=2), with a cutoff of at "
            f"least 1{meant}"
        ) from error


def _usual_spelling(name: str) -> "Measure | None":
    """A measure by trec_eval's name for it, or by ir_measures' in another case ("ndcg@10", "recall@100", "mrr@10")."""
    try:
        (measure,) = ir_measures.parse_trec_measure(name)
        return measure
    except ValueError:  # it is none, or several
        pass
    known = {each.lower(): each for each in ir_measures.measures.registry}
    base = re.match(r"\w*", name)[0]  # type: ignore[index]  # it matches nothing, too
    exact = known.get(base.lower())
    return None if exact in (None, base) else _parsed(exact + name.removeprefix(base))


def provider_of(measure: "Measure") -> "Provider | None":
    """The library that ir_measures takes for this measure: the first that is installed and supports it."""
    return next((each for each in _providers(measure) if each.is_available()), None)


def _wrong_parameter(measure: "Measure") -> str | None:
    given, known = measure.params, measure.SUPPORTED_PARAMS
    for name in given:
        if name not in known:
            return f"it has no {name!r} ({', '.join(known) or 'no parameter'} is what {measure.NAME} takes)"
    for name, info in known.items():
        if name not in given:
            if info.required:
                at = f"{measure.NAME}@{0.5 if info.dtype is float else 10}"
                return f"it needs a {name}, as in {at if name == measure.AT_PARAM else f'{measure.NAME}({name}=...)'}"
        elif not info.validate(given[name]):
            return f"its {name} must be {_KINDS.get(info.dtype) or 'one of ' + ', '.join(info.choices)}"
    # ir_measures takes any keys, and no document has such a grade.
    if strange := [grade for grade in given.get("gains", ()) if not isinstance(grade, int)]:
        return f"its gains must be {_KINDS[dict]}, and a grade a whole number, not {strange[0]!r}"
    # pytrec_eval ends the whole process where a cutoff is 0.
    cutoff = given.get("cutoff", 1)
    if isinstance(cutoff, bool) or cutoff < 1:
        return f"its cutoff must be a whole number of at least 1, not {cutoff}"
    # pytrec_eval rounds it, and gives the precision at another recall.
    recall = given.get("recall", 1.0)
    if recall > 1 or round(recall, 2) != recall:
        return f"its recall must be at most 1.0 and have at most two decimals, unlike {recall}"
    return None


def _without_provider(measure: "Measure") -> str | None:
    if ir_measures.pyndeval.supports(measure):
        return "it needs relevance judgments of subtopics, which are not read here"
    if provider_of(measure):
        return None
    if "cutoff" in measure.SUPPORTED_PARAMS and "cutoff" not in measure.params and provider_of(measure @ 10):
        return f"it needs a cutoff, as in {measure}@10"
    instructions = [each.install_instructions() for each in _providers(measure)]
    if not instructions:
        return "no library that ir_measures uses takes these parameters together"
    return f"a library is missing that can; {' or '.join(filter(None, instructions))}"


def _providers(measure: "Measure") -> "list[Provider]":
    return [each for each in ir_measures.DefaultPipeline.providers if each.supports(measure)]
