"""Every measure that can be computed here, beside its definition in plain Python, on ids as real collections have them.

The definitions are those of trec_eval (Buckley), of gdeval for ERR and for nDCG with exponential gains, and of Clarke,
Vtyurina and Smucker (TOIS 2021) for compatibility.
"""

import math
import random
import re
from collections.abc import Callable, Sequence

import ir_measures
import pytest

from rank1_hf.evaluation.measures import parse_measure, provider_of
from rank1_hf.evaluation.metrics import check_measures, measure
from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import Qrels, Run

IDS: dict[str, tuple[Callable[[int], str], Callable[[int], str]]] = {
    "NFCorpus": (lambda n: f"PLAIN-{n}", lambda n: f"MED-{n}"),
    "FollowIR": (lambda n: f"{n}-og", lambda n: f"LA0112{n}-0133"),
    "NevIR": (lambda n: f"{n}_q1", lambda n: f"{n}_doc1"),
    "ArguAna": (lambda n: f"test-law-hlrt{n}-pro02a", lambda n: f"test-law-hlrt{n}-con01b"),
    "DBpedia-Entity": (lambda n: f"INEX_LD-2012{n}", lambda n: f"<dbpedia:Animalia_(book_{n})>"),
    "HotpotQA": (lambda n: f"5a8b57f25542995d1e6f{n}", str),
    "Touché": (str, lambda n: f"c67482ba-2019-04-18T13:32:05Z-0000{n}-000"),
    "ClueWeb": (lambda n: f"wt09-{n}", lambda n: f"clueweb09-en0000-00-{n:05d}"),
    "MIRACL": (lambda n: f"{n}#0", lambda n: f"281748{n}#{n}"),
    "BRIGHT": (lambda n: f"{n}", lambda n: f"insects_attracted_to_light/Proximate and ultimate_{n}.txt"),
    "CLIRMatrix": (lambda n: f"вопрос {n}", lambda n: f"文書 {n}"),
}
"""Collection -> the forms of its queries' and its documents' ids."""


class Topic:
    """A query's ranking, as the grades of its documents (None: not judged), and all grades given for it."""

    def __init__(self, ranking: Sequence[int | None], judged: Sequence[int]) -> None:
        self.ranking, self.judged = ranking, judged

    def relevant(self, cutoff: int | None = None, rel: int = 1) -> list[bool]:
        return [grade is not None and grade >= rel for grade in self.ranking[:cutoff]]

    def n_relevant(self, rel: int = 1) -> int:
        return sum(grade >= rel for grade in self.judged)

    def judged_only(self) -> "Topic":
        return Topic([grade for grade in self.ranking if grade is not None], self.judged)


def precision(topic: Topic, cutoff: int, rel: int = 1) -> float:
    return sum(topic.relevant(cutoff, rel)) / cutoff


def recall(topic: Topic, cutoff: int | None = None, rel: int = 1) -> float:
    return sum(topic.relevant(cutoff, rel)) / topic.n_relevant(rel)


def average_precision(topic: Topic, cutoff: int | None = None, rel: int = 1) -> float:
    found = topic.relevant(cutoff, rel)
    return sum(sum(found[:n]) / n for n, hit in enumerate(found, 1) if hit) / topic.n_relevant(rel)


def reciprocal_rank(topic: Topic, cutoff: int | None = None, rel: int = 1) -> float:
    return next((1 / rank for rank, hit in enumerate(topic.relevant(cutoff, rel), 1) if hit), 0.0)


def ndcg(topic: Topic, cutoff: int | None = None, gain: Callable[[int], float] = float) -> float:
    def dcg(grades: Sequence[int | None]) -> float:
        return sum(gain(grade or 0) / math.log2(rank + 1) for rank, grade in enumerate(grades[:cutoff], 1))

    return dcg(topic.ranking) / dcg(sorted(topic.judged, key=gain, reverse=True))


def expected_reciprocal_rank(topic: Topic, cutoff: int) -> float:
    value, unsatisfied = 0.0, 1.0
    for rank, grade in enumerate(topic.ranking[:cutoff], 1):
        stops = (2 ** (grade or 0) - 1) / 2**4
        value += unsatisfied * stops / rank
        unsatisfied *= 1 - stops
    return value


