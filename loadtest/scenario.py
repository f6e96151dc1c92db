"""Turns a locustfile into a scenario: options, load over time, findings and verdict.

A locustfile imports the users from here and derives its load from Scenario; see steady.py.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.findings import Findings, Sampler, of
from loadtest.levels import steady
from loadtest.live import serve_metrics
from loadtest.report import report
from loadtest.slo import OBJECTIVES, load_objectives
from loadtest.traffic import photos
from loadtest.users import ANSWERED_WITHIN_S, Arrivals, Shopper

__all__ = ["Arrivals", "Scenario", "Shopper"]

# Workers report every 3 s. What they have not reported when the run ends is lost.
_LAST_REPORTS_S = 4.0


class Scenario(LoadTestShape):
    """Load over time.

    Attributes:
        bad_share: share of the sent photos that are not photos.
        needs: options that must be given.
        searches: whether the photos are sent to find similar products.
    """

    abstract: ClassVar[bool] = True
    bad_share: ClassVar[float] = 0.0
    needs: ClassVar[tuple[str, ...]] = ()
    searches: ClassVar[bool] = False

    def level(self, at_s: float, all_s: float) -> float:
        """The load, as a share of its peak."""
        return steady(at_s, all_s)

    def target(self, environment: Environment) -> tuple[str, str]:
        """The prefix of the request's path or URL, and the prefix of its name in the report."""
        del environment
        return "", ""

    def tick(self) -> tuple[int, float, list[type[Any]]] | None:
        """Locust asks once a second how many users of which kind to run; None ends the run."""
        runner: Any = self.runner
        options, at_s = runner.environment.parsed_options, float(self.get_run_time())
        distributed = isinstance(runner, MasterRunner)
        if at_s >= options.seconds + (_LAST_REPORTS_S if distributed else 0.0):
            return None
        kind = Arrivals if options.open_loop else Shopper
        if at_s >= options.seconds:
            return 0, 100.0, [kind]
        if options.open_loop:
            # Locust sends the options to the workers. Each takes its share of the rate.
            options.senders = runner.worker_count if distributed else 1
            return options.senders, 100.0, [kind]
        users = round(options.peak * self.level(at_s, options.seconds))
        return max(1, users), max(100.0, options.peak), [kind]


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    add = parser.add_argument_group("scenario").add_argument
    add("--peak", type=float, default=32, help="users; with --open-loop, requests a second")
    add("--seconds", type=float, default=60, help="duration of the scenario")
    add("--open-loop", action="store_true", help="Poisson arrivals that wait for no answer")
    add("--photos", help="a directory of photos; default: drawn photos")
    add("--slo", default=str(OBJECTIVES), help="file of objectives")
    add("--out", default="loadtest-report", help="where plots and JSON go")
    add("--metrics-port", type=int, help="port where Prometheus may scrape the run")
    add("--against", default="", help="URL of the other service, for one_against_four")
    add("--rollout", default="", help="command that rolls a model out, for model_rollout")


@events.init.add_listener
def _prepare(environment: Environment, runner: Any, **_: Any) -> None:
    options: Any = environment.parsed_options
    missing = [need for need in getattr(environment.shape_class, "needs", ())
               if not getattr(options, need)]  # fmt: skip
    if missing:
        raise SystemExit(f"this scenario needs --{' and --'.join(missing)}; see --help")
    # Requests in flight when the time is up still get their answers.
    environment.stop_timeout = max(environment.stop_timeout or 0.0, ANSWERED_WITHIN_S)
    if not isinstance(runner, MasterRunner):
        photos(options.photos)  # before the clock runs: drawing takes seconds
    if isinstance(runner, WorkerRunner):
        _hand_over(environment)
    else:
        _watch(environment, options)


def _hand_over(environment: Environment) -> None:
    def tell(data: dict[str, Any], **_: Any) -> None:
        data["findings"] = of(environment).hand_over()

    environment.events.report_to_master.add_listener(tell)


def _watch(environment: Environment, options: Any) -> None:
    findings = of(environment)
    sampler = Sampler(environment, findings)
    running: list[gevent.Greenlet] = []

    def begin(**_: Any) -> None:
        findings.clear()
        running.append(gevent.spawn(sampler.run))
        if options.rollout:
            running.append(gevent.spawn_later(options.seconds / 3, _roll_out, options, findings))

    def end(**_: Any) -> None:
        while running:
            running.pop().kill()

    def take(data: dict[str, Any], **_: Any) -> None:
        findings.take(data["findings"])

    environment.events.test_start.add_listener(begin)
    environment.events.test_stop.add_listener(end)
    environment.events.worker_report.add_listener(take)
    if options.metrics_port:
        serve_metrics(environment, options.metrics_port)


@events.quitting.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options and environment.runner and not isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = report(
            environment, of(environment), load_objectives(Path(options.slo)), sys.stdout
        )


def _roll_out(options: Any, findings: Findings) -> None:
    done = subprocess.run(shlex.split(options.rollout), check=False, capture_output=True, text=True)
    if done.returncode:
        findings.problems.append(f"the roll-out failed: {done.stdout}{done.stderr}")
