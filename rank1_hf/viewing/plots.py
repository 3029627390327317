"""Plots of judgments. Each function gives a matplotlib figure: `.savefig("plot.svg")`, `.pdf` or `.png` writes it.

Every colour, line and mark is in the legend, which stands above the axes, where it covers nothing. Names are text: no
mathematics, and cut where they are long.

chain_lengths    how long the chains are, of one run or several
belief_curves    how the belief moves along the chains
calibration      whether passages with a score of 0.8 are relevant 8 times in 10
agreement        the same pairs by two runs
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rank1_hf.inputs.extras import from_extra
from rank1_hf.results.judgment import Judgment
from rank1_hf.results.trace import Trace
from rank1_hf.viewing.pieces import belief, divergence
from rank1_hf.viewing.printable import start

with from_extra("plots", "plots"):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Those of the report's page.
_TRUE, _FALSE, _GREY, _PARTS = "#0f766e", "#a34a2c", "#646a73", "#7c3aed"
_RUNS = ("#0f766e", "#e8a317", "#5b8def", "#a34a2c", "#7c3aed", "#646a73")
_STYLES = ("-", "--", "-.", ":")  # where there are more runs than colours
_NAME = 40  # characters of a name
_TINT = 0.08  # opacity
_LINE = 0.2  # inches of a legend


def chain_lengths(runs: Mapping[str, Sequence[Judgment]]) -> Figure:
    """How many chains of each run are at most so long, and where chains were closed by force (crosses).

    Args:
        runs: judgments by the name of their run.

    Raises:
        ValueError: a run has no judgment with a score.
    """
    if not isinstance(runs, Mapping):
        raise TypeError(f"chain_lengths takes a dict: judgments by the name of their run, not a {type(runs).__name__}")
    figure, axes = _figure("tokens of the chain", "share of the chains")
    legend: list[tuple[Artist, str]] = []
    for place, (name, judgments) in enumerate(runs.items()):
        chains = sorted(_scored(judgments, name), key=lambda judgment: judgment.n_chain_tokens)
        lengths = np.array([judgment.n_chain_tokens for judgment in chains])
        shares = np.arange(1, len(chains) + 1) / len(chains)
        forced = np.array([judgment.ended != "closed" for judgment in chains])
        colour, style = _RUNS[place % len(_RUNS)], _STYLES[place // len(_RUNS) % len(_STYLES)]
        (line,) = axes.step([lengths[0], *lengths], [0, *shares], where="post", color=colour, linestyle=style)
        axes.plot(lengths[forced], shares[forced], "x", color=colour)
        legend.append((line, f"{start(name, _NAME)} (median {np.median(lengths):.0f})"))
    legend.append((_mark("x", _GREY), "closed by force"))
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    _explain(figure, legend)
    return figure


def belief_curves(judgments: Sequence[Judgment] | Sequence[Trace]) -> Figure:
    """The log-odds along each chain, with a mark where each was read, ending in its verdict (the dot), whose colour the
    whole curve has.

    Args:
        judgments: those with a belief curve are drawn. Traces alone may be given, as `read_traces` loads them; they
            have no verdict, and their curves end in the last belief.

    Raises:
        ValueError: none has one.
    """
    many = _checked(judgments, (Judgment, Trace))
    curves = [points for each in many if (points := belief(each))]
    if not curves:
        raise ValueError("nothing has a belief curve; judge with trace=TraceOptions(belief='sentences')")
    figure, axes = _figure("tokens of the chain", "log-odds if it were closed here")
    undecided = axes.axhline(0, color=_GREY, linewidth=0.8, linestyle=":")
    opacity = max(0.15, min(1.0, 8 / len(curves)))  # of many curves, the places where they are dense stand out
    n_true = 0
    for points in curves:
        tokens, log_odds = zip(*points, strict=True)
        is_true = log_odds[-1] > 0
        n_true += is_true
        colour = _TRUE if is_true else _FALSE
        axes.plot(tokens, log_odds, marker="|", color=colour, alpha=opacity, linewidth=1.2)
        axes.plot(tokens[-1:], log_odds[-1:], "o", color=colour, alpha=max(opacity, 0.4), markersize=4)
    found, last = "judged", "the verdict"
    if any(isinstance(each, Trace) for each in many):  # which may have been judged otherwise behind its last belief
        found, last = "at last believed", "the last belief"
    _explain(
        figure,
        [
            (Line2D([], [], color=_TRUE), f"{found} relevant ({n_true})"),
            (
                Line2D([], [], color=_FALSE),
                f"{found} not relevant ({len(curves) - n_true})",
            ),
            (_mark("|", _GREY), "a belief"),
            (_mark("o", _GREY), last),
            (undecided, "undecided"),
        ],
    )
    return figure


def calibration(judgments: Sequence[Judgment], relevant: Sequence[bool], *, n_bins: int = 10) -> Figure:
    """The share of relevant passages among those with about the same score, and how many those are.

    The title gives the Brier score, the mean of (score - relevant)^2: 0 is perfect, 0.25 is what a score of 0.5 for
    everything gets.

    Args:
        judgments: of any queries.
        relevant: whether each of their passages is relevant, in the same order; from qrels, a grade above 0.
        n_bins: into how many equal parts the scores from 0 to 1 are put.

    Raises:
        ValueError: there are not as many judgments as answers, or none has a score.
    """
    judgments = _checked(judgments)
    if len(judgments) != len(relevant):
        raise ValueError(f"there are {len(judgments)} judgments and {len(relevant)} answers; each needs its own")
    kept = [
        (judgment.score, answer) for judgment, answer in zip(judgments, relevant, strict=True) if _has_score(judgment)
    ]
    if not kept:
        raise ValueError("no judgment has a score")
    scores = np.array([score for score, _ in kept])
    answers = np.array([bool(answer) for _, answer in kept], dtype=float)
    bins = np.minimum((scores * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    filled = counts > 0
    mean_scores = np.bincount(bins, scores, n_bins)[filled] / counts[filled]
    shares = np.bincount(bins, answers, n_bins)[filled] / counts[filled]

    figure = Figure(figsize=(5, 5.2), layout="constrained")
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for each in (axes, histogram):
        _calm(each)
    (ideal,) = axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
    (found,) = axes.plot(mean_scores, shares, "o-", color=_TRUE, linewidth=1.2, markersize=5)
    axes.set(ylabel="share that is relevant", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"Brier score {np.mean((scores - answers) ** 2):.3f}", fontsize="medium")
    bars = histogram.bar((np.arange(n_bins) + 0.5) / n_bins, counts, width=0.9 / n_bins, color=_GREY)
    histogram.set(xlabel="score", ylabel="passages")
    _explain(
        figure,
        [
            (found, "the scores of a bin, and how many of it are relevant"),
            (ideal, "perfect"),
            (bars, "how many in a bin"),
        ],
    )
    return figure


def agreement(judgments: Sequence[Judgment], other: Sequence[Judgment], names: tuple[str, str]) -> Figure:
    """The log-odds of the same pairs by two runs: off the diagonal they differ, in the tinted quarters they disagree.

    Args:
        judgments, other: of the same pairs, matched by `index`.
        names: what the runs are called.

    Raises:
        ValueError: no pair has a score in both.
    """
    judgments, other = _checked(judgments), _checked(other)
    others = {judgment.index: judgment for judgment in other if _has_score(judgment)}
    both = [(each, others[each.index]) for each in judgments if _has_score(each) and each.index in others]
    if not both:
        raise ValueError("no pair has a score in both runs")
    x = np.array([each.log_odds for each, _ in both])
    y = np.array([twin.log_odds for _, twin in both])
    equal = np.array([divergence(each, twin) is None for each, twin in both])
    agree = np.array([each.label == twin.label for each, twin in both])
    xlabel, ylabel = (f"log-odds, {start(name, _NAME)}" for name in names)
    figure, axes = _figure(xlabel, ylabel, (5, 5))
    limit = 1.05 * max(np.abs(x).max(), np.abs(y).max(), 1.0)
    for corner in ((-limit, 0), (0, -limit)):
        axes.add_patch(Rectangle(corner, limit, limit, color=_FALSE, alpha=_TINT, linewidth=0))
    (diagonal,) = axes.plot([-limit, limit], [-limit, limit], color=_GREY, linewidth=0.8, linestyle=":")
    legend: list[tuple[Artist, str]] = []
    for chosen, colour, label in ((equal, _TRUE, "the same chain"), (~equal, _PARTS, "diverging chains")):
        (dots,) = axes.plot(x[chosen], y[chosen], "o", color=colour, alpha=0.7, markersize=4)
        legend.append((dots, f"{label} ({chosen.sum()})"))
    legend += [(diagonal, "equal log-odds"), (Patch(color=_FALSE, alpha=_TINT), "verdicts disagree")]
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set_title(f"verdicts agree on {agree.sum()} of {len(both)}", fontsize="medium")
    _explain(figure, legend)
    return figure


def _figure(xlabel: str, ylabel: str, size: tuple[float, float] = (6, 3.6)) -> tuple[Figure, "Axes"]:
    # Without pyplot: nothing global, and no window.
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _calm(axes)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    return figure, axes


def _calm(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(color=_GREY)


def _explain(figure: Figure, entries: "Sequence[tuple[Artist, str]]") -> None:
    """Write the legend above the axes, which keep their height."""
    artists, labels = zip(*entries, strict=True)
    n_columns = 2 if max(map(len, labels)) <= _NAME else 1
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(labels) // n_columns))
    legend = figure.legend(
        artists, ["" for _ in labels], loc="outside upper center", ncols=n_columns, frameon=False, fontsize="small"
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)  # set here, since a label that begins with "_" would be left out


def _mark(marker: str, colour: str) -> "Artist":
    return Line2D([], [], color=colour, marker=marker, linestyle="none")


def _checked(given: object, kinds: tuple[type, ...] = (Judgment,)) -> list[Any]:
    """What a plot takes, in a list.

    Args:
        given: what the caller gave.
        kinds: what may be in it.

    Raises:
        TypeError: it is something else.
    """
    many: list[Any] = list(given) if isinstance(given, Iterable) else []
    wrong = [each for each in many if not isinstance(each, kinds)]
    if wrong or not isinstance(given, Iterable):
        raise TypeError(
            "a plot takes a list of judgments, as Rank1.judge gives them (with trace=... their traces are in them)"
            f"{', or of traces' if Trace in kinds else ''}, not {type(wrong[0] if wrong else given).__name__}"
        )
    return many


def _has_score(judgment: Judgment) -> bool:
    return judgment.error is None and not math.isnan(judgment.log_odds)


def _scored(judgments: Sequence[Judgment], name: str) -> list[Judgment]:
    scored = [judgment for judgment in _checked(judgments) if _has_score(judgment)]
    if not scored:
        raise ValueError(f"{name}: no judgment has a score")
    return scored
