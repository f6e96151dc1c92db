"""Claims about the classifier and the preprocessor as plain objects; the model is the shipped one.

The cluster around them is played by a handle that calls straight through.
"""

import asyncio
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from photos import many_scans
from PIL import Image
from ray.exceptions import ActorUnavailableError
from recording import Recording

from deployments.errors import DeadlinePassed, Overloaded, Unavailable, WrongImageSize
from deployments.messages import (
    PROBE_ID,
    Deadline,
    GroupAnswers,
    ImageGroup,
    Photo,
    PhotoGroup,
    Trace,
)
from deployments.pipeline import preprocessor as preprocessing
from deployments.pipeline.classifier import Classifier
from deployments.pipeline.preprocessor import Preprocessor
from deployments.pipeline.wire import decode_images, encode_answers
from deployments.settings import PROJECT, Settings
from deployments.telemetry.catalogue import PHOTOS_RECEIVED, PREDICTIONS, UPDATE_STUCK
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.errors import (
    ArtifactError,
    PhotoTooCostly,
    PhotoTooLarge,
    PrecisionUnknown,
    ProfileUnknown,
    UndecodablePhoto,
    UnsupportedFormat,
)
from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode
from mlc_core.spec import HEADS, ImageSize

SHIPPED = PROJECT / "models/fashion/2"
CONFIG = {"model": "models/fashion/2", "engine": "onnxruntime"}


class Handle:
    """A deployment handle that calls straight through."""

    deployment_id = "straight through"

    def __init__(self, called, method="classify"):
        self._called, self._method = called, method

    def options(self, method_name, **_):
        return Handle(self._called, method_name)

    def remote(self, *args):
        if self._method == "answer_frame" and not hasattr(self._called, "answer_frame"):
            return self._classify(*args)
        return getattr(self._called, self._method)(*args)

    async def _classify(self, _protocol, head, payload):
        """For those that only classify."""
        reply = await self._called.classify(decode_images(head, memoryview(payload)))
        head, parts = encode_answers(reply)
        return head, b"".join(parts)


@pytest.fixture
async def classifier():
    classifier = Classifier(Settings())
    await classifier.reconfigure(CONFIG)
    return classifier


