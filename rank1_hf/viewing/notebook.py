"""Results as a notebook shows them: a few lines of HTML without scripts, with every text escaped."""

import math
from collections.abc import Sequence
from html import escape

from rank1_hf.prompts.pair_text import Pair
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.results.notebook import notebook_view
from rank1_hf.results.trace import Trace
from rank1_hf.tracing.lens import Lens
from rank1_hf.viewing.pieces import pieces, uncertainty
from rank1_hf.viewing.printable import printable, start
from rank1_hf.viewing.terminal import sparkline
from rank1_hf.viewing.texts import pair_texts

_N_SHOWN = 20  # rows of a ranking; the report shows all

# Without the classes a notebook would take what stands between two dollar signs for mathematics.
_PLAIN = "tex2jax_ignore mathjax_ignore"
_CHAIN = '<div style="white-space: pre-wrap; text-align: left; max-width: 44em; margin: .4em 0">{}</div>'
_AMBER = "background: rgba(232, 163, 23, {:.2f})"
_TEAL = "background: rgba(15, 118, 110, {:.2f})"
_NOTE = '<div style="color: gray; font-size: smaller">{}</div>'


@notebook_view.register
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


@notebook_view.register
def trace_html(trace: Trace) -> str:
    """A trace: its chain, whose tokens are shaded by their entropy and say more under the mouse, and its curves."""
    shades = uncertainty(trace, "entropy")
    tokens = "".join(_token(trace, place, shade) for place, shade in enumerate(shades))
    curves = {"belief": [point.log_odds for point in trace.belief], "layers": trace.lens or []}
    shown = [
        f"{name} {sparkline(curve)} {curve[0]:+.1f} to {curve[-1]:+.1f}" for name, curve in curves.items() if curve
    ]
    note = "shaded: how unsure the model was of each token; under the mouse: what else it might have said"
    return (
        f'<div class="{_PLAIN}"><b>trace of pair {trace.index}</b> ({len(trace.token_ids)} tokens)'
        f"{_CHAIN.format(tokens)}{''.join(f'<div>{line}</div>' for line in shown)}{_NOTE.format(note)}</div>"
    )


@notebook_view.register
def lens_html(lens: Lens) -> str:
    """A lens: the layers' log-odds as bars, and the prompt shaded by the attention of the verdict."""
    most = max((abs(float(value)) for value in lens.log_odds), default=0.0) or 1.0
    layers = "".join(_layer(layer, float(value), most) for layer, value in enumerate(lens.log_odds))
    mean = lens.mean_attention
    highest = float(mean.max(initial=0.0)) or 1.0
    prompt = "".join(
        _shaded(text, float(weight) / highest, _TEAL, f"{weight:.4f}")
        for text, weight in zip(lens.prompt_texts, mean, strict=True)
    )
    note = (
        "bars: the log-odds that each layer would give; shaded: how much the verdict attends to each token of the "
        "prompt, mean over layers and heads"
    )
    return (
        f'<div class="{_PLAIN}"><b>lens of pair {lens.judgment.index}</b>: {_verdict(lens.judgment)}'
        f'<table style="text-align: left">{layers}</table>{_CHAIN.format(prompt)}{_NOTE.format(note)}</div>'
    )


def _layer(layer: int, log_odds: float, most: float) -> str:
    bar = f"{_TEAL.format(0.7)}; width: {abs(log_odds) / most * 10:.1f}em; height: .7em"
    return f'<tr><td>layer {layer}</td><td>{log_odds:+.2f}</td><td><div style="{bar}"></div></td></tr>'


def _token(trace: Trace, place: int, shade: float) -> str:
    if math.isnan(trace.margins[place]):
        return _shaded(trace.texts[place], shade, _AMBER, "not the model's own")
    said = f"log-probability {trace.logprobs[place]:.2f}"
    other = f"{trace.alternative_texts[place]!r}, margin {trace.margins[place]:+.2f}"
    return _shaded(trace.texts[place], shade, _AMBER, f"{said}; else {other}")


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


def _shaded(text: str, shade: float, colour: str = _AMBER, title: str = "") -> str:
    style = f' style="{colour.format(0.6 * shade)}"' if shade > 0.05 else ""
    title = f' title="{_escaped(title)}"' if title else ""
    return f"<span{style}{title}>{_escaped(text)}</span>" if style or title else _escaped(text)


def _escaped(text: str) -> str:
    return escape(printable(text))
