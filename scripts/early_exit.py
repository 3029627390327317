"""What an early exit saves and costs: tokens against decisions changed and nDCG@10, over its thresholds.

    python scripts/early_exit.py                                          # the embedded model on its sample
    python scripts/early_exit.py --model FOLDER --data BEIR_FOLDER --run bm25.trec --queries 20 --output early_exit

Every pair is judged once, to the end, and the belief is read behind every sentence. An early exit would have had just
that belief as its verdict, so all thresholds are computed from these curves. Writes OUTPUT.md, a table, and OUTPUT.png.

Needs `pip install 'rank1-hf[bench]'`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rank1_hf import EarlyExit, Judgment, Rank1, TraceOptions
from rank1_hf.evaluation.beir import SAMPLE, read_beir
from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.evaluation.trec import Qrels, Run, read_run

THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
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
    judgments = reranker.judge(pairs, trace=TraceOptions(belief="sentences"))
    qrels = {query: collection.qrels[query] for query, _ in places if query in collection.qrels}
    outcomes = trade_off(judgments, places, qrels)
    stats = reranker.decoder.stats
    cost = f"Reading {stats.branches} beliefs took {stats.branch_tokens} tokens beside {stats.decode_tokens} of chains."
    text = f"{table(outcomes)}\n\n{len(places)} pairs of {len(qrels)} judged queries. {cost}\n"
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
    parser.add_argument("--max-new-tokens", type=int, default=512, help="the budget")
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
        # The token behind the sentence is said while its belief is read.
        if rule is not None and rule.stop([], beliefs[:n]) and point.n_tokens + 1 < judgment.n_chain_tokens:
            return point.n_tokens + 1, point.log_odds
    return judgment.n_chain_tokens, judgment.log_odds


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table."""
    lines = ["| sentences | log_odds | tokens | decisions changed | nDCG@10 |", "| --- | --- | --- | --- | --- |"]
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
