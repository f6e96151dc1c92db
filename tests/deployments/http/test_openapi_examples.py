"""Claims about the examples of the contract that need no service."""

from deployments.http.openapi_examples import add_examples, read_examples


def paths(path, method, status):
    response = {"content": {"application/json": {}}}
    return {path: {method: {"responses": {status: response}}}}, response["content"]


def test_an_example_shows_the_heads_of_the_model_in_service_alone():
    item, content = paths("/v1/feedback", "post", "201")
    add_examples(item, ["category"])
    (shown,) = content["application/json"]["examples"].values()
    assert list(shown["value"]["answered"]) == ["category"]
    assert shown["value"]["corrected"] == []
    item, content = paths("/v1/classify/batch", "post", "200")
    add_examples(item, ["category"])
    (shown,) = content["application/json"]["examples"].values()
    labelled, refused = shown["value"]["results"]
    assert list(labelled["labels"]) == ["category"]
    assert refused["status"] == 415


def test_a_path_or_status_that_the_contract_lacks_has_no_example():
    item, content = paths("/v1/classify", "post", "504")
    add_examples(item, ["category"])
    assert content == {"application/json": {}}
    assert len({each.name for each in read_examples()}) == len(read_examples())