def bpref(topic: Topic) -> float:
    n_relevant = topic.n_relevant()
    bound = min(n_relevant, len(topic.judged) - n_relevant)
    value, n_above = 0.0, 0
    for grade in topic.ranking:
        if grade == 0:
            n_above += 1
        elif grade is not None:
            value += 1 - min(n_above, n_relevant) / bound if n_above else 1
    return value / n_relevant


def inferred_ap(topic: Topic) -> float:
    value, n_hits, n_nonrelevant, epsilon = 0.0, 0, 0, 1e-5
    for above, grade in enumerate(topic.ranking):
        if grade == 0:
            n_nonrelevant += 1
        elif grade is not None:
            precision_above = (n_hits + epsilon) / (n_hits + n_nonrelevant + 2 * epsilon)
            value += (1 + (n_hits + n_nonrelevant) * precision_above) / (above + 1)
            n_hits += 1
    return value / topic.n_relevant()


def interpolated_precision(topic: Topic, at: float) -> float:
    found = topic.relevant()
    needed = at * topic.n_relevant()
    return max((sum(found[:n]) / n for n in range(1, len(found) + 1) if sum(found[:n]) >= needed), default=0.0)


def f_measure(topic: Topic) -> float:
    p, r = precision(topic, len(topic.ranking)), recall(topic)
    return 2 * p * r / (p + r) if p + r else 0.0


def compatibility(topic: Topic, p: float = 0.95) -> float:
    """Of the ideal rankings the one that is nearest: equal grades in the ranking's order, what it lacks behind them."""
    retrieved = [(-(grade or 0), rank) for rank, grade in enumerate(topic.ranking)]
    missing = list(topic.judged)
    for grade in topic.ranking:
        if grade is not None:
            missing.remove(grade)
    ideal = sorted([*retrieved, *((-grade, len(retrieved) + n) for n, grade in enumerate(missing))])
    ideal = [document for document in ideal if document[0] < 0]
    depth = range(1, max(len(retrieved), len(ideal)) + 1)

    def overlap(ranking: Sequence[tuple[int, int]]) -> float:
        return sum(p**n * len(set(ranking[:n]) & set(ideal[:n])) / n for n in depth)

    return overlap(retrieved) / overlap(ideal)


def accuracy(topic: Topic) -> float | None:
    """How many of the pairs of a relevant and another document stand in the right order."""
    found = topic.relevant()
    pairs = [(i, j) for i, first in enumerate(found) for j, second in enumerate(found) if first and not second]
    return sum(i < j for i, j in pairs) / len(pairs) if pairs else None


DEFINITIONS: dict[str, Callable[[Topic], float | None]] = {
    "P@5": lambda topic: precision(topic, 5),
    "P(rel=2)@3": lambda topic: precision(topic, 3, 2),
    "P(judged_only=True)@4": lambda topic: precision(topic.judged_only(), 4),
    "R@5": lambda topic: recall(topic, 5),
    "R(rel=2)@100": lambda topic: recall(topic, 100, 2),
    "RR": reciprocal_rank,
    "RR@2": lambda topic: reciprocal_rank(topic, 2),
    "RR(rel=3)@10": lambda topic: reciprocal_rank(topic, 10, 3),
    "AP": average_precision,
    "AP@5": lambda topic: average_precision(topic, 5),
    "AP(rel=2)": lambda topic: average_precision(topic, None, 2),
    "nDCG": ndcg,
    "nDCG@5": lambda topic: ndcg(topic, 5),
    "nDCG(judged_only=True)@5": lambda topic: ndcg(topic.judged_only(), 5),
    "nDCG(gains={1:3,2:7,3:20,4:21})@5": lambda topic: ndcg(topic, 5, lambda grade: (0, 3, 7, 20, 21)[grade]),
    "nDCG(dcg='exp-log2')@5": lambda topic: ndcg(topic, 5, lambda grade: 2.0**grade - 1),
    "ERR@5": lambda topic: expected_reciprocal_rank(topic, 5),
    "Rprec": lambda topic: precision(topic, topic.n_relevant()),
    "Bpref": bpref,
    "infAP": inferred_ap,
    "IPrec@0.5": lambda topic: interpolated_precision(topic, 0.5),
    "Success@1": lambda topic: float(any(topic.relevant(1))),
    "SetP": lambda topic: precision(topic, len(topic.ranking)),
    "SetR": recall,
    "SetF": f_measure,
    "SetAP": lambda topic: precision(topic, len(topic.ranking)) * recall(topic),
    "SetP(relative=True)": lambda topic: sum(topic.relevant()) / min(len(topic.ranking), topic.n_relevant()),
    "NumQ": lambda topic: 1,
    "NumRel": lambda topic: topic.n_relevant(),
    "NumRet": lambda topic: len(topic.ranking),
    "NumRet(rel=2)": lambda topic: sum(topic.relevant(None, 2)),
    "Judged@5": lambda topic: sum(grade is not None for grade in topic.ranking[:5]) / 5,
    "Compat": compatibility,
    "Compat(p=0.8)": lambda topic: compatibility(topic, 0.8),
    "Accuracy": accuracy,
}


