"""rank1 as a transformer of PyTerrier.

    import pyterrier as pt
    from rank1_hf import Rank1
    from rank1_hf.integrations.pyterrier import Rank1ReRanker

    pipeline = bm25 % 100 >> pt.text.get_text(dataset) >> Rank1ReRanker(Rank1("jhu-clsp/rank1-7b"))
    pt.Experiment([bm25, pipeline], topics, qrels, ["ndcg_cut.10"])

It needs no Java, which PyTerrier itself needs for Terrier's indexes only.
"""

from typing import TYPE_CHECKING

from rank1_hf.integrations.ranking import KEYS, failures_last, metadata
from rank1_hf.reranker import Rank1
from rank1_hf.reranking.remarks import warn_of_failures

try:
    import pyterrier as pt
except ImportError as error:
    raise ImportError("this needs pyterrier; install it with: pip install 'rank1-hf[pyterrier]'") from error

if TYPE_CHECKING:
    from pandas import DataFrame


class Rank1ReRanker(pt.Transformer):
    """Gives the results of any queries new scores and ranks. All pairs of a call are judged together.

    `score` is the log-odds, which rank as p(true) does, also where that rounds to 1. Columns are added:
    `relevance_score`, which is p(true), `rank1_chain`, `rank1_log_odds`, `rank1_label`, ...: see
    `rank1_hf.integrations.ranking.KEYS`. A document that cannot be judged comes last, and `rank1_error` says why.
    Equal scores are ranked in the order of the rows, and all rows are kept, as PyTerrier's own transformers do.

    Args:
        model: any `Rank1`.
        text_field: the column that has the passage.
        title_field: the column that has the passage's title; None: there is none.
        instruction: what else decides about relevance.
        verbose: show a progress bar.
    """

    def __init__(
        self,
        model: Rank1,
        *,
        text_field: str = "text",
        title_field: str | None = None,
        instruction: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.text_field = text_field
        self.title_field = title_field
        self.instruction = instruction
        self.verbose = verbose

    def __repr__(self) -> str:
        return f"Rank1ReRanker({self.model.model.name_or_path})"

    def transform(self, inp: "DataFrame") -> "DataFrame":
        """Rerank a result frame: qid, query, docno and the text."""
        fields = [self.text_field] if self.title_field is None else [self.title_field, self.text_field]
        pt.validate.result_frame(inp, extra_columns=["query", *fields], context=self)
        queries = ({"text": query, "instruction": self.instruction} for query in inp["query"])
        titles = [""] * len(inp) if self.title_field is None else inp[self.title_field].fillna("")
        passages = ({"title": title, "text": text} for title, text in zip(titles, inp[self.text_field], strict=True))
        judgments = self.model.judge(list(zip(queries, passages, strict=True)), show_progress_bar=self.verbose)
        warn_of_failures(judgments)
        added = [metadata(judgment) for judgment in judgments]
        scores = failures_last([judgment.log_odds for judgment in judgments])
        result = inp.assign(score=scores, **{key: [each[key] for each in added] for key in KEYS})
        return pt.model.add_ranks(result)
