//! What a profile's rows are added up to.

use std::sync::Arc;

use crate::api::v1alpha1::profile::ProfileMetric;
use crate::metrics::label_names;

/// The series of a profile.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The sum of every attribute that is a number on some row.
    Numbers,
    /// What `spec.metrics` names.
    Named(Named),
}

/// Series and the attributes that they are made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Sorted bytewise, as the keys of a row are; each once.
    pub(super) attributes: Vec<Box<str>>,
    pub(super) metrics: Vec<Metric>,
}

/// One entry of `spec.metrics`. Attributes are places in [`Named::attributes`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) series: Arc<str>,
    /// The attribute that holds the number.
    pub(super) number: usize,
    /// Name on the page and attribute of each label, sorted by attribute; none makes one plain sum.
    pub(super) labels: Vec<(Arc<str>, usize)>,
}

impl Wanted {
    /// Reads `spec.metrics` of a validated profile.
    pub(super) fn new(metrics: &[ProfileMetric]) -> Self {
        if metrics.is_empty() {
            return Self::Numbers;
        }
        let used = metrics.iter().flat_map(|metric| metric.labels.iter().chain([&metric.path]));
        let mut attributes: Vec<Box<str>> = used.map(|name| name.as_str().into()).collect();
        attributes.sort_unstable();
        attributes.dedup();
        let place = |name: &str| attributes.partition_point(|attribute| &**attribute < name);
        let metrics = metrics.iter().map(|metric| {
            let mut labels: Vec<&str> = metric.labels.iter().map(String::as_str).collect();
            labels.sort_unstable();
            labels.dedup();
            Metric {
                series: metric.name.as_str().into(),
                number: place(&metric.path),
                labels: label_names(&labels).into_iter().zip(labels.iter().map(|label| place(label))).collect(),
            }
        });
        Self::Named(Named { metrics: metrics.collect(), attributes })
    }
}
