"""``session-executor metrics``: the workers' figures and the ledger's, for Prometheus to scrape."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from worker.cli.pages import Page, PageServer, listen
from worker.cli.survey import survey
from worker.errors import InputError
from worker.execution.metrics import ALL

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def folder() -> Path | None:
    """Where the workers of this machine write their figures; None when that is not set."""
    text = os.environ.get(FOLDER, "")
    return Path(text) if text else None


def serve(text: Callable[[], bytes], host: str, port: int) -> PageServer:
    """A server of one page, bound and not yet running.

    Raises:
        InputError: it cannot listen there.
    """
    return listen(
        {"/metrics": lambda: Page(200, CONTENT_TYPE_PLAIN_0_0_4, text())}, host, port, field="--port"
    )


class LedgerCollector(Collector):
    """What the ledger knows at the moment of a scrape. A ledger that does not answer gives ``sx_ledger_up 0``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        up = GaugeMetricFamily("sx_ledger_up", "Whether Redis answered this scrape.")
        try:
            found = survey(self._runtime)
        except Exception:  # noqa: BLE001 - whatever it is, a scrape must say so rather than fail
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield _family("sx_intents", "Intents in the ledger.", "state", found["intents"])
        yield _family("sx_intents_attention", "Intents a person should look at.", "code", found["attention"])
        yield _family("sx_queue_messages", "Messages that wait.", "queue", found["queues"])
        yield GaugeMetricFamily("sx_intents_in_flight", "Signed and not final.", found["in_flight"])
        yield GaugeMetricFamily(
            "sx_poison_messages", "Messages ever set aside.", sum(found["poison_ever"].values())
        )
        yield GaugeMetricFamily(
            "sx_poison_waiting", "Of them those that nobody has dropped.", found["poison"]
        )
        yield GaugeMetricFamily(
            "sx_workers_stalled", "1 when ticks wait that no worker takes.", 1 if found["workers"] else 0
        )
        used = GaugeMetricFamily(
            "sx_budget_used_ratio", "Spent and reserved, of the limit.", labels=["session", "policy", "token"]
        )
        ends = GaugeMetricFamily(
            "sx_session_end_seconds",
            "When the session's time frame closes, unix seconds.",
            labels=["session"],
        )
        for session in found["sessions"]:
            if session["ends_s"] is not None:
                ends.add_metric([session["session_id"]], session["ends_s"])
            for budget in session["budgets"]:
                taken, limit = int(budget["spent"]) + int(budget["reserved"]), int(budget["limit"])
                labels = [session["session_id"], budget["policy"], budget["token"]]
                # whole per mille first: the amounts may be too large for a float to tell apart
                used.add_metric(labels, taken * 1000 // limit / 1000)
        yield used
        yield ends


def _family(name: str, words: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def exposition(runtime: Runtime, where: Path | None) -> bytes:
    """Everything, in Prometheus's text format.

    Args:
        runtime: where the ledger is.
        where: what the workers' ``PROMETHEUS_MULTIPROC_DIR`` is; None for this process's own figures.

    Raises:
        InputError: the folder is none.
    """
    registry = CollectorRegistry()
    if where is None:
        for metric in ALL:
            registry.register(metric)
    elif where.is_dir():
        multiprocess.MultiProcessCollector(registry, str(where))
    else:
        raise InputError(
            f"{where} is no folder",
            field=FOLDER,
            fix="make it, and give the same to the workers",
        )
    registry.register(LedgerCollector(runtime))
    return generate_latest(registry)
