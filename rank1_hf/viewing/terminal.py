"""Judgments in a terminal: the report, smaller."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.text import Text

from rank1_hf.prompts.pair_text import Pair
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.pieces import Shade, belief, n_kept, pieces, uncertainty
from rank1_hf.viewing.printable import one_line, printable, start
from rank1_hf.viewing.texts import pair_texts

_HEIGHTS = "▁▂▃▄▅▆▇█"
# The terminal's own colours, which fit its own paper: of tokens from so much uncertainty on.
_SHADES = ((0.6, Style(color="black", bgcolor="yellow")), (0.3, Style(color="yellow")))


def render(judgments: Sequence[Judgment], pairs: Sequence[Pair] | None = None, *, by: Shade = "entropy") -> Group:
    """Judgments for a rich console, best first, each with its chain and what was traced of it.

    Args:
        judgments: of one query.
        pairs: what was judged: a judgment's `index` is its pair's place here.
        by: what the tokens of traced chains are shaded by.
    """
    parts: list[RenderableType] = []
    for rank, judgment in enumerate(sorted(judgments, key=ranking_key), start=1):
        _, passage = pair_texts(pairs, judgment.index)
        parts.append(_heading(rank, judgment, "" if passage is None else start(passage, 200)))
        body = [Text(one_line(judgment.error))] if judgment.error is not None else _body(judgment, by)
        parts.append(Padding(Group(*body), (0, 0, 1, 4)))
    return Group(*parts)


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, on a scale whose middle is 0."""
    most = max((abs(value) for value in values), default=0.0) or 1.0
    return "".join(_HEIGHTS[min(int((value / most + 1) * 4), 7)] for value in values)


def _heading(rank: int, judgment: Judgment, passage: str) -> Text:
    if judgment.error is not None:
        return _one_line((f"{'–':>3} ", "dim"), ("not judged  ", "bold"), (passage, "dim"))
    colour = "green" if judgment.label else "red"
    verdict = f"{judgment.score:.3f} {str(judgment.label).lower():<5}"
    return _one_line((f"{rank:>3} ", "dim"), (f"{verdict}  ", f"bold {colour}"), (passage, "bold"))


def _one_line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _body(judgment: Judgment, by: Shade) -> list[Text]:
    lines = [_chain(judgment, by)]
    lens = None if judgment.trace is None else judgment.trace.lens
    for name, curve in (("belief", [log_odds for _, log_odds in belief(judgment)]), ("layers", lens)):
        if curve:
            lines.append(_dimmed(name, sparkline(curve), f"{curve[0]:+.1f} to {curve[-1]:+.1f}"))
    ended = "closed by the model" if judgment.ended == "closed" else f"closed by force ({judgment.ended})"
    cut = ", passage cut to fit" if judgment.truncated else ""
    lines.append(_dimmed(f"log-odds {judgment.log_odds:+.2f}, {judgment.n_chain_tokens} tokens, {ended}{cut}"))
    return lines


def _chain(judgment: Judgment, by: Shade) -> Text:
    """The chain, its tokens shaded by the model's uncertainty; what the verdict did not see is struck through."""
    parts, kept = pieces(judgment), n_kept(judgment)
    shades = [0.0] * len(parts) if judgment.trace is None else uncertainty(judgment.trace, by)
    text = Text()
    for place, (part, shade) in enumerate(zip(parts, shades, strict=True)):
        style = Style(strike=True, dim=True) if place >= kept else _shade(shade)
        text.append(printable(part if text.plain else part.lstrip()), style)
    text.rstrip()
    return text


def _shade(uncertainty: float) -> Style:
    return next((style for least, style in _SHADES if uncertainty >= least), Style.null())


def _dimmed(*words: str) -> Text:
    return Text("  ".join(words), style="dim")
