"""Samples as Prometheus reads them. The only place that knows prometheus_client."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vitals.telemetry.report import Buckets, Measure, Sample

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class _Samples(Collector):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        families: dict[Measure, list[Sample]] = {}
        for sample in self._samples:
            families.setdefault(sample.measure, []).append(sample)
        return [_family(measure, samples) for measure, samples in families.items()]


def _family(measure: Measure, samples: Sequence[Sample]) -> Metric:
    if measure.kind == "histogram":
        histogram = HistogramMetricFamily(measure.name, measure.text, labels=measure.labels)
        for sample in samples:
            if isinstance(sample.value, Buckets):
                bounds = [*(f"{bound:g}" for bound in sample.value.bounds), "+Inf"]
                cumulative = list(zip(bounds, map(float, accumulate(sample.value.counts)), strict=True))
                histogram.add_metric(sample.labels, cumulative, sample.value.total)
        return histogram
    kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    family = kind(measure.name, measure.text, labels=measure.labels)
    for sample in samples:
        if not isinstance(sample.value, Buckets):
            family.add_metric(sample.labels, sample.value)
    return family


def render(samples: Sequence[Sample]) -> bytes:
    """The text format 0.0.4, with memory, CPU and open files of this process (Linux only)."""
    registry = CollectorRegistry()
    registry.register(_Samples(samples))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
