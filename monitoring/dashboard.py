"""The Grafana dashboard; `make generate` writes monitoring/dashboard.json from it.

Grafana's own types build it, so the file has the format that Grafana reads. The metrics are those
of deployments/telemetry/catalogue.py and Serve's; monitoring/rules.yaml records the series with
colons.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

from loadtest.slo import OBJECTIVES, load_objectives

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_APP = 'application=~"$application"'
_CLASSIFY = f'{_APP}, route=~"/v1/classify.*|/v2/.*/infer"'
_ANSWERED = f'{_APP}, route="/v1/classify", status="200"'
_SEARCHES = f'{_APP}, route="/v1/similar"'
_IN_CATALOG = f'{_APP}, stage=~"search|write|read"'
_HEAD = f'{_APP}, head="$head"'
_WIDE = 24  # columns that Grafana has
_P99_S = load_objectives(OBJECTIVES).p99_s or 0.0


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: (PromQL, legend); Grafana fills in a legend's {{label}} for each series.
        unit: Grafana's name of the unit.
        stacked: whether to stack the areas; their sum must mean something.
        limits: None for a plot. For a single number, the values where it turns orange, then red.
    """

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False
    limits: tuple[float, ...] | None = None


def _rate(metric: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, selector: str, by: str = "") -> str:
    buckets = _rate(f"{metric}_bucket", selector, f"{by}, le" if by else "le")
    return f"histogram_quantile({share}, {buckets})"


def _ratio(over: str, under: str, by: str) -> str:
    return f"{_rate(over, _APP, by)} / {_rate(under, _APP, by)}"


