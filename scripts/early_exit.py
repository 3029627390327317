"""What an early exit saves and costs: tokens against decisions changed and nDCG@10, over its thresholds.

    python scripts/early_exit.py                                          # the embedded model on its sample
    python scripts/early_exit.py --model FOLDER --data BEIR_FOLDER --run bm25.trec --queries 20 --output early_exit

Every pair is judged once, to the end, and the belief is read on the way (`--belief-at`). An early exit would have had
just that belief as its verdict, so all thresholds are computed from these curves. So is the ranking's own early exit,
`rank(..., early_exit="top_k")`, as if all passages of a query were decoded side by side, a token at a time.
Writes OUTPUT.md, two tables, and OUTPUT.png.

Needs `pip install 'rank1-hf[bench]'`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rank1_hf import EarlyExit, Judgment, Rank1, TopKExit, TraceOptions
from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import Qrels, Run, read_run
from rank1_hf.tracing.top_k_exit import TopKExitRule

THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
LEADS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
SENTENCES = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pair of thresholds gives.

    Attributes:
        log_odds, sentences: the thresholds; None: no early exit.
        tokens: the chains' tokens, as a share of those without early exit.
        changed: the share of pairs whose label changes.
        ndcg: nDCG@10 of the ranking.
    """

    log_odds: float | None
    sentences: int | None
    tokens: float
    changed: float
    ndcg: float


@dataclass(frozen=True, slots=True)
class RankingOutcome:
    """What one pair of thresholds gives a ranking.

    Attributes:
        thresholds: those of the top-k exit; None: no early exit.
        tokens: the chains' tokens, as a share of those without early exit.
        given_up: the share of passages that were given up.
        recall: the share of the k best that are still among the k best, mean over queries.
        ndcg: nDCG@10 of the ranking.
    """

    thresholds: TopKExit | None
    tokens: float
    given_up: float
    recall: float
    ndcg: float


def main() -> None:
    """The command line."""
    options = parse_options()
    collection, run = read_beir(options.data), read_run(options.run or options.data / "bm25.trec")
    places = [
        (query, document)
        for query in list(run)[: options.queries]
        for document in sorted(run[query], key=lambda one: -run[query][one])[: options.top_k]
    ]
    reranker = Rank1(options.model, dtype=options.dtype, device=options.device, max_new_tokens=options.max_new_tokens)
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in places]
    judgments = reranker.judge(pairs, trace=TraceOptions(belief=options.belief_at))
    qrels = {query: collection.qrels[query] for query, _ in places if query in collection.qrels}
    outcomes = trade_off(judgments, places, qrels)
    stats = reranker.decoder.stats
    cost = f"Reading {stats.branches} beliefs took {stats.branch_tokens} tokens beside {stats.decode_tokens} of chains."
    rankings = top_k_trade_off(judgments, places, qrels, options.k)
    text = (
        f"{table(outcomes)}\n\n{len(places)} pairs of {len(qrels)} judged queries. {cost}\n\n"
        f"The ranking's own early exit, for the best {options.k}:\n\n{top_k_table(rankings)}\n"
    )
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(outcomes, options.output.with_suffix(".png"))
    print(text, end="")


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a hub name or a folder; without it: the embedded model")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="a BEIR folder; without it: the sample of Cranfield")
    parser.add_argument("--run", type=Path, help="a TREC run of it; without it: bm25.trec in that folder")
    parser.add_argument("--queries", type=int, help="how many queries, from the first; without it: all")
    parser.add_argument("--top-k", type=int, default=100, help="how many passages of each")
    parser.add_argument(
        "--k", type=int, default=10, help="how many passages of each the ranking's own early exit wants"
    )
    parser.add_argument("--max-new-tokens", type=int, default=512, help="the budget")
    parser.add_argument(
        "--belief-at",
        type=lambda value: value if value == "sentences" else int(value),
        default="sentences",
        help="where beliefs are read: behind sentences, or every so many tokens",
    )
    parser.add_argument("--dtype", help="without it: the checkpoint's own")
    parser.add_argument("--device", help="without it: CUDA, MPS or CPU, the first there is")
    parser.add_argument("--output", type=Path, default=Path("early_exit"), help="the files' name, without its ending")
    return parser.parse_args()


def trade_off(judgments: Sequence[Judgment], places: Sequence[tuple[str, str]], qrels: Qrels) -> list[Outcome]:
    """All thresholds, behind a first line without any. Pairs that could not be judged are left out."""
    good = [(judgment, place) for judgment, place in zip(judgments, places, strict=True) if judgment.error is None]
    n_tokens = sum(judgment.n_chain_tokens for judgment, _ in good)
    outcomes = []
    for rule in (None, *(EarlyExit(log_odds, n) for n in SENTENCES for log_odds in THRESHOLDS)):
        exits = [(judgment, place, leave(judgment, rule)) for judgment, place in good]
        run: Run = defaultdict(dict)
        for _, (query, document), (_, log_odds) in exits:
            run[query][document] = log_odds
        outcomes.append(
            Outcome(
                log_odds=None if rule is None else rule.log_odds,
                sentences=None if rule is None else rule.sentences,
                tokens=sum(n for _, _, (n, _) in exits) / max(n_tokens, 1),
                changed=sum((log_odds > 0) != judgment.label for judgment, _, (_, log_odds) in exits)
                / max(len(good), 1),
                ndcg=ndcg(qrels, run),
            )
        )
    return outcomes


