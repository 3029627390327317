"""Plots: what is drawn, read back from the figure."""

from pathlib import Path

import numpy as np
import pytest

from rank1_hf.results.judgment import Judgment
from tests.viewing.made import judgment, traced

plots = pytest.importorskip("rank1_hf.viewing.plots", reason="needs matplotlib", exc_type=ImportError)


def drawn(axes) -> list[tuple[list[float], list[float]]]:
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in axes.lines]


def test_chain_lengths():
    chains = [judgment(0, n_chain_tokens=9, ended="budget"), judgment(1, n_chain_tokens=3), Judgment.failed(2, "no")]
    figure = plots.chain_lengths({"bf16": chains, "4-bit": chains[1:]})
    (axes,) = figure.axes
    lines = drawn(axes)
    assert lines[0] == ([3.0, 3.0, 9.0], [0.0, 0.5, 1.0])
    assert lines[1] == ([9.0], [1.0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["bf16 (median 6)", "4-bit (median 3)"]


def test_belief_curves_end_in_the_verdict():
    judged = traced(0, 2.5)
    (axes,) = plots.belief_curves([judged, judgment(1), Judgment.failed(2, "no")]).axes
    curves = [line for line in drawn(axes) if line[0] != [0.0, 1.0] and len(line[0]) > 1]
    (start,) = [point.log_odds for point in judged.trace.belief if point.n_tokens == 0]
    assert curves == [([0.0, 4.0], [start, 2.5])]


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
    with pytest.raises(ValueError, match="ask for traces with belief"):
        plots.belief_curves([judgment(0)])
    with pytest.raises(ValueError, match="no judgment has a score"):
        plots.calibration(failed, [True])
    with pytest.raises(ValueError, match="1 judgments and 2 answers"):
        plots.calibration(failed, [True, False])
    with pytest.raises(ValueError, match="no pair has a score in both runs"):
        plots.agreement(failed, failed, ("a", "b"))