_PREDICTIONS = _rate("ray_mlc_predictions_total", _APP, "version, head")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Objectives": (
        Panel(
            "Errors",
            "Share of the answers of 5 minutes that are 5xx; the objective is 0.1%.",
            "percentunit",
            ((f"mlc:error_ratio:rate5m{{{_APP}}}", ""),),
            limits=(0.001, 0.0144),
        ),
        Panel(
            f"Slower than {_P99_S:g} s",
            "Share of the good answers of 5 minutes; the objective is 1%.",
            "percentunit",
            ((f"mlc:slow_ratio:rate5m{{{_APP}}}", ""),),
            limits=(0.01, 0.144),
        ),
        Panel(
            "p99",
            "Of the good answers of 5 minutes.",
            "s",
            ((f"mlc:request_p99_seconds:rate5m{{{_APP}}}", ""),),
            limits=(_P99_S, 4 * _P99_S),
        ),
        Panel(
            "Requests a second",
            "To classify, over 5 minutes.",
            "reqps",
            ((f"mlc:requests:rate5m{{{_APP}}}", ""),),
            limits=(),
        ),
        Panel(
            "Busiest engine",
            "Share of 5 minutes; above 90%, queues grow.",
            "percentunit",
            ((f"max(mlc:engine_busy:rate5m{{{_APP}}})", ""),),
            limits=(0.75, 0.9),
        ),
        Panel(
            "Firing alerts",
            "docs/runbook.md says what to do about each.",
            "none",
            (('count(ALERTS{alertname=~"Mlc.*", alertstate="firing"}) or vector(0)', ""),),
            limits=(1, 2),
        ),
    ),
    "Traffic and errors": (
        Panel(
            "Requests a second, by route",
            "A batch request counts once.",
            "reqps",
            ((_rate("ray_mlc_request_duration_seconds_count", _CLASSIFY, "route"), "{{route}}"),),
            stacked=True,
        ),
        Panel(
            "Photos answered a second, by status",
            "Each photo of a batch request has its own.",
            "cps",
            ((_rate("ray_mlc_photos_answered_total", _APP, "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Photos a second, by key",
            "Empty without keys. 429: over the key's rate.",
            "cps",
            ((_rate("ray_mlc_key_photos_total", _APP, "key, status"), "{{key}} {{status}}"),),
            stacked=True,
        ),
        Panel(
            "Problems a second, by name",
            "Of photos and of requests; the name says the cause.",
            "cps",
            ((_rate("ray_mlc_problems_total", _APP, "problem"), "{{problem}}"),),
            stacked=True,
        ),
        Panel(
            "Photos a second, by format",
            "By the format that their bytes show.",
            "cps",
            ((_rate("ray_mlc_photos_received_total", _APP, "format"), "{{format}}"),),
            stacked=True,
        ),
    ),
    "Latency": (
        Panel(
            "Requests for one photo",
            "Answered with 200; from the end of the upload to the answer.",
            "s",
            tuple(
                (
                    _quantile(share, "ray_mlc_request_duration_seconds", _ANSWERED),
                    f"p{100 * share:.0f}",
                )
                for share in (0.5, 0.9, 0.99)
            ),
        ),
        Panel(
            "p99 by stage",
            "Look at the stage that grew.",
            "s",
            ((_quantile(0.99, "ray_mlc_stage_duration_seconds", _APP, "stage"), "{{stage}}"),),
        ),
        Panel(
            "p50 by stage",
            "Where the time goes normally.",
            "s",
            ((_quantile(0.5, "ray_mlc_stage_duration_seconds", _APP, "stage"), "{{stage}}"),),
        ),
        Panel(
            "Budget burn",
            "Over one hour; 1 uses up the budget of 30 days in 30 days. "
            "14.4 pages; 6 over six hours opens a ticket.",
            "none",
            (
                (f"mlc:error_ratio:rate1h{{{_APP}}} / 0.001", "errors"),
                (f"mlc:slow_ratio:rate1h{{{_APP}}} / 0.01", "slow answers"),
            ),
        ),
    ),
    "Batching and queues": (
        Panel(
            "Mean size of groups and batches",
            "They fill as load grows.",
            "none",
            (
                (
                    _ratio("ray_mlc_batched_items_total", "ray_mlc_batch_size_count", "queue"),
                    "{{queue}}",
                ),
            ),
        ),
        Panel(
            "Groups and batches a second",
            "A group is one call, a batch one run of the engine.",
            "cps",
            ((_rate("ray_mlc_batch_size_count", _APP, "queue"), "{{queue}}"),),
        ),
        Panel(
            "Queue length",
            "Photos that wait for a group or batch; read every 2 s.",
            "none",
            ((f"sum by (queue) (ray_mlc_queue_length{{{_APP}}})", "{{queue}}"),),
        ),
    ),
    "Replicas and autoscaling": (
        Panel(
            "Replicas",
            "Healthy ones.",
            "none",
            (
                (
                    f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{_APP}}})",
                    "{{deployment}}",
                ),
            ),
        ),
        Panel(
            "Replicas wanted by autoscaling",
            "Of deployments that autoscale.",
            "none",
            (
                (
                    f"max by (deployment) (ray_serve_autoscaling_target_replicas{{{_APP}}})",
                    "{{deployment}}",
                ),
            ),
        ),
        Panel(
            "Engine busy",
            "Share of its batch slots in use, by replica.",
            "percentunit",
            (
                (
                    f"rate(ray_mlc_engine_busy_seconds_total{{{_APP}}}[$__rate_interval])",
                    "{{replica}}",
                ),
            ),
        ),
    ),
    "Model": (
        Panel(
            "Model in service",
            "Replicas, by model, engine and precision.",
            "none",
            (
                (
                    f"count by (model, version, engine, precision) (ray_mlc_model_info{{{_APP}}})",
                    "{{model}} {{version}}, {{engine}} {{precision}}",
                ),
            ),
        ),
        Panel(
            "Photos a second, by version",
            "A roll-out moves them from one version to the next.",
            "cps",
            (
                (
                    f"max by (version) ({_PREDICTIONS})",
                    "{{version}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Load and warm-up time",
            "Of the slowest replica.",
            "s",
            (
                (f"max(ray_mlc_model_load_seconds{{{_APP}}})", "load"),
                (f"max(ray_mlc_model_warm_up_seconds{{{_APP}}})", "warm-up"),
            ),
        ),
        Panel(
            "Model updates",
            "Since the replicas started; stuck replicas serve the previous model.",
            "none",
            (
                (f"sum by (outcome) (ray_mlc_model_updates_total{{{_APP}}})", "{{outcome}}"),
                (f"sum(ray_mlc_model_update_stuck{{{_APP}}})", "stuck now"),
            ),
        ),
    ),
    "Similar products": (
        Panel(
            "Searches a second, by status",
            "Empty without a catalogue.",
            "reqps",
            ((_rate("ray_mlc_photos_answered_total", _SEARCHES, "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Searches and writes, p99",
            "In the catalogue alone, without the photo's way to its embedding.",
            "s",
            (
                (
                    _quantile(0.99, "ray_mlc_stage_duration_seconds", _IN_CATALOG, "stage"),
                    "{{stage}}",
                ),
            ),
        ),
        Panel(
            "Products",
            "By the embedding of a model; a new model's catalogue is built beside the old one.",
            "none",
            (
                (
                    f"max by (embedding) (ray_mlc_catalog_products{{{_APP}}})",
                    "{{embedding}}",
                ),
            ),
        ),
        Panel(
            "Age",
            "Since the last write: the shop's feed.",
            "s",
            ((f"min(ray_mlc_catalog_age_seconds{{{_APP}}})", "age"),),
        ),
        Panel(
            "Writes a second, by outcome",
            "Refused ones are products that customers do not find.",
            "cps",
            ((_rate("ray_mlc_catalog_writes_total", _APP, "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
    ),
    "Predictions and confidence": (
        Panel(
            "Mean confidence",
            "It falls when the model meets unfamiliar photos.",
            "percentunit",
            (
                (
                    _ratio(
                        "ray_mlc_label_confidence_total", "ray_mlc_labels_total", "head, version"
                    ),
                    "{{head}}, version {{version}}",
                ),
            ),
        ),
        Panel(
            "Confidence, 10th percentile",
            "It falls before the mean does.",
            "percentunit",
            (
                (
                    _quantile(0.1, "ray_mlc_confidence_ratio", _APP, "head, version"),
                    "{{head}}, version {{version}}",
                ),
            ),
        ),
        Panel(
            "Labels that people corrected",
            "Of those that they judged; empty without feedback.",
            "percentunit",
            (
                (
                    f"sum by (head) (increase(ray_mlc_feedback_labels_total"
                    f'{{{_APP}, outcome="corrected"}}[1d])) / sum by (head) '
                    f"(increase(ray_mlc_feedback_labels_total{{{_APP}}}[1d]))",
                    "{{head}}",
                ),
            ),
        ),
        Panel(
            "Most frequent classes: $head",
            "What the clients send.",
            "cps",
            ((f"topk(8, {_rate('ray_mlc_predictions_total', _HEAD, 'class')})", "{{class}}"),),
        ),
    ),
}


def build() -> dashboard.Dashboard:
    """The dashboard, with variables for the data source, the application and a head."""
    built = (
        dashboard.Dashboard("Product photo classifier")
        .uid("mlc")
        .description("When p99 climbs: docs/runbook.md has an entry for each alert.")
        .tags(["mlc", "ray-serve"])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            _variable(
                "application", "label_values(ray_mlc_request_duration_seconds_count, application)"
            )
            .include_all(True)
            .multi(True)
        )
        .with_variable(_variable("head", "label_values(ray_mlc_confidence_ratio_count, head)"))
    )
    ids = count(1)
    for title, panels in ROWS.items():
        built = built.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            built = built.with_panel(_panel(panel, _WIDE // len(panels)).id(next(ids)))
    return built


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return dashboard.QueryVariable(name).datasource(_SOURCE).query(query)


def _panel(panel: Panel, columns: int) -> timeseries.Panel | stat.Panel:
    built: timeseries.Panel | stat.Panel
    if panel.limits is not None:
        steps = [
            Threshold(value=limit, color=color)
            for limit, color in zip((None, *panel.limits), ("green", "orange", "red"), strict=False)
        ]
        thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
        built = stat.Panel().thresholds(thresholds).height(4)
    else:
        legend = common.VizLegendOptions().show_legend(True)
        built = timeseries.Panel().legend(legend).fill_opacity(10).min(0).height(8)
        if panel.stacked:
            normal = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
            built = built.stacking(normal).fill_opacity(40)
    built = built.title(panel.title).description(panel.text).unit(panel.unit).span(columns)
    built = built.datasource(_SOURCE)
    for number, (expression, legend_text) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + number))
        built = built.with_target(query.legend_format(legend_text) if legend_text else query)
    return built


def text() -> str:
    """monitoring/dashboard.json."""
    return JSONEncoder(sort_keys=True, indent=2).encode(build().build()) + "\n"
