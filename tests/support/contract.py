"""Checks that every answer over HTTP must pass."""

from datetime import UTC, datetime, timedelta

import httpx

from mlc_core.spec import HEADS

LATER = datetime.now(UTC) + timedelta(days=1)  # until when keys of tests are valid
ORIGIN = "https://shop.example"  # whose pages may call
CLASSIFY, BATCH = "/v1/classify", "/v1/classify/batch"
PROBLEM = "application/problem+json"


def same_labels(one: dict, other: dict) -> bool:
    """Equal, except for float differences between batches of different sizes."""
    return one["labels"].keys() == other["labels"].keys() and all(
        one["labels"][head]["label"] == other["labels"][head]["label"]
        and abs(one["labels"][head]["confidence"] - other["labels"][head]["confidence"]) < 1e-3
        for head in HEADS
    )


def assert_problem(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == status
    assert problem["detail"]
    assert response.headers.get_list("x-request-id") == [problem["request_id"]]
    return problem
