"""Claims about settings: a wrong one is named, with what was expected."""

import pytest

from deployments.settings import ClassifierConfig, Settings, parse


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"deadline": 3}, ["deadline = 3", "expected one of", "deadline_s"]),
        ({"deadline_s": "3"}, ["deadline_s = '3'", "number"]),
        ({"limits": {"max_photo_bytes": -1}}, ["limits.max_photo_bytes = -1", "greater than 0"]),
        ({"limits": {"photos": 1}}, ["limits.photos", "expected one of max_photo_bytes"]),
        ([], ["Settings = []"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_expected(values, named):
    with pytest.raises(ValueError, match=r"^mine\.yaml: ") as error:
        parse(Settings, values, "mine.yaml")
    for text in named:
        assert text in str(error.value)


def test_an_unknown_engine_names_those_there_are():
    with pytest.raises(ValueError, match="'onnxruntime', 'tensorflow' or 'emulated'"):
        parse(ClassifierConfig, {"model": "m", "engine": "abacus"})


def test_a_group_fits_a_message_between_replicas():
    grpc_default_bytes = 4 * 2**20
    for lane in (Settings().small_lane, Settings().large_lane):
        assert lane.max_bytes < 0.9 * grpc_default_bytes


def test_every_key_has_a_description():
    def undescribed(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.default, "model_fields_set"):
                yield from undescribed(type(field.default), f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert [*undescribed(Settings), *undescribed(ClassifierConfig)] == []
