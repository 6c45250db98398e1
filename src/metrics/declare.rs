//! Makes metrics and registers them, and keeps a list of what was declared: the metrics page of the docs is held to it.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// One declared family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Name of the series.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// Meaning.
    pub help: &'static str,
}

/// A registry under construction.
#[derive(Default)]
pub(super) struct Declare {
    pub(super) registry: Registry,
    pub(super) families: Vec<Family>,
}

impl Declare {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        let counter = valid(IntCounter::new(name, help));
        self.add(Family { name, kind: "counter", labels: &[], help }, counter)
    }

    pub(super) fn counters(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> IntCounterVec {
        let counters = valid(IntCounterVec::new(Opts::new(name, help), labels));
        self.add(Family { name, kind: "counter", labels, help }, counters)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> IntGauge {
        let gauge = valid(IntGauge::new(name, help));
        self.add(Family { name, kind: "gauge", labels: &[], help }, gauge)
    }

    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> IntGaugeVec {
        let gauges = valid(IntGaugeVec::new(Opts::new(name, help), labels));
        self.add(Family { name, kind: "gauge", labels, help }, gauges)
    }

    pub(super) fn histogram(&mut self, name: &'static str, buckets: &[f64], help: &'static str) -> Histogram {
        let histogram = valid(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())));
        self.add(Family { name, kind: "histogram", labels: &[], help }, histogram)
    }

    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        buckets: &[f64],
        help: &'static str,
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = valid(HistogramVec::new(options, labels));
        self.add(Family { name, kind: "histogram", labels, help }, histograms)
    }

    /// Registers a collector that declares its families itself.
    pub(super) fn collector(&mut self, collector: impl Collector + 'static, families: &[Family]) {
        self.families.extend_from_slice(families);
        valid(self.registry.register(Box::new(collector)));
    }

    fn add<C: Collector + Clone + 'static>(&mut self, family: Family, collector: C) -> C {
        self.collector(collector.clone(), &[family]);
        collector
    }
}

#[expect(clippy::expect_used, reason = "names and labels are constants of this program; a test builds them all")]
fn valid<T>(made: prometheus::Result<T>) -> T {
    made.expect("declared metrics have valid and distinct names")
}