def photo(color="red", size=(60, 80), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def group(*photos, left_s=30.0, request_id="id", choice=Choice()):  # noqa: B008  (immutable)
    return PhotoGroup([Photo(data, choice, request_id) for data in photos], Deadline.after(left_s))


def pixels(count, height_px=80, width_px=60, left_s=30.0):
    images = np.random.default_rng(1).integers(0, 255, (count, height_px, width_px, 3), np.uint8)
    return images, ImageGroup(
        images.tobytes(), height_px, width_px, [Choice()] * count, ["id"] * count,
        Deadline.after(left_s),
    )  # fmt: skip


async def test_each_image_gets_its_own_answer_whatever_shares_its_batch(classifier):
    images, twenty = pixels(20)
    model = load_artifact(SHIPPED)
    engine, labeller = load_engine("onnxruntime", model), Labeller(model.spec)
    alone = [labeller.answers(engine.infer(image[None]), [Choice()])[0] for image in images]
    others = [pixels(n)[1] for n in (1, 7, 31)]
    (answers, _), *_ = await asyncio.gather(*(classifier.classify(g) for g in (twenty, *others)))
    for together, by_itself in zip(answers, alone, strict=True):
        a, b = json.loads(together)["labels"], json.loads(by_itself)["labels"]
        assert {head: a[head]["label"] for head in a} == {head: b[head]["label"] for head in b}
        for head in a:
            assert a[head]["confidence"] == pytest.approx(b[head]["confidence"], abs=2e-4)


async def test_a_model_that_promises_nothing_refuses_a_precision_to_that_photo_alone(
    unpromising_model,
):
    classifier = Classifier(Settings())
    await classifier.reconfigure({"model": str(unpromising_model)})
    choices = [Choice(), Choice(precision=0.95), Choice(min_confidence=0.5)]
    (first, refused, last), _ = await classifier.classify(pixels(3)[1]._replace(choices=choices))
    assert isinstance(refused, PrecisionUnknown)
    assert isinstance(first, bytes)
    assert isinstance(last, bytes)
    described = await classifier.describe()
    assert (described["thresholds"], described["taxonomy"]) == ({}, None)


async def test_the_model_says_what_its_labels_promise(classifier):
    described = await classifier.describe()
    spec = load_artifact(SHIPPED).spec
    assert list(described["thresholds"]) == list(HEADS)
    assert described["thresholds"]["color"].keys() == spec.thresholds["color"].keys()
    assert described["taxonomy"]["heads"] == spec.hierarchy
    assert len(described["taxonomy"]["paths"]) == len(spec.taxonomy)
    per_class = described["metrics"]["heads"]["category"]["per_class"]
    assert set(per_class["Tshirts"]) == {"precision", "recall", "support"}


async def test_images_of_another_size_are_told_the_size_and_spoil_no_other(classifier):
    small, right = pixels(2, 8, 6)[1], pixels(3)[1]
    (wrong, _), (answers, _) = await asyncio.gather(
        classifier.classify(small), classifier.classify(right)
    )
    assert all(isinstance(answer, bytes) for answer in answers)
    assert all(isinstance(answer, WrongImageSize) for answer in wrong)
    assert (wrong[0].wanted.height_px, wrong[0].wanted.width_px) == (80, 60)


async def test_an_image_past_its_deadline_is_not_inferred(classifier, monkeypatch):
    inferred = []
    infer = classifier._model._engine.infer
    monkeypatch.setattr(
        classifier._model._engine, "infer", lambda x: inferred.append(len(x)) or infer(x)
    )
    answers, trace = await classifier.classify(pixels(3, left_s=-1.0)[1])
    assert all(isinstance(answer, DeadlinePassed) for answer in answers)
    assert inferred == []
    assert trace == ({}, 0, "")


async def test_the_model_changes_while_it_serves_and_answers_say_which_one(classifier, tmp_path):
    other = copy_of_shipped(tmp_path, version="3")
    await classifier.reconfigure({"model": str(other)})
    (answer,), _ = await classifier.classify(pixels(1)[1])
    assert json.loads(answer)["model"] == {"name": "fashion", "version": "3"}
    assert (await classifier.describe())["version"] == "3"


@pytest.mark.parametrize("fault", ["missing", "altered", "wrong heads", "wrong key"])
async def test_a_model_that_cant_be_loaded_never_replaces_one_that_serves(
    classifier, tmp_path, caplog, fault
):
    other = copy_of_shipped(tmp_path, version="3")
    config = {"model": str(other)}
    if fault == "missing":
        shutil.rmtree(other)
    elif fault == "altered":
        (other / "model.onnx").write_bytes(b"altered")
    elif fault == "wrong heads":
        spec = json.loads((other / "spec.json").read_text())
        spec["heads"]["color"].append("Ultraviolet")
        write(other, spec)
    else:
        config["modle"] = config.pop("model")
    await classifier.reconfigure(config)
    (answer,), _ = await classifier.classify(pixels(1)[1])
    assert json.loads(answer)["model"]["version"] == "2"
    assert "model update refused, fashion/2 stays in service: " in caplog.text
    reason = (await classifier.describe())["refused_update"]
    assert reason
    assert reason in caplog.text


async def test_a_refused_update_is_retried_until_its_artifact_is_repaired(
    classifier, tmp_path, caplog
):
    other = copy_of_shipped(tmp_path, version="3")
    whole = (other / "model.onnx").read_bytes()
    (other / "model.onnx").write_bytes(whole[:1000])
    await classifier.reconfigure({"model": str(other)})
    for _ in range(3):
        await classifier.retry_refused_update()
    assert caplog.text.count("model update refused") == 1  # one that fails alike is not news
    (other / "model.onnx").write_bytes(whole)
    await classifier.retry_refused_update()
    model = await classifier.describe()
    assert (model["version"], model["refused_update"]) == ("3", None)
    await classifier.retry_refused_update()  # nothing is left to do


async def test_another_config_ends_the_retries(classifier, tmp_path):
    await classifier.reconfigure({"model": str(tmp_path / "nowhere")})
    assert "no model at" in (await classifier.describe())["refused_update"]
    await classifier.reconfigure(CONFIG)
    assert (await classifier.describe())["refused_update"] is None


async def test_a_refused_update_is_a_metric_with_the_class_of_its_reason(tmp_path):
    recorder = Recording()
    classifier = Classifier(Settings(), recorder)
    await classifier.reconfigure(CONFIG)
    classifier._set_gauges()
    await classifier.reconfigure({"model": str(tmp_path / "nowhere")})
    classifier._set_gauges()
    assert recorder.values(UPDATE_STUCK, error="") == [False]
    assert recorder.values(UPDATE_STUCK, error="ArtifactError") == [True]


async def test_a_profile_that_does_not_fit_the_model_never_replaces_one_that_does(
    classifier, tmp_path
):
    right, wrong = tmp_path / "shop.yaml", tmp_path / "typo.yaml"
    right.write_text("color: {Navy Blue: Blue}")
    wrong.write_text("color:\n  Navi Blue: Blue")
    await classifier.reconfigure(CONFIG | {"profiles": [str(right)]})
    await classifier.reconfigure(CONFIG | {"profiles": [str(wrong)]})
    model = await classifier.describe()
    assert "typo.yaml:2: color has no class 'Navi Blue'" in model["refused_update"]
    assert list(model["profiles"]) == ["shop"]
    assert "Navy Blue" not in model["profiles"]["shop"]["color"]
    await classifier.reconfigure(CONFIG | {"profiles": [str(right), str(right)]})
    assert "two profiles are named shop" in (await classifier.describe())["refused_update"]


async def test_photos_of_a_group_get_the_words_that_they_ask_for(classifier, tmp_path):
    file = tmp_path / "shop.yaml"
    file.write_text("master_category: {Apparel: Mode, Footwear: Mode, Accessories: Mode}")
    await classifier.reconfigure(CONFIG | {"profiles": [str(file)]})
    image, _ = pixels(1)
    choices = [Choice(), Choice(profile="shop"), Choice(profile="none")]
    three = ImageGroup(image.tobytes() * 3, 80, 60, choices, ["id"] * 3, Deadline.after(30))
    own, words, refused = (await classifier.classify(three)).answers
    assert json.loads(own)["labels"]["master_category"]["label"] in ("Apparel", "Accessories")
    assert json.loads(words)["labels"]["master_category"]["label"] == "Mode"
    assert isinstance(refused, ProfileUnknown)


async def test_a_model_that_lacks_a_head_of_the_one_in_service_is_refused(
    classifier, one_head_models, caplog
):
    color = {"model": str(one_head_models["color"])}
    await classifier.reconfigure(color)
    model = await classifier.describe()
    assert list(model["heads"]) == list(HEADS)
    assert "lacks master_category, sub_category, category" in model["refused_update"]
    assert "as `heads` in user_config" in model["refused_update"]
    await classifier.reconfigure(color | {"heads": ["color"]})  # it says so
    assert list((await classifier.describe())["heads"]) == ["color"]
    await classifier.reconfigure(CONFIG)  # heads may be added
    assert list((await classifier.describe())["heads"]) == list(HEADS)


async def test_a_first_model_must_have_the_heads_that_the_config_names(one_head_models):
    config = {"model": str(one_head_models["color"]), "heads": list(HEADS)}
    with pytest.raises(ArtifactError, match="lacks master_category"):
        await Classifier(Settings()).reconfigure(config)


async def test_the_first_model_must_load():
    with pytest.raises(Exception, match="no model at"):
        await Classifier(Settings()).reconfigure({"model": "models/nowhere"})


async def test_every_photo_is_judged_alone(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    good = photo()
    answers, _ = await preprocessor.preprocess(group(good, b"no photo", good[:60], good))
    kinds = [type(answer) for answer in answers]
    assert kinds == [bytes, UnsupportedFormat, UndecodablePhoto, bytes]
    assert answers[0] == answers[3]


async def test_a_careful_group_says_which_photo_is_decoded_and_when_all_are(classifier):
    said = []

    async def begins(number):
        said.append(number)

    preprocessor = Preprocessor([Handle(classifier)], Settings())
    careful = group(photo(), b"no photo", photo())._replace(careful=True, begins=begins)
    await preprocessor.preprocess(careful)
    assert said == [0, 1, 2, None]


async def test_a_group_past_its_deadline_is_not_decoded(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    answers, trace = await preprocessor.preprocess(group(photo(), photo(), left_s=-1))
    assert [type(answer) for answer in answers] == [DeadlinePassed] * 2
    assert "inference" not in trace.stages_s


async def test_a_photo_that_takes_longer_than_its_deadline_is_not_decoded(classifier, monkeypatch):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    slow = photo("red")
    monkeypatch.setattr(preprocessing, "decode_s", lambda data: 60.0 * (data == slow))
    answers, _ = await preprocessor.preprocess(group(slow, photo("navy"), left_s=30.0))
    assert [type(answer) for answer in answers] == [DeadlinePassed, bytes]


async def test_a_photo_of_too_much_work_is_refused_and_spoils_no_other(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    answers, _ = await preprocessor.preprocess(group(photo(), many_scans(850, 7000), photo()))
    assert [type(answer) for answer in answers] == [bytes, PhotoTooCostly, bytes]


async def test_the_pixel_limit_is_the_settings(classifier):
    settings = Settings(limits={"max_photo_pixels": 100})
    (answer,), _ = await Preprocessor([Handle(classifier)], settings).preprocess(group(photo()))
    assert isinstance(answer, PhotoTooLarge)


async def test_a_model_of_another_size_makes_the_preprocessor_decode_again(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    await preprocessor.preprocess(group(photo()))
    preprocessor._size = ImageSize(height_px=8, width_px=6)
    answers, _ = await preprocessor.preprocess(group(photo(), b"no photo", photo()))
    assert [type(answer) for answer in answers] == [bytes, UnsupportedFormat, bytes]
    assert preprocessor._size == load_artifact(SHIPPED).spec.image


async def test_large_photos_are_answered_as_small_ones_are(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings(large_photo_bytes=10))
    one, two = photo("navy", (600, 800)), photo("red", (600, 800))
    (first, second), _ = await preprocessor.preprocess(group(one, two))
    size = load_artifact(SHIPPED).spec.image
    images = np.stack([decode(one, size), decode(two, size)])
    _, two_images = pixels(2)
    expected, _ = await classifier.classify(two_images._replace(pixels=images.tobytes()))
    assert [first, second] == expected


async def test_classifiers_of_a_head_each_answer_as_one_of_all(classifier, one_head_models):
    of_one_head = []
    for path in one_head_models.values():
        of_one_head.append(Classifier(Settings()))
        await of_one_head[-1].reconfigure({"model": str(path)})
    # A model of one head knows no taxonomy.
    own = Choice(consistent=False)
    photos = group(photo("red"), photo("navy"), b"no photo", choice=own)
    merged, _ = await Preprocessor(list(map(Handle, of_one_head)), Settings()).preprocess(photos)
    whole, _ = await Preprocessor([Handle(classifier)], Settings()).preprocess(photos)
    assert [type(answer) for answer in merged] == [bytes, bytes, UnsupportedFormat]
    for several, one in zip(map(json.loads, merged[:2]), map(json.loads, whole[:2]), strict=True):
        assert several["model"]["name"] == "+".join(HEADS)
        assert list(several["labels"]) == list(one["labels"])
        for head, label in one["labels"].items():
            assert several["labels"][head]["label"] == label["label"]
            assert several["labels"][head]["confidence"] == pytest.approx(
                label["confidence"], abs=1e-3
            )


async def test_one_classifier_that_cant_answer_leaves_no_half_answers(classifier):
    class Busy:
        async def classify(self, images):
            return GroupAnswers([Overloaded("busy")] * len(images.choices), Trace({}, 0, ""))

    preprocessor = Preprocessor([Handle(classifier), Handle(Busy())], Settings())
    (answer,), _ = await preprocessor.preprocess(group(photo()))
    assert isinstance(answer, Overloaded)


async def test_a_call_is_made_once_more_when_its_replica_died(classifier):
    class DiesOnce:
        died = 0

        async def classify(self, images):
            if not self.died:
                self.died += 1
                raise ActorUnavailableError("gone", None)
            return await classifier.classify(images)

        image_size = classifier.image_size

    (answer,), _ = await Preprocessor([Handle(DiesOnce())], Settings()).preprocess(group(photo()))
    assert isinstance(answer, bytes)


async def test_without_a_living_replica_the_service_is_unavailable():
    class Dead:
        async def classify(self, images=None):
            raise ActorUnavailableError("gone", None)

        image_size = classify

    with pytest.raises(Unavailable):
        await Preprocessor([Handle(Dead())], Settings()).preprocess(group(photo()))


async def test_a_group_learns_what_each_stage_took_and_who_answered(classifier):
    _, trace = await Preprocessor([Handle(classifier)], Settings()).preprocess(
        group(photo("red"), b"no photo", photo("navy"))
    )
    assert set(trace.stages_s) == {"decode", "images_queue", "inference", "encode"}
    assert all(0 <= spent_s < 30 for spent_s in trace.stages_s.values())
    assert (trace.batch_size, trace.model) == (2, "fashion/2")  # the bad one was never inferred
    _, of_none = await Preprocessor([Handle(classifier)], Settings()).preprocess(group(b"no photo"))
    assert (list(of_none.stages_s), of_none.batch_size, of_none.model) == (["decode"], 0, "")


async def test_the_readiness_probe_is_no_traffic():
    recorder = Recording()
    classifier = Classifier(Settings(), recorder)
    await classifier.reconfigure(CONFIG)
    preprocessor = Preprocessor([Handle(classifier)], Settings(), recorder)
    probe = group(photo(), request_id=PROBE_ID)
    await preprocessor.preprocess(probe)
    classifier._set_gauges()
    assert recorder.values(PHOTOS_RECEIVED) == recorder.values(PREDICTIONS) == []
    both = [*group(photo()).photos, *probe.photos]
    await preprocessor.preprocess(PhotoGroup(both, Deadline.after(30.0)))
    classifier._set_gauges()
    assert sum(recorder.values(PHOTOS_RECEIVED)) == 1
    assert sum(recorder.values(PREDICTIONS, head="color")) == 1


async def test_what_a_replaced_model_predicted_is_counted_too(tmp_path):
    recorder = Recording()
    classifier = Classifier(Settings(), recorder)
    await classifier.reconfigure(CONFIG)
    await classifier.classify(pixels(3)[1])
    await classifier.reconfigure({"model": str(copy_of_shipped(tmp_path, version="3"))})
    await classifier.classify(pixels(2)[1])
    classifier._set_gauges()
    counted = {v: sum(recorder.values(PREDICTIONS, head="color", version=v)) for v in "23"}
    assert counted == {"2": 3, "3": 2}


async def test_the_image_size_is_asked_of_the_classifier_when_the_preprocessor_starts(classifier):
    preprocessor = Preprocessor([Handle(classifier)], Settings())
    async with asyncio.timeout(5):
        while preprocessor._size is None:
            await asyncio.sleep(0)
    assert preprocessor._size == load_artifact(SHIPPED).spec.image


async def test_groups_that_share_a_batch_each_learn_its_size(classifier):
    groups = [pixels(n)[1] for n in (2, 3)]
    done = await asyncio.gather(*map(classifier.classify, groups))
    assert [trace.batch_size for _, trace in done] == [5, 5]


async def test_failures_of_ours_are_logged_with_the_request_ids(classifier, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("broken")

    preprocessor = Preprocessor([Handle(classifier)], Settings())
    photos = group(photo(), photo(), request_id="shop-0")
    monkeypatch.setattr(classifier._model._engine, "infer", fail)
    answers, _ = await preprocessor.preprocess(photos)
    assert [type(answer) for answer in answers] == [RuntimeError] * 2
    assert "inference failed, requests shop-0, shop-0" in caplog.text
    monkeypatch.setattr("deployments.pipeline.preprocessor.decode", fail)
    await preprocessor.preprocess(photos)
    assert "decoding failed, request shop-0" in caplog.text


def copy_of_shipped(tmp_path, version):
    other = tmp_path / version
    shutil.copytree(SHIPPED, other)
    spec = json.loads((other / "spec.json").read_text())
    write(other, spec | {"version": version})
    return other


def write(artifact, spec):
    """Change spec.json, with the checksum that goes with it."""
    old = hashlib.sha256((artifact / "spec.json").read_bytes()).hexdigest()
    (artifact / "spec.json").write_text(json.dumps(spec))
    new = hashlib.sha256((artifact / "spec.json").read_bytes()).hexdigest()
    sums = artifact / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, new))