def example(collection: str) -> tuple[Qrels, Run, dict[str, Topic]]:
    """Six queries of ten candidates, all with one score so that their order alone counts; grades from 0 to 4."""
    rng = random.Random(3)
    query_id, document_id = IDS[collection]
    qrels: Qrels = {}
    run: Run = {}
    topics = {}
    for n in (3, 20, 7, 101, 4, 36):
        grades = {document_id(d): rng.choice((0, 0, 1, 1, 2, 3, 4)) for d in rng.sample(range(14), 10)}
        candidates = [document_id(d) for d in rng.sample(range(14), 10)]
        qrels[query_id(n)] = grades
        run[query_id(n)] = dict.fromkeys(candidates, -1.5)
        topics[query_id(n)] = Topic([grades.get(d) for d in candidates], list(grades.values()))
    return qrels, run, topics


@pytest.mark.parametrize("collection", IDS)
def test_every_measure_is_as_it_is_defined_whatever_the_ids_look_like(collection: str) -> None:
    qrels, run, topics = example(collection)
    names = [name for name in DEFINITIONS if provider_of(ir_measures.parse_measure(name))]  # gdeval needs perl
    values = measure(qrels, run, names)
    for name in names:
        expected = {query: DEFINITIONS[name](topic) for query, topic in topics.items()}
        defined = {query: value for query, value in expected.items() if value is not None}
        assert len(set(defined.values())) > 1 or name in ("NumQ", "NumRet")
        assert values[name] == pytest.approx(defined, abs=1e-5), name  # gdeval gives five digits
        assert list(values[name]) == list(defined)


def test_no_measure_lacks_its_definition_here() -> None:
    defined = {parse_measure(name).NAME for name in DEFINITIONS if provider_of(ir_measures.parse_measure(name))}
    optional = {ir_measures.cwl_eval, ir_measures.ranx}  # which the project does not install
    for name in ir_measures.measures.registry:
        for form in (name, f"{name}@10", f"{name}@0.5"):
            try:
                found = parse_measure(form)
            except InputError:
                continue
            assert found.NAME in defined or provider_of(found) in optional


@pytest.mark.parametrize("name", ["nDCG@ten", "no measure", "", "import os", "P@-1", "nDCG@5@5", "nDCG(**{})", "AP\0"])
def test_what_is_no_measure_is_named(name: str) -> None:
    with pytest.raises(InputError, match="no measure that ir_measures knows"):
        check_measures(["AP", name])


