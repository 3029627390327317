"""The command `rank1-hf demo`: a chain, two rankings, what they are worth, and what to type next. As in `cli.py`, what
takes seconds to import waits until it is needed.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rank1_hf.commands import judging, options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.printable import counted, printable, start

_N_QUERIES, _N_PASSAGES = 2, 5  # shown; all are measured
_N_SHUFFLES = 400  # whose mean is an order at random, within a few thousandths
_WIDTH = 46  # of a passage in a table, which then has 80 columns
_SMALLEST = "jhu-clsp/rank1-0.5b"
_OWN_MODEL = (
    "The model that ships with the package is there to show and to test: 5 million parameters, trained from scratch "
    "to look for the query's words. BM25 also knows which words are rare: over all 225 queries of the collection, of "
    "which these are twelve, it ranks better. In the paper (tables 1 and 6), rank1-7b takes nDCG@10 from BM25's 38.5 "
    "to 40.9 on nine collections of BEIR, and reaches 27.5 on BRIGHT, where BM25 has 14.8."
)


@takes_model_options(max_new_tokens=256)
def demo(
    chosen: ModelOptions,
    n_queries: Annotated[int | None, typer.Option("--queries", min=1, help="Only the first N queries.")] = None,
) -> None:
    """Rerank the sample that ships with the package.

    Shown are one chain with its verdict, the best passages of two queries, and nDCG@10 beside BM25's on the twelve
    queries of Cranfield.
    """
    try:
        arguments = chosen.arguments()
        from rank1_hf.evaluation.metrics import ndcg
    except (ImportError, InputError) as error:
        options.fail(str(error), options.BAD_INPUT)
    from rank1_hf.files.beir import SAMPLE, read_beir
    from rank1_hf.files.trec import read_run

    collection = read_beir(SAMPLE)
    before = dict(islice(read_run(SAMPLE / "bm25.trec").items(), n_queries))
    candidates = [(query, document) for query, scores in before.items() for document in scores]
    documents = [collection.corpus[document] for _, document in candidates]
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in candidates]
    outcome = judging.judge(chosen.load(**arguments), pairs)

    console = options.plain_console()
    judged: dict[str, list[Judgment]] = {query: [] for query in before}
    for judgment in sorted(outcome.judgments, key=ranking_key):
        judged[candidates[judgment.index][0]].append(judgment)
    for place, query in enumerate(islice((query for query in judged if judged[query]), _N_QUERIES)):
        console.print(f"\nQuery: {collection.queries[query]}", soft_wrap=True)
        if place == 0:
            _print_chain(console, judged[query][0], documents)
        _print_best(console, judged[query], documents)
    if outcome.stopped_by is None:
        qrels = {query: collection.qrels[query] for query in before}
        after = {query: _order([documents[each.index].id for each in ranked]) for query, ranked in judged.items()}
        console.print(f"\nnDCG@10 (queries: {len(qrels)}, passages: {len(pairs)})")
        at_random = sum(ndcg(qrels, _shuffled(before, seed)) for seed in range(_N_SHUFFLES)) / _N_SHUFFLES
        for name, value in (("at random", at_random), ("BM25", ndcg(qrels, before)), ("reranked", ndcg(qrels, after))):
            console.print(f"  {name:<9}  {value:.4f}")
        _print_next(console, chosen.model)
    judging.finish(outcome)


def _print_chain(console: Console, judgment: Judgment, documents: Sequence[Document]) -> None:
    """One pair from its passage to its score."""
    if judgment.error is not None:
        return
    ending = {"closed": "</think>", "eos": "(ended without </think>, which was appended)"}
    console.print(f"\nPassage: {start(_text(documents[judgment.index]), 300)}", soft_wrap=True)
    console.print(f"<think>\n{printable(judgment.chain.strip())}", soft_wrap=True)
    console.print(ending.get(str(judgment.ended), "(its budget was reached, so </think> was appended)"))
    console.print(f"{str(judgment.label).lower()}, score {judgment.score:.4f}\n")


def _print_best(console: Console, ranked: Sequence[Judgment], documents: Sequence[Document]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, is_number in (("rank", True), ("score", True), ("tokens thought", True), ("passage", False)):
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for rank, judgment in enumerate(ranked[:_N_PASSAGES], start=1):
        score = "–" if judgment.error is not None else f"{judgment.score:.4f}"
        table.add_row(str(rank), score, str(judgment.n_chain_tokens), start(_text(documents[judgment.index]), _WIDTH))
    console.print(table)
    failed = [judgment for judgment in ranked if judgment.error is not None]
    if failed:
        console.print(
            f"not judged: {counted(len(failed), 'passage')}, the first since {printable(failed[0].error or '')}"
        )


def _print_next(console: Console, model: str | None) -> None:
    if model is None:
        console.print(f"\n{_OWN_MODEL}", soft_wrap=True)
    console.print("\nNext, what fits your GPU, and your own passages with it:", soft_wrap=True)
    program = options.program()
    console.print(f"  {program} plan --gpu 24GiB", soft_wrap=True)
    console.print(f'  {program} rerank "a query" --file passages.txt --model {model or _SMALLEST}', soft_wrap=True)


def _text(document: Document) -> str:
    return f"{document.title} {document.text}"


def _shuffled(run: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, dict[str, float]]:
    chance = random.Random(seed)
    return {query: _order(chance.sample(sorted(scores), len(scores))) for query, scores in run.items()}


def _order(documents: Sequence[str]) -> dict[str, float]:
    """Scores that say the order and nothing else, so that a metric breaks ties as the ranking does."""
    return {document: -float(rank) for rank, document in enumerate(documents)}
