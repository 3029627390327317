"""Plots: what is drawn, read back from the figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rank1_hf.results.judgment import Judgment
from tests.viewing.made import judgment, traced

plots = pytest.importorskip("rank1_hf.viewing.plots", reason="needs matplotlib", exc_type=ImportError)


def drawn(axes) -> list[tuple[list[float], list[float]]]:
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in axes.lines]


def explained(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def handles(figure) -> list:
    return figure.legends[0].legend_handles


def test_chain_lengths():
    chains = [judgment(0, n_chain_tokens=9, ended="budget"), judgment(1, n_chain_tokens=3), Judgment.failed(2, "no")]
    figure = plots.chain_lengths({"bf16": chains, "4-bit": chains[1:]})
    (axes,) = figure.axes
    lines = drawn(axes)
    assert lines[0] == ([3.0, 3.0, 9.0], [0.0, 0.5, 1.0])
    assert lines[1] == ([9.0], [1.0])
    assert explained(figure) == ["bf16 (median 6)", "4-bit (median 3)", "closed by force"]


def test_belief_curves_end_in_the_verdict():
    judged = traced(0, 2.5)
    (axes,) = plots.belief_curves([judged, judgment(1), Judgment.failed(2, "no")]).axes
    curves = [line for line in drawn(axes) if line[0] != [0.0, 1.0] and len(line[0]) > 1]
    (start,) = [point.log_odds for point in judged.trace.belief if point.n_tokens == 0]
    assert curves == [([0.0, 4.0], [start, 2.5])]


def test_belief_curves_of_traces_alone_end_in_the_last_belief():
    trace = traced(0, 2.5).trace
    figure = plots.belief_curves([trace])
    points = [(float(point.n_tokens), point.log_odds) for point in trace.belief]
    assert drawn(figure.axes[0])[1] == tuple(map(list, zip(*points, strict=True)))
    assert explained(figure)[:4] == [
        "at last believed relevant (1)",
        "at last believed not relevant (0)",
        "a belief",
        "the last belief",
    ]


def test_calibration():
    scores = [0.05, 0.15, 0.95, 1.0, 0.0]
    judgments = [judgment(index, score=score) for index, score in enumerate(scores)]
    figure = plots.calibration(
        [*judgments, Judgment.failed(9, "no")], [False, True, True, False, False, True], n_bins=10
    )
    curve, histogram = figure.axes
    x, y = drawn(curve)[1]
    assert x == pytest.approx([0.025, 0.15, 0.975])
    assert y == pytest.approx([0.0, 1.0, 0.5])
    assert [bar.get_height() for bar in histogram.patches] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    brier = np.mean((np.array(scores) - [0, 1, 1, 0, 0]) ** 2)
    assert curve.get_title() == f"Brier score {brier:.3f}"


def test_agreement_tells_equal_chains_from_those_that_part():
    ours = [judgment(0, 1.0, "same"), judgment(1, 2.0, "one"), judgment(2, 3.0), judgment(4, 1.0)]
    theirs = [judgment(1, -2.0, "another"), judgment(0, 1.5, "same"), Judgment.failed(2, "no"), judgment(5, 1.0)]
    (axes,) = plots.agreement(ours, theirs, ("bf16", "4-bit")).axes
    assert drawn(axes)[1:] == [([1.0], [1.5]), ([2.0], [-2.0])]
    assert axes.get_title() == "verdicts agree on 1 of 2"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("log-odds, bf16", "log-odds, 4-bit")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_are_written(tmp_path: Path, suffix: str):
    plots.belief_curves([traced(0)]).savefig(tmp_path / f"plot.{suffix}")
    start = (tmp_path / f"plot.{suffix}").read_bytes()[:50]
    assert start.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in start


def test_nothing_to_draw_is_said():
    failed = [Judgment.failed(0, "no")]
    with pytest.raises(ValueError, match="bf16: no judgment has a score"):
        plots.chain_lengths({"bf16": failed})
    with pytest.raises(ValueError, match="judge with trace=TraceOptions"):
        plots.belief_curves([judgment(0)])
    with pytest.raises(ValueError, match="no judgment has a score"):
        plots.calibration(failed, [True])
    with pytest.raises(ValueError, match="1 judgments and 2 answers"):
        plots.calibration(failed, [True, False])
    with pytest.raises(ValueError, match="no pair has a score in both runs"):
        plots.agreement(failed, failed, ("a", "b"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.belief_curves(traced(0).trace),
        lambda: plots.belief_curves(traced(0)),
        lambda: plots.belief_curves([0.5]),
        lambda: plots.belief_curves(None),
        lambda: plots.chain_lengths({"bf16": [traced(0).trace]}),
        lambda: plots.calibration([0.5], [True]),
        lambda: plots.agreement([traced(0)], [0.5], ("a", "b")),
        lambda: plots.agreement("ab", [traced(0)], ("a", "b")),
    ],
)
def test_what_is_no_judgment_is_refused(draw: Callable[[], object]):
    with pytest.raises(TypeError, match="a plot takes a list of judgments"):
        draw()


def test_runs_without_names_are_refused():
    with pytest.raises(TypeError, match="chain_lengths takes a dict"):
        plots.chain_lengths([traced(0)])


LONG = "a long name that goes on and on, longer than a line of the legend may be"
JUDGED = [judgment(index, index - 3.5, n_chain_tokens=10 + index, ended="budget") for index in range(8)]
FIGURES = {
    "chain_lengths": lambda: plots.chain_lengths({"bf16": JUDGED, "_4-bit": JUDGED, "$5 or $6": JUDGED}),
    "chain_lengths of many": lambda: plots.chain_lengths({f"run {n}": JUDGED for n in range(14)} | {LONG: JUDGED}),
    "belief_curves": lambda: plots.belief_curves([traced(0, 2.5), traced(1, -2.5)]),
    "calibration": lambda: plots.calibration(JUDGED, [False] * 4 + [True] * 4),
    "agreement": lambda: plots.agreement(JUDGED, JUDGED[1:], (LONG, "$x_1$")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_when_it_is_printed(name: str, recwarn: pytest.WarningsRecorder):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    page = figure.get_window_extent()
    shown = [figure.legends[0].get_window_extent(), *(axes.get_tightbbox() for axes in figure.axes)]
    for place, box in enumerate(shown):
        assert (box.x0 >= page.x0 - 1, box.x1 <= page.x1 + 1, box.y0 >= page.y0 - 1, box.y1 <= page.y1 + 1) == (
            True,
        ) * 4
        assert not any(box.overlaps(other) for other in shown[place + 1 :])
    assert min(axes.get_window_extent().height for axes in figure.axes[:1]) > 200
    assert not recwarn.list


def test_legends_say_what_every_colour_and_mark_is():
    lengths = FIGURES["chain_lengths"]()
    assert explained(lengths) == ["bf16 (median 14)", "_4-bit (median 14)", "$5 or $6 (median 14)", "closed by force"]
    assert [handle.get_color() for handle in handles(lengths)[:3]] == [
        line.get_color() for line in lengths.axes[0].lines[::2]
    ]
    assert handles(lengths)[3].get_marker() == lengths.axes[0].lines[1].get_marker() == "x"

    beliefs = FIGURES["belief_curves"]()
    assert explained(beliefs) == [
        "judged relevant (1)",
        "judged not relevant (1)",
        "a belief",
        "the verdict",
        "undecided",
    ]
    true, false = (line.get_color() for line in beliefs.axes[0].lines[1::2])
    assert [handle.get_color() for handle in handles(beliefs)[:2]] == [true, false]
    assert handles(beliefs)[2].get_marker() == beliefs.axes[0].lines[1].get_marker() == "|"
    assert handles(beliefs)[3].get_marker() == beliefs.axes[0].lines[2].get_marker() == "o"

    assert explained(FIGURES["calibration"]())[1:] == ["perfect", "how many in a bin"]
    assert explained(FIGURES["agreement"]()) == [
        "the same chain (7)",
        "diverging chains (0)",
        "equal log-odds",
        "verdicts disagree",
    ]


def test_many_runs_are_told_apart():
    figure = plots.chain_lengths({f"run {n}": JUDGED for n in range(20)})
    looks = [(handle.get_color(), handle.get_linestyle()) for handle in handles(figure)[:20]]
    assert len(set(looks)) == 20
