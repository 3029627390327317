"""Judgments as a notebook shows them: a few lines of HTML without scripts, with every text escaped."""

from collections.abc import Sequence
from html import escape

from rank1_hf.prompts.prompt import Pair
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.pieces import pieces, uncertainty
from rank1_hf.viewing.printable import printable, start
from rank1_hf.viewing.texts import pair_texts

_N_SHOWN = 20  # rows of a ranking; the report shows all

# Without the classes a notebook would take what stands between two dollar signs for mathematics.
_PLAIN = "tex2jax_ignore mathjax_ignore"
_CHAIN = '<div style="white-space: pre-wrap; text-align: left; max-width: 44em; margin: .4em 0">{}</div>'
_AMBER = "background: rgba(232, 163, 23, {:.2f})"


def judgment_html(judgment: Judgment) -> str:
    """One judgment: its verdict and its chain, whose tokens are shaded by their entropy where they were traced."""
    if judgment.error is not None:
        return f'<div class="{_PLAIN}"><b>not judged</b>: {_escaped(judgment.error)}</div>'
    return f'<div class="{_PLAIN}">{_verdict(judgment)}{_CHAIN.format(_chain(judgment))}</div>'


def ranking_html(judgments: Sequence[Judgment], pairs: Sequence[Pair] | None = None) -> str:
    """Judgments, best first: a table whose chains open with a click.

    Args:
        judgments: those to show; of many, the best 20.
        pairs: what was judged: a judgment's `index` is its pair's place here.
    """
    ranked = sorted(judgments, key=ranking_key)
    rows = "".join(_row(rank, judgment, pairs) for rank, judgment in enumerate(ranked[:_N_SHOWN], start=1))
    hidden = len(ranked) - _N_SHOWN
    more = f"<p>and {hidden} more; <code>.to_html(path)</code> writes them all</p>" if hidden > 0 else ""
    return f'<table class="{_PLAIN}" style="text-align: left">{rows}</table>{more}'


def _row(rank: int, judgment: Judgment, pairs: Sequence[Pair] | None) -> str:
    _, passage = pair_texts(pairs, judgment.index)
    title = _escaped(start(judgment.chain if passage is None else passage, 100))
    score = "no score" if judgment.error is not None else f"{judgment.score:.3f} {_label(judgment)}"
    return (
        f'<tr style="vertical-align: top"><td>{rank}</td><td style="text-align: left"><details>'
        f"<summary>{title}</summary>{judgment_html(judgment)}</details></td><td>{score}</td></tr>"
    )


def _verdict(judgment: Judgment) -> str:
    ended = "" if judgment.ended == "closed" else f", closed by force ({judgment.ended})"
    return (
        f"<b>{_label(judgment)}</b> {judgment.score:.4f} (log-odds {judgment.log_odds:+.2f}; "
        f"{judgment.n_chain_tokens} tokens{ended})"
    )


def _label(judgment: Judgment) -> str:
    return str(judgment.label).lower()


def _chain(judgment: Judgment) -> str:
    if judgment.trace is None:
        return _escaped(judgment.chain.strip())
    first, *others = pieces(judgment) or [""]
    return "".join(map(_shaded, [first.lstrip(), *others], uncertainty(judgment.trace, "entropy")))


def _shaded(text: str, shade: float) -> str:
    return f'<span style="{_AMBER.format(0.6 * shade)}">{_escaped(text)}</span>' if shade > 0.05 else _escaped(text)


def _escaped(text: str) -> str:
    return escape(printable(text))
