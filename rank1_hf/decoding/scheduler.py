"""Which rows are live, and how many tokens of each the next step feeds.

Memory is a budget of pages. A row is admitted when the pages of its whole context are free, and takes more as it grows.
When they run out, the row admitted last is preempted: it gives its pages back and waits at the front of the queue with
its chain as it is, and its KV is computed again later, so its result is the same. A row that waits for a belief is
preempted before the branch that reads it, and so comes back behind it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from rank1_hf.chains.chain import Chain, common_prefix_length
from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS
from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.plan import Plan, ScheduledRow
from rank1_hf.decoding.prefixes import Prefixes
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.speculation import MAX_DRAFT, Drafts
from rank1_hf.models.memory import EXPECTED_ROWS


class Scheduler:
    """Admits waiting requests as rows leave, and splits prompts into chunks so that they do not stall the others.

    `rows` are the live ones, oldest first; `failed` are those that do not fit, whatever else is given up for them.

    Args:
        requests: taken one at a time, when there is room for a row; None among them: there is none at the moment.
        make_row: how a request becomes a row.
        cache: where rows keep their KV.
        max_rows: the most rows that are live at once, at least 1.
        prefill_chunk: the most tokens a step feeds for rows that bring several, at least 1. (Every row that brings
            one token is in every step.)
        step_overhead_tokens: the fixed cost of a step, in units of one token's compute; 0: no speculation.
        shares_prefixes: whether the rows of one query share what their prompts have in common.
        overlaps: whether steps may be planned before the tokens of the step before are known.
        refill_share: the share of the places that has to become free before waiting requests get them: so prefill is in
            fewer steps, where those with prefill are the slow ones.
    """

    least_prefill_chunk = 32
    """A row that runs out of memory alone in a step of so many tokens fails."""

    def __init__(
        self,
        requests: Iterator[Request | None],
        make_row: Callable[[Request], Row],
        cache: KVCache,
        *,
        max_rows: int,
        prefill_chunk: int,
        step_overhead_tokens: int = 0,
        shares_prefixes: bool = True,
        overlaps: bool = False,
        refill_share: float = 0.0,
    ) -> None:
        if max_rows < 1 or prefill_chunk < 1:
            raise ValueError(
                f"at least one row and one prefill token a step are needed, not {max_rows} and {prefill_chunk}"
            )
        self.rows: list[Row] = []
        self.failed: list[Row] = []
        self.n_preemptions = 0
        self._waiting: deque[Row] = deque()  # preempted rows, oldest first, and at most one that was never admitted
        self._requests = requests
        self._make_row = make_row
        self._cache = cache
        self._max_rows = max_rows
        self._prefill_chunk = prefill_chunk
        self._step_overhead_tokens = step_overhead_tokens
        self._overlaps = overlaps
        self._refill_share = refill_share
        self._n_full = 0  # how many rows there were when no more had room; 0: there has been room since
        self._drafts = Drafts()
        self._prefixes = Prefixes(cache, capacity=max_rows if shares_prefixes else 0)

    def plan(self, *, overlapping: bool = False) -> Plan:
        """The next step; with `overlapping`, before the tokens of the step before are known. That preempts no row."""
        while True:
            self._admit()
            plan = self._split()
            if sum(self._cache.pages_needed(part.row.kv, part.n_fed) for part in plan.rows) <= self._cache.n_pages_free:
                return plan
            if overlapping:
                return Plan([])
            self._make_room()

    def can_overlap(self, in_flight: Sequence[ScheduledRow]) -> bool:
        """Whether the next step can be planned before the tokens of the step in flight are known."""
        return self._prefers_overlap and not any(part.draft for part in in_flight)

    @property
    def _prefers_overlap(self) -> bool:
        """Whether steps overlap instead of drafting: with `step_overhead_tokens` rows or more, none of them guided."""
        drafts_do_not_pay = len(self.rows) >= self._step_overhead_tokens
        return self._overlaps and drafts_do_not_pay and not any(row.is_guided for row in self.rows)

    def stepped(self, row: Row) -> None:
        """A planned row's tokens are in the KV cache now."""
        self._prefixes.stepped(row)

    def branch(self, row: Row, chain: Chain) -> None:
        """Read the verdict of another chain too, which begins as this row's does and has ended.

        The branch is admitted last, so it is the first to be preempted; it starts from the row's own pages.
        """
        n_known = min(common_prefix_length(row.chain.tokens, chain.tokens), row.kv.length, len(chain.tokens) - 1)
        chain.rewritten = [(start, min(stop, n_known)) for start, stop in row.chain.rewritten if start < n_known]
        chain.rewritten.append((n_known, len(chain.tokens)))
        branch = Row(row.request, chain, parent=row)
        self.rows.append(branch)
        row.n_branches += 1
        self._cache.fork(row.kv, n_known, into=branch.kv)

    def release(self, row: Row, *, wipe: bool = False) -> None:
        """A row is finished; `wipe` clears the pages that it alone owns, where they may hold NaN."""
        self._cache.free(row.kv, wipe=wipe)
        self.rows.remove(row)

    def drop_cancelled(self) -> list[Row]:
        """Free the rows, live or waiting, that were cancelled, and all that they hold."""
        dropped = [row for row in (*self.rows, *self._waiting) if row.is_cancelled]
        for row in dropped:
            if row in self._waiting:
                self._waiting.remove(row)
            else:
                self._prefixes.abandon(row)
                self.release(row, wipe=True)
        return dropped

    def shrink(self) -> None:
        """The device ran out of memory: go on with half of the rows, with smaller steps where only one is left.

        What the rows have thought is kept; those that cannot stay wait. A row that does not even fit alone fails.
        """
        self._cache.stop_growing()
        if len(self.rows) > 1:
            self._max_rows = len(self.rows) // 2
            while len(self.rows) > self._max_rows:
                self._preempt_last_admitted()
        elif self._prefill_chunk > self.least_prefill_chunk:
            self._prefill_chunk //= 2
        else:
            self._fail_last()

    def close(self) -> None:
        """Give back all memory, whatever is still live, and wherever an interrupt came."""
        self._cache.reclaim([*(row.kv for row in self.rows), *self._prefixes.kept])

    def _admit(self) -> None:
        if self._n_full * (1 - self._refill_share) < len(self.rows) < self._n_full:
            return
        self._n_full = 0
        while len(self.rows) < self._max_rows:
            row = self._next_row()
            if row is None:
                return
            n_pages = self._cache.pages_needed(row.kv, row.n_expected + 1)
            if n_pages > self._cache.max_pages:
                self.failed.append(row)
            elif self.rows and n_pages + len(self.rows) > self._uncommitted_pages():  # each may soon need another page
                self._waiting.appendleft(row)
                break
            else:
                self.rows.append(row)
                row.notify("admitted")
        self._n_full = len(self.rows)

    def _next_row(self) -> Row | None:
        if self._waiting:
            return self._waiting.popleft()
        request = next(self._requests, None)
        return None if request is None else self._make_row(request)

    def _uncommitted_pages(self) -> float:
        """Free pages that no live row needs for what is known of its context."""
        return self._cache.n_pages_free - sum(self._cache.pages_needed(row.kv, row.n_expected) for row in self.rows)

    def _split(self) -> Plan:
        """One token of every row that decodes, and a chunk of the others, oldest first.

        The tokens of a given chain are the draft of its row, which is always right: they are fed like those of a
        prompt, and the logits behind each are read.
        """
        speculates = not self._prefers_overlap
        parts = [
            ScheduledRow(row, 1, needs_logits=True, draft=self._draft(row, speculates=speculates))
            for row in self.rows
            if (row.pending == 1 or row.will_continue) and not row.waits_for_belief and not row.has_given_tokens
        ]
        room, n_read = self._prefill_chunk, EXPECTED_ROWS  # so many logits have memory
        for row in self.rows:
            if room == 0:
                break
            if row.waits_for_belief:
                continue
            if (row.pending > 1 or row.has_given_tokens) and (row.kv.length > 0 or self._prefixes.start(row)):
                n_tokens = min(row.pending, room)
                is_last = n_tokens == row.pending
                given = row.chain.given_ahead(min(room - n_tokens, n_read)) if is_last and row.has_given_tokens else []
                room -= n_tokens + len(given)
                n_read -= len(given)
                parts.append(ScheduledRow(row, n_tokens, needs_logits=is_last, draft=given))
        # The last chunk of a prompt may be a few tokens.
        return Plan(sorted(parts, key=lambda part: part.n_fed > MAX_BATCHED_NEW_TOKENS))

    def _draft(self, row: Row, *, speculates: bool) -> list[int]:
        """Tokens to speculate on, unless memory is short (a draft may take another page).

        A step of R rows costs about as much as overhead + 1.5 R tokens, because every row's KV is read too, and gives R
        of them. A token more costs 1, so it pays where the chance that it is right is higher than
        R / (overhead + 1.5 R).
        """
        n_rows, overhead = len(self.rows), self._step_overhead_tokens
        if not overhead or row.parent is not None:
            return []
        self._drafts.learn(row.chain.tokens, row.n_learned)
        row.n_learned = len(row.chain.tokens)
        if not speculates or row.will_continue or row.chain.ended or self._cache.n_pages_free < 2 * n_rows:
            return []
        if row.chain.n_given_ahead or row.chain.goes_by_beliefs:  # which are to be known before the chain goes on
            return []
        n_tokens = min(max(overhead // n_rows, 1), MAX_DRAFT, row.chain.room - 1)
        return self._drafts.propose(row.chain.tokens, n_tokens, least_chance=n_rows / (overhead + 1.5 * n_rows))

    def _make_room(self) -> None:
        if self._prefixes.drop_oldest():
            return
        if len(self.rows) > 1:
            self._preempt_last_admitted()
        else:
            self._fail_last()

    def _preempt_last_admitted(self) -> None:
        row = self._evict_last_admitted()
        self._waiting.appendleft(row)
        self.n_preemptions += 1
        row.notify("preempted")

    def _fail_last(self) -> None:
        self.failed.append(self._evict_last_admitted())

    def _evict_last_admitted(self) -> Row:
        row = self.rows[-1]
        parent = row.parent
        if parent is not None and parent in self.rows and parent.waits_for_belief:
            row = parent
        self._prefixes.abandon(row)
        self._cache.free(row.kv)
        self.rows.remove(row)
        return row
