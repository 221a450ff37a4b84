"""Every metric, label and outcome that the dashboards and alerts use is one that the gateway has."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import Histogram

from observations.records import AttemptOutcome, CallOutcome
from observations.training_jobs import TrainingOutcome
from router_service.metrics import METRICS

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
OUTCOMES = {
    "journeyman_calls_total": get_args(CallOutcome),
    "journeyman_attempts_total": get_args(AttemptOutcome),
    "journeyman_feedback_total": ("success", "failure", "none"),
    "journeyman_training_seconds": get_args(TrainingOutcome),
}
PARTS = ("_bucket", "_sum", "_count")
ADDED_BY_PROMETHEUS = {"instance", "job"}
VARIABLES = {"$instance", "$cluster", "$__rate_interval", "$__range"}


def dashboard_expressions():
    for path in sorted(GRAFANA.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield pytest.param(variable["definition"], id=f"{path.stem}: variable {variable['name']}")


def alert_rules():
    for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"]:
        yield from group["rules"]


EXPRESSIONS = [*dashboard_expressions(), *(pytest.param(rule["expr"], id=rule["alert"]) for rule in alert_rules())]


def metric_of(series):
    """The row of METRICS that a series name belongs to."""
    for part in PARTS:
        base = series.removesuffix(part)
        if base != series and base in METRICS and METRICS[base][0] is Histogram:
            return base
    return series


def series_in(expression):
    return re.findall(r"journeyman_[a-z0-9_]+", expression)


def matchers_in(expression):
    """(metric, label, operator, value) for each matcher."""
    for series, inside in re.findall(r"(journeyman_[a-z0-9_]+)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', inside):
            yield metric_of(series), label, operator, value


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_its_metrics_exist(expression):
    named = {metric_of(series) for series in series_in(expression)}
    assert named and named <= METRICS.keys()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_histogram_is_read_by_its_parts_and_nothing_else_is(expression):
    for series in series_in(expression):
        assert (METRICS[metric_of(series)][0] is Histogram) == (metric_of(series) != series)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_its_labels_are_the_metrics_own(expression):
    metrics = {metric_of(series) for series in series_in(expression)}
    for metric, label, _, _ in matchers_in(expression):
        assert label in {*METRICS[metric][2], *ADDED_BY_PROMETHEUS}
    grouped = {label.strip() for inside in re.findall(r"\bby \(([^)]*)\)", expression) for label in inside.split(",")}
    for metric in metrics:
        assert grouped - {"le"} <= {*METRICS[metric][2], *ADDED_BY_PROMETHEUS}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_outcome_that_it_asks_for_can_come(expression):
    for metric, label, _, value in matchers_in(expression):
        if label == "outcome":
            assert set(value.split("|")) <= set(OUTCOMES[metric])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_its_brackets_close_and_its_variables_are_known(expression):
    assert all(expression.count(left) == expression.count(right) for left, right in ("()", "[]", "{}"))
    assert set(re.findall(r"\$\w+", expression)) <= VARIABLES


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in alert_rules()])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"] and rule["annotations"]["action"]


def test_every_metric_is_on_the_dashboard():
    shown = {metric_of(series) for param in dashboard_expressions() for series in series_in(param.values[0])}
    assert shown == METRICS.keys()


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    panels = json.loads((GRAFANA / "journeyman.json").read_text())["panels"]
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