def test_the_measure_that_is_spelled_much_alike_is_asked_for() -> None:
    for name, meant in (
        ("nDGC@10", "nDCG@10"),
        ("Recal@10", "Recall@10"),
        ("acuracy", "Accuracy"),
        ("nDCG10", "nDCG@10"),
    ):
        with pytest.raises(InputError, match=rf"did you mean '{meant}'\?$"):
            parse_measure(name)
    with pytest.raises(InputError, match=r"of at least 1$"):
        parse_measure("nDCG@ten")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("P", "needs a cutoff, as in P@10"),
        ("R", "needs a cutoff, as in R@10"),
        ("Success", "needs a cutoff"),
        ("ERR", "needs a cutoff, as in ERR@10"),
        ("nDCG(dcg='exp-log2')", "needs a cutoff, as in nDCG(dcg='exp-log2')@10"),
        ("IPrec", "needs a recall, as in IPrec@0.5"),
        ("SDCG@10", "needs a max_rel"),
        ("IPrec@1", "recall must be a number with a point"),
        ("IPrec@1.5", "recall must be at most 1.0"),
        ("IPrec@0.125", "at most two decimals"),
        ("P@1.5", "cutoff must be a whole number"),
        ("P@'5'", "cutoff must be a whole number"),
        ("P@True", "cutoff must be a whole number of at least 1"),
        ("nDCG(rel=2)@10", "has no 'rel' (cutoff, dcg, gains, judged_only is what nDCG takes)"),
        ("AP(judged_only=1)", "judged_only must be True or False"),
        ("nDCG(gains={'a': 1})@10", "gains must be a {grade: gain}, and a grade a whole number, not 'a'"),
        ("nDCG(gains={1: 1, 1.5: 2})@10", "a whole number, not 1.5"),
        ("nDCG(dcg='log3')@10", "dcg must be one of log2, exp-log2"),
        ("RR(judged_only=True)@10", "no library that ir_measures uses takes these parameters together"),
        ("NumRel(rel=2)", "no library that ir_measures uses takes these parameters together"),
        ("alpha_nDCG@10", "needs relevance judgments of subtopics"),
        ("StRecall@5", "needs relevance judgments of subtopics"),
    ],
)
def test_what_cannot_be_computed_here_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        check_measures([name])
    assert str(refused.value).startswith(f"{name} cannot be computed: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("measure_", ["P", "R", "nDCG", "AP", "RR", "Success", "Judged", "ERR", "Accuracy"])
def test_a_cutoff_below_one_reaches_no_library(measure_: str) -> None:
    """pytrec_eval would end the process."""
    with pytest.raises(InputError, match="cutoff must be a whole number of at least 1, not 0"):
        measure({"q": {"d": 1}}, {"q": {"d": 1.0}}, [f"{measure_}@0"])


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_measures.cwl_eval, "_is_available", False)
    with pytest.raises(InputError, match=r"a library is missing that can; pip install ir-measures\[cwl_eval\]"):
        check_measures(["RBP(rel=1)"])
    monkeypatch.setattr(ir_measures.gdeval, "_is_available", False)
    monkeypatch.setattr(ir_measures.ranx, "_is_available", False)
    with pytest.raises(InputError, match="Install perl"):
        check_measures(["ERR@10"])


@pytest.mark.parametrize(
    ("usual", "ours"),
    [
        ("ndcg_cut_10", "nDCG@10"),
        ("ndcg_cut.10", "nDCG@10"),
        ("ndcg", "nDCG"),
        ("map", "AP"),
        ("map_cut_100", "AP@100"),
        ("recip_rank", "RR"),
        ("recall_100", "R@100"),
        ("P_5", "P@5"),
        ("Rprec", "Rprec"),
        ("ndcg@10", "nDCG@10"),
        ("mrr@10", "RR@10"),
        ("recall@100", "R@100"),
        ("ap(rel=2)@10", "AP(rel=2)@10"),
    ],
)
def test_trec_eval_s_names_and_other_cases_are_known(usual: str, ours: str) -> None:
    assert parse_measure(usual) == ir_measures.parse_measure(ours)


@pytest.mark.parametrize("name", ["ndcg_cut", "official", "gm_map", "ndcg_cut_0", "ndcg_cut_x", "map@0", "mean"])
def test_names_of_several_or_of_none_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no measure|cannot be computed"):
        parse_measure(name)


@pytest.mark.parametrize("name", ["ndcg_cut_10,map", "nDCG@10,AP", "map, recip_rank", "AP(rel=2),RR", "ndcg_cut.5,10"])
def test_a_list_is_refused_as_it_was_typed(name: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(repr(name))} is a list; give each measure by itself"):
        parse_measure(name)
