"""`POST /v1/feedback`: the labels that a person says are right, stored for training.

Without a directory in the settings there is no such route, and no photo is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import (
    FeedbackUnwritable,
    MalformedRequest,
    RequestUnknown,
    UnsupportedMediaType,
    quote,
)
from deployments.http.bodies import FORM, FORM_OVERHEAD_BYTES, Upload, fields_of, too_large
from deployments.http.photo_route import ENTRY
from deployments.http.recent_photos import RecentPhotos
from deployments.http.served_model import ServedModels
from deployments.pipeline.dispatcher import Dispatcher
from deployments.settings import Settings
from deployments.telemetry.catalogue import FEEDBACK_LABELS
from deployments.telemetry.recorder import Recorder
from mlc_core.feedback import new_feedback, remove_old_feedback, write_feedback
from mlc_core.labels import Choice, parse_answer

logger = logging.getLogger("ray.serve")

FEEDBACK = "/v1/feedback"
MAX_JSON_BYTES = 2**14
_CLEAN_EVERY_S = 3600.0
_ID_CHARACTERS = 128  # of a request id that is fit for a log (middleware.py)

_Person = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    by: _Person
    request_id: Annotated[str, msgspec.Meta(max_length=_ID_CHARACTERS)] | None = None


class FeedbackRoute:
    """Stores feedback.

    Args:
        writer: names the file of this ingress in the directory of feedback.
        describe: describes the model in service, as /v1/model answers it.

    Attributes:
        recent: the photos that feedback may name by their request.
    """

    def __init__(
        self,
        directory: Path,
        writer: str,
        dispatcher: Dispatcher,
        describe: Callable[[], Awaitable[Mapping[str, Any]]],
        settings: Settings,
        recorder: Recorder,
    ) -> None:
        self._directory, self._writer = directory, writer
        self.recent = RecentPhotos(settings.feedback.recent_bytes)
        self._dispatcher, self._recorder = dispatcher, recorder
        self._models = ServedModels(describe, settings.deadline_s)
        self._limits, self._upload_timeout_s = settings.limits, settings.upload_timeout_s

    def route(self) -> Route:
        """The route; it needs a key that may write."""
        return Route(FEEDBACK, self._store, methods=["POST"])

    async def _store(self, request: Request) -> Response:
        entry = request.scope[ENTRY]
        upload = Upload(request.scope, request.receive, self._upload_timeout_s)
        sent, photo = await self._read(upload)
        entry.note_read()
        entry.photos = 1
        _check_labels(sent.labels, (await self._models.now()).heads)
        if photo is None:
            photo = self.recent.get(sent.request_id or "")
            if photo is None:
                raise RequestUnknown(
                    f"this ingress has no photo of the request {quote(sent.request_id or '')}: it "
                    "keeps those of its own last requests for one photo; send the photo in a form"
                )
        submitted = self._dispatcher.submit(photo, Choice(), entry.request_id)
        outcome = await self._dispatcher.wait(submitted)
        entry.note(outcome.stage, outcome.waited_s, outcome.trace)
        if isinstance(outcome.answer, Exception):
            raise outcome.answer
        answer = parse_answer(outcome.answer)
        feedback = new_feedback(
            photo,
            by=sent.by,
            labels=sent.labels,
            answered={head: each["label"] for head, each in answer["labels"].items()},
            model="/".join(answer["model"].values()),
            request_id=sent.request_id or "",
            key=entry.key,
        )
        try:
            await asyncio.to_thread(write_feedback, self._directory, self._writer, photo, feedback)
        except OSError as error:
            logger.error("feedback can't be stored in %s: %s", self._directory, error)
            raise FeedbackUnwritable(
                "the service can't store feedback now; its log says why. Send it again later"
            ) from error
        corrected = feedback.corrected
        for head in sent.labels:
            outcome_name = "corrected" if head in corrected else "confirmed"
            self._recorder.record(FEEDBACK_LABELS, 1, head=head, outcome=outcome_name)
        stored = {"photo": feedback.photo, "answered": feedback.answered, "corrected": corrected}
        return JSONResponse(stored, 201)

    async def _read(self, upload: Upload) -> tuple[_Sent, bytes | None]:
        """What a request says, and its photo if it has one."""
        if upload.media_type == "application/json":
            sent = _parse(await upload.read(MAX_JSON_BYTES))
            if sent.request_id is None:
                raise MalformedRequest(
                    "name the request_id of the photo, or send the photo in a form, with this "
                    "JSON in the field 'feedback'"
                )
            return sent, None
        if upload.media_type != FORM:
            raise UnsupportedMediaType(
                f"the body is declared as {quote(upload.media_type or 'nothing')}; send "
                "application/json with a request_id, or multipart/form-data with a photo"
            )
        body = await upload.read(self._limits.max_photo_bytes + FORM_OVERHEAD_BYTES)
        fields = fields_of(upload, body)
        if strange := fields.keys() - {"image", "feedback"}:
            raise MalformedRequest(
                f"the form has the field {quote(min(strange))}; send image and feedback"
            )
        if not fields.get("image") or "feedback" not in fields:
            raise MalformedRequest("the form needs a photo in 'image', and JSON in 'feedback'")
        if len(fields["image"]) > self._limits.max_photo_bytes:
            raise too_large(self._limits.max_photo_bytes)
        if len(fields["feedback"]) > MAX_JSON_BYTES:
            raise too_large(MAX_JSON_BYTES)
        return _parse(fields["feedback"]), fields["image"]


async def keep_removing(directory: Path, keep_days: int) -> None:
    """Remove days of feedback that are too old once an hour, until cancelled."""
    while True:
        try:
            today = datetime.now(UTC).date()
            removed = await asyncio.to_thread(remove_old_feedback, directory, keep_days, today)
            if removed:
                logger.info("removed feedback of %s", ", ".join(removed))
        except FileNotFoundError:
            logger.info("another ingress removes old feedback")
        except OSError as error:
            logger.error("old feedback in %s can't be removed: %s", directory, error)
        await asyncio.sleep(_CLEAN_EVERY_S)


def _parse(text: bytes) -> _Sent:
    try:
        return msgspec.json.decode(text, type=_Sent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"what should be feedback is wrong: {error}") from error


def _check_labels(labels: Mapping[str, str], heads: Mapping[str, Sequence[str]]) -> None:
    for head, label in labels.items():
        if head not in heads:
            raise MalformedRequest(f"there is no head {quote(head)}; there are {', '.join(heads)}")
        if label not in heads[head]:
            meant = get_close_matches(label, heads[head], n=1)
            hint = f"did you mean {meant[0]}?" if meant else "GET /v1/model lists them"
            raise MalformedRequest(
                f"{head} has no class {quote(label)}, in the model's own words; {hint}"
            )