def leave(judgment: Judgment, rule: EarlyExit | None) -> tuple[int, float]:
    """How many tokens a chain has under a rule, and its log_odds."""
    beliefs = judgment.trace.belief if judgment.trace is not None else []
    for n in range(1, len(beliefs) + 1):
        point = beliefs[n - 1]
        # The token behind that place is said while its belief is read.
        if rule is not None and rule.stop([], beliefs[:n]) and point.n_tokens + 1 < judgment.n_chain_tokens:
            return point.n_tokens + 1, point.log_odds
    return judgment.n_chain_tokens, judgment.log_odds


def top_k_trade_off(
    judgments: Sequence[Judgment], places: Sequence[tuple[str, str]], qrels: Qrels, k: int
) -> list[RankingOutcome]:
    """The ranking's own early exit with all thresholds, behind a first line without any."""
    queries: dict[str, list[tuple[str, Judgment]]] = defaultdict(list)
    for judgment, (query, document) in zip(judgments, places, strict=True):
        if judgment.error is None:
            queries[query].append((document, judgment))
    n_passages = sum(map(len, queries.values()))
    n_tokens = sum(judgment.n_chain_tokens for passages in queries.values() for _, judgment in passages)
    outcomes = []
    for thresholds in (None, *(TopKExit(lead, n) for n in SENTENCES for lead in LEADS)):
        tokens, given_up, recalls = 0, 0, []
        run: Run = {}
        for query, passages in queries.items():
            ends = compete([judgment for _, judgment in passages], k, thresholds)
            tokens += sum(n for n, _ in ends)
            given_up += sum(n < judgment.n_chain_tokens for (n, _), (_, judgment) in zip(ends, passages, strict=True))
            run[query] = {document: log_odds for (document, _), (_, log_odds) in zip(passages, ends, strict=True)}
            best = best_of([judgment.log_odds for _, judgment in passages], k)
            recalls.append(len(best & best_of([log_odds for _, log_odds in ends], k)) / max(len(best), 1))
        outcomes.append(
            RankingOutcome(
                thresholds,
                tokens=tokens / max(n_tokens, 1),
                given_up=given_up / max(n_passages, 1),
                recall=sum(recalls) / max(len(recalls), 1),
                ndcg=ndcg(qrels, run),
            )
        )
    return outcomes


def compete(judgments: Sequence[Judgment], k: int, thresholds: TopKExit | None) -> list[tuple[int, float]]:
    """How many tokens each chain of a ranking has, and its log_odds, where all are decoded side by side."""
    ends = [(judgment.n_chain_tokens, judgment.log_odds) for judgment in judgments]
    if thresholds is None or k >= len(judgments):
        return ends
    exit_rule = TopKExitRule(k, thresholds)
    rules = [exit_rule.for_pair(index) for index in range(len(judgments))]
    beliefs = [judgment.trace.belief if judgment.trace is not None else [] for judgment in judgments]
    # What happens, as (token, passage, beliefs by then); no beliefs where the chain is finished.
    steps = [(n_tokens, index, 0) for index, (n_tokens, _) in enumerate(ends)]
    for index, points in enumerate(beliefs):
        # The token behind that place is said while its belief is read.
        at = [(point.n_tokens + 1, index, n) for n, point in enumerate(points, start=1)]
        steps += [step for step in at if step[0] < ends[index][0]]
    finished: set[int] = set()
    for n_tokens, index, n_beliefs in sorted(steps):
        if index in finished:
            continue
        if n_beliefs > 0:
            if not rules[index].stop([], beliefs[index][:n_beliefs]):
                continue
            ends[index] = (n_tokens, beliefs[index][n_beliefs - 1].log_odds)
        finished.add(index)
        exit_rule.add_verdict(index, ends[index][1])
    return ends


def best_of(log_odds: Sequence[float], k: int) -> set[int]:
    """The places of the k highest, ties in the order given."""
    return set(sorted(range(len(log_odds)), key=lambda place: -log_odds[place])[:k])


def top_k_table(outcomes: Iterable[RankingOutcome]) -> str:
    """A Markdown table."""
    lines = ["| beliefs | lead | tokens | given up | recall of the best | nDCG@10 |", "| --- " * 6 + "|"]
    for each in outcomes:
        name = (
            "no early exit | " if each.thresholds is None else f"{each.thresholds.beliefs} | {each.thresholds.lead:g}"
        )
        lines.append(f"| {name} | {each.tokens:.1%} | {each.given_up:.1%} | {each.recall:.1%} | {each.ndcg:.4f} |")
    return "\n".join(lines)


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table."""
    lines = ["| beliefs | log_odds | tokens | decisions changed | nDCG@10 |", "| --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        name = "no early exit | " if outcome.log_odds is None else f"{outcome.sentences} | {outcome.log_odds:g}"
        lines.append(f"| {name} | {outcome.tokens:.1%} | {outcome.changed:.1%} | {outcome.ndcg:.4f} |")
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """The curves: one for each number of sentences."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for n in SENTENCES:
        mine = sorted((each for each in outcomes if each.sentences == n), key=lambda each: each.tokens)
        saved = [1 - each.tokens for each in mine]
        axes[0].plot(saved, [each.changed for each in mine], marker="o", label=f"{n} sentence{'s' * (n > 1)}")
        axes[1].plot(saved, [each.ndcg for each in mine], marker="o", label=f"{n} sentence{'s' * (n > 1)}")
    axes[1].axhline(outcomes[0].ndcg, color="grey", linestyle=":", label="no early exit")
    for axis, name in zip(axes, ("decisions changed (share)", "nDCG@10"), strict=True):
        axis.set(xlabel="tokens saved (share)", ylabel=name)
        axis.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
