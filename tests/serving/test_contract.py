"""What the OpenAPI page says, held against the server by schemathesis, with requests as described and others."""

import os

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from rank1_hf import Rank1
from rank1_hf.serving.limits import Limits
from tests.serving.conftest import PATIENCE, running, wait_until

N_REQUESTS = int(os.environ.get("RANK1_HOSTILE_REQUESTS", "12"))
"""For each path, as described and otherwise."""

NOT_IN_A_SCHEMA = [schemathesis.checks.positive_data_acceptance]
"""A blank query is refused, and documents none of which is text: neither is for a schema to say."""


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_does_as_its_page_says(quick: Rank1, mode: GenerationMode):
    paths = set()
    with running(quick, limits=Limits(documents=20, characters=400, body=50_000)) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue  # has nothing that could be wrong

            @hypothesis.settings(
                max_examples=N_REQUESTS, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
            )
            @hypothesis.given(case=operation.as_strategy(mode))
            def ask(case: schemathesis.Case) -> None:
                case.call_and_validate(timeout=PATIENCE, excluded_checks=NOT_IN_A_SCHEMA)

            ask()
            paths.add(operation.path)
        wait_until(lambda: server.is_empty)
    assert {"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"} <= paths
