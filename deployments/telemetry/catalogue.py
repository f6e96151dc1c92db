"""Every metric of the service: name, unit, labels, buckets, and who reads it.

Ray's agents export them under `ray_<name>`, with deployment, replica and application as labels.
`make generate` writes docs/metrics.md from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# Steps of about 1.5, so that a quantile read from the buckets is within a quarter of the real one.
_SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10,
)  # fmt: skip
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, eq=False)  # hashed by identity, at every `record`
class Metric:
    """One metric.

    Attributes:
        name: the name that the recorder gives to Ray.
        text: its meaning.
        reader: who looks at it, and for what.
        buckets: upper bounds, of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    reader: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram's series add `_bucket`, `_count` and `_sum`."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


REQUEST_DURATION = Metric(
    "histogram", "mlc_request_duration_seconds",
    "From the end of the upload to the answer; its count is the number of requests, without those "
    "that HAProxy refused. Status 499: the client left, or Serve gave the request up.",
    "The latency objective; traffic on the dashboard.", ("route", "status"), _SECONDS,
)  # fmt: skip
PHOTOS_ANSWERED = Metric(
    "counter", "mlc_photos_answered",
    "Photos that were answered, by status. In a batch request, each result has its own.",
    "The availability objective; refusals; errors on the dashboard.", ("route", "status"),
)  # fmt: skip
KEY_PHOTOS = Metric(
    "counter", "mlc_key_photos",
    "Photos that were answered, by the name of the client's key and status; none without keys.",
    "Which client sends how much, and which one is over its rate (429).", ("key", "status"),
)  # fmt: skip
FEEDBACK_LABELS = Metric(
    "counter", "mlc_feedback_labels",
    "Labels that people judged, by head: confirmed, or corrected.",
    "Whether the labels still suit the people who use them; see docs/feedback.md.",
    ("head", "outcome"),
)  # fmt: skip
STAGE_DURATION = Metric(
    "histogram", "mlc_stage_duration_seconds",
    "Duration of a stage. `read`: the slowest upload of each 0.1 s. `small_photos_queue` and "
    "`large_photos_queue` (ingress), `images_queue` (classifier): the longest wait in each group "
    "or batch. `decode`, `inference`, `encode`: the whole group or batch. `search`, `write`, "
    "`read` (similar products): each call.",
    "An operator who asks where the time goes when p99 climbs.", ("stage",), _SECONDS,
)  # fmt: skip
BATCH_SIZE = Metric(
    "histogram", "mlc_batch_size", "Photos of each group, or images of each batch.",
    "An operator who tunes lanes and batching: do groups and batches fill under load?",
    ("queue",), _ITEMS,
)  # fmt: skip
BATCHED_ITEMS = Metric(
    "counter", "mlc_batched_items", "Photos of all groups, or images of all batches.",
    "Divided by the count of `ray_mlc_batch_size`, the mean size.", ("queue",),
)  # fmt: skip
QUEUE_LENGTH = Metric(
    "gauge", "mlc_queue_length", "Photos or images that wait for a group or batch.",
    "Saturation: how many wait, and where.", ("queue",),
)  # fmt: skip
ENGINE_BUSY = Metric(
    "counter", "mlc_engine_busy_seconds",
    "Time with a batch in progress, divided by the number of batches that may run at once.",
    "Saturation: its rate is the busy share of a classifier replica.",
)  # fmt: skip
PHOTOS_RECEIVED = Metric(
    "counter", "mlc_photos_received",
    "Photos that reached a preprocessor, by the format that their bytes show.",
    "Traffic by format; a new client shows here first.", ("format",),
)  # fmt: skip
PROBLEMS = Metric(
    "counter", "mlc_problems",
    "Photos and requests that were answered with a problem, by its name: faults of photos, "
    "refusals (`overloaded`), passed deadlines, clients that left.",
    "Refusals and errors, and their causes.", ("problem",),
)  # fmt: skip
MODEL_INFO = Metric(
    "gauge", "mlc_model_info", "1 for the model in service.",
    "A roll-out: which replica answers with which version.",
    ("model", "version", "engine", "precision"),
)  # fmt: skip
MODEL_LOAD = Metric(
    "gauge", "mlc_model_load_seconds",
    "Time to load the model in service, its checks included.", "Start-up and roll-out times.",
)  # fmt: skip
MODEL_WARM_UP = Metric(
    "gauge", "mlc_model_warm_up_seconds",
    "Time of one more inference after those checks, before the model came into service.",
    "Start-up and roll-out times.",
)  # fmt: skip
UPDATE_STUCK = Metric(
    "gauge", "mlc_model_update_stuck",
    "1 while the replica serves a model although it was asked for another, which it refused. "
    "`error` is the class of the reason; GET /v1/model has the reason.",
    "An alert: a roll-out that did not happen.", ("error",),
)  # fmt: skip
MODEL_UPDATES = Metric(
    "counter", "mlc_model_updates", "Requested models, `loaded` or `refused`.",
    "The history of roll-outs.", ("outcome",),
)  # fmt: skip
PREDICTIONS = Metric(
    "counter", "mlc_predictions", "Photos, by the most probable class of each head.",
    "What clients send; a mix that shifts.", ("head", "class", "version"),
)  # fmt: skip
CONFIDENCE = Metric(
    "histogram", "mlc_confidence_ratio",
    "Confidence of each head's label, for the first photo of each batch.",
    "Its distribution: the low end grows first when the model meets unfamiliar photos.",
    ("head", "version"), _RATIOS,
)  # fmt: skip
LABEL_CONFIDENCE = Metric(
    "counter", "mlc_label_confidence", "Sum of the confidences of the labels of all photos.",
    "Drift: divided by `ray_mlc_labels_total` it is the mean confidence. A roll-out: is the new "
    "version as confident?", ("head", "version"),
)  # fmt: skip
LABELS = Metric(
    "counter", "mlc_labels", "Photos that the head classified.",
    "The divisor of the sum of confidences; both series begin together.", ("head", "version"),
)  # fmt: skip

CATALOG_PRODUCTS = Metric(
    "gauge", "mlc_catalog_products", "Products of the catalogue, by its model's embedding.",
    "Is the catalogue of the model in service there, and whole?", ("embedding",),
)  # fmt: skip
CATALOG_AGE = Metric(
    "gauge", "mlc_catalog_age_seconds", "Time since a product was written last.",
    "An alert: the shop's feed has stopped.", ("embedding",),
)  # fmt: skip
CATALOG_WRITES = Metric(
    "counter", "mlc_catalog_writes",
    "Changes of products: `added`, `replaced`, `changed`, `removed` or `refused`.",
    "How fast the catalogue changes; refused ones are products that customers do not find.",
    ("outcome",),
)  # fmt: skip

ALL = (
    REQUEST_DURATION, PHOTOS_ANSWERED, KEY_PHOTOS, STAGE_DURATION, BATCH_SIZE, BATCHED_ITEMS,
    QUEUE_LENGTH, ENGINE_BUSY, PHOTOS_RECEIVED, PROBLEMS, MODEL_INFO, MODEL_LOAD, MODEL_WARM_UP,
    UPDATE_STUCK, MODEL_UPDATES, PREDICTIONS, CONFIDENCE, LABEL_CONFIDENCE, LABELS,
    CATALOG_PRODUCTS, CATALOG_AGE, CATALOG_WRITES, FEEDBACK_LABELS,
)  # fmt: skip
