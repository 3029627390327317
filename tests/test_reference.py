"""Against outputs of the official code on vLLM, with the checkpoint that gave them (RANK1_SMOL), in float32."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from rank1_hf import Rank1

pytestmark = pytest.mark.skipif("RANK1_SMOL" not in os.environ, reason="needs the checkpoint named by RANK1_SMOL")


def test_completions_and_scores_equal_the_official_code(shared: Path):
    references = [json.loads(line) for line in (shared / "reference" / "official_fp32.jsonl").open(encoding="utf-8")]
    by_settings = defaultdict(list)
    for reference in references:
        by_settings[reference["max_output_tokens"], reference["dataset_prompt"]].append(reference)
    n_equal, worst = 0, 0.0
    for (budget, template), group in by_settings.items():
        model = Rank1(os.environ["RANK1_SMOL"], dtype="float32", max_new_tokens=budget, prompt_template=template)
        judgments = model.judge([(reference["query"], reference["passage"]) for reference in group])
        for judgment, reference in zip(judgments, group, strict=True):
            if judgment.chain == reference["completion"]:
                n_equal += 1
                worst = max(worst, abs(judgment.score - reference["score"]))
                assert judgment.ended == {"stop": "closed", "length": "budget"}[reference["finish"]]
    print(f"{n_equal} of {len(references)} completions equal; their scores differ by {worst:.1e} at most")
    assert n_equal >= len(references) - 1
    assert worst < 1e-4


def test_the_official_outputs_are_verified_without_decoding(shared: Path):
    references = [json.loads(line) for line in (shared / "reference" / "official_fp32.jsonl").open(encoding="utf-8")]
    model = Rank1(os.environ["RANK1_SMOL"], dtype="float32")
    found = model.verify(references)
    assert [each.faults for each in found if not each.agrees] == []
    assert {each.agreement for each in found} == {"equal"}
    assert found.summary.kinds.get("closed by force") == sum(each["finish"] == "length" for each in references)
    assert model.decoder.stats.decode_tokens <= 2 * len(references)
