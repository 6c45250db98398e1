//! The soak: objects change for a long time, and nothing else happens. What the samples say is judged at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::sample::{Page, Sample, Sink, rounded};
use super::site::Settle;
use super::stats::{Histogram, Spread, increase, percentile, theil_sen};
use super::{Proof, cadence};

/// A soak shorter than this says nothing of growth.
const GROWTH: Duration = Duration::from_mins(30);

/// When memory has come to rest.
const WARM: Duration = Duration::from_mins(15);

/// Memory goes up and down with every delivery, so a moment is the median of this long.
const MOMENT: Duration = Duration::from_mins(1);

/// Most MiB of live memory that an hour may add.
const SLOPE_LIMIT: f64 = 4.0;

/// Most memory at the end, as a multiple of that when it had come to rest.
const RSS_LIMIT: f64 = 1.1;

/// Seconds beyond the interval that a change may wait.
const LAG_MARGIN: f64 = 2.0;

/// Time between two looks at whether all goes on, and between two lines about it.
const PACE: Duration = Duration::from_secs(1);
const NEWS: Duration = Duration::from_mins(1);

const MIB: f64 = 1_048_576.0;

impl Proof<'_> {
    pub(super) async fn soak(&mut self) -> Result<String> {
        let length = self.options.soak();
        let log = self.site.log_length()?;
        let (began, from) = (Instant::now(), self.sampler.now());
        let mut churning = self.site.churn(None);
        let mut news = Instant::now() + NEWS;
        while began.elapsed() < length {
            sleep(PACE.min(length.saturating_sub(began.elapsed()))).await;
            self.site.still_runs()?;
            churning.goes_on()?;
            if Instant::now() >= news {
                news += NEWS;
                self.tell(began.elapsed());
            }
        }
        // Judged before anything is asked for beyond the intervals.
        let commits = cadence::commits_of_paths(self.site.repository())?;
        let churned = self.site.settle(churning, Settle::Stop).await?;
        let samples = self.sampler.of("soak");
        self.judge(&samples, from, &self.site.logged_errors(log)?);
        let within = cadence::most_within(&commits, self.options.git_interval.as_secs());
        self.claims.at_most("soak", "commits of one inventory within its interval", 1.0, within as f64, "");
        let mut figures = figures_of(&samples);
        let operations = churned.created + churned.updated + churned.deleted;
        figures["churned"] = json!(churned);
        figures["operations_per_minute"] = json!(rounded(operations as f64 * 60.0 / churned.seconds.max(1.0)));
        self.figure("soak", figures);
        Ok(format!(
            "{} created, {} changed, {} deleted, {} objects; {} samples",
            churned.created,
            churned.updated,
            churned.deleted,
            churned.objects,
            samples.len()
        ))
    }

    /// Prints how it goes.
    fn tell(&self, elapsed: Duration) {
        let samples = self.sampler.of("soak");
        let Some(sample) = samples.last() else { return };
        let page = sample.page.clone().unwrap_or_default();
        eprintln!(
            "  soak {} of {} min: {:.0} MiB, {} rows, lag {:.1} s, {} commits",
            elapsed.as_secs() / 60,
            self.options.soak().as_secs() / 60,
            sample.process.map_or(0.0, |usage| usage.rss_mib),
            page.rows,
            percentile(&page.lags_of(Sink::Postgres), 1.0).unwrap_or_default(),
            sample.commits.unwrap_or_default(),
        );
    }

    /// Makes the claims about the samples of a soak that began at this second of the run.
    fn judge(&mut self, samples: &[Sample], from: f64, logged: &[String]) {
        let pids: BTreeSet<u32> = samples.iter().filter_map(|sample| sample.process).map(|usage| usage.pid).collect();
        self.claims.equals("soak", "restarts of the operator", 0, pids.len().saturating_sub(1));
        self.claims.none("soak", "failed deliveries and reconciles", &new_errors(samples));
        self.claims.none("soak", "errors in the log", logged);
        for (sink, interval) in [(Sink::Postgres, self.options.interval), (Sink::Git, self.options.git_interval)] {
            let lags: Vec<f64> = pages(samples).flat_map(|page| page.lags_of(sink)).collect();
            let what = format!("lag of the {} bindings, 99th percentile (interval + 2 s)", sink.as_str());
            let limit = interval.as_secs_f64() + LAG_MARGIN;
            match percentile(&lags, 0.99) {
                Some(lag) => self.claims.at_most("soak", &what, limit, lag, "s"),
                None => self.claims.failed("soak", &what, &format!("≤ {limit} s"), "no binding told"),
            }
        }
        self.judge_memory(samples, from);
    }

    fn judge_memory(&mut self, samples: &[Sample], from: f64) {
        let slope = "growth of allocated memory (Theil–Sen, upper 95 %)";
        let rest = "memory at the end, as a multiple of that after 15 min";
        if self.options.soak() < GROWTH {
            let why = "the soak is shorter than 30 min";
            self.claims.not_judged("soak", slope, &format!("< {SLOPE_LIMIT} MiB/h"), why);
            self.claims.not_judged("soak", rest, &format!("≤ {RSS_LIMIT}"), why);
            return;
        }
        if let Some(found) = theil_sen(&allocated(samples)) {
            self.claims.below("soak", slope, SLOPE_LIMIT, found.upper, "MiB/h");
        } else {
            let why = "the build does not tell what its allocator handed out";
            self.claims.not_judged("soak", slope, &format!("< {SLOPE_LIMIT} MiB/h"), why);
        }
        let end = samples.last().map_or(from, |sample| sample.at);
        let warm = rss_between(samples, from + WARM.as_secs_f64());
        match (warm, rss_between(samples, end - MOMENT.as_secs_f64())) {
            (Some(warm), Some(end)) => self.claims.at_most("soak", rest, RSS_LIMIT, end / warm, ""),
            _ => self.claims.failed("soak", rest, &format!("≤ {RSS_LIMIT}"), "no samples"),
        }
    }
}

/// Returns what the samples say, judged or not.
fn figures_of(samples: &[Sample]) -> Value {
    let rss: Vec<f64> = samples.iter().filter_map(|sample| sample.process).map(|usage| usage.rss_mib).collect();
    let rows: Vec<f64> = pages(samples).map(|page| page.rows).collect();
    let cpu = increase(samples.iter().filter_map(|sample| sample.process).map(|usage| usage.cpu_seconds));
    let wal = increase(samples.iter().filter_map(|sample| sample.database).map(|written| written.wal_bytes));
    let written = increase(samples.iter().filter_map(|sample| sample.database).map(|written| written.rows));
    let seconds = samples.last().zip(samples.first()).map_or(0.0, |(last, first)| last.at - first.at);
    let exports: BTreeMap<&str, Value> =
        Sink::ALL.into_iter().map(|sink| (sink.as_str(), exports(samples, sink))).collect();
    let lags: BTreeMap<&str, Value> = Sink::ALL.into_iter().map(|sink| (sink.as_str(), lags(samples, sink))).collect();
    let commits: Vec<usize> = samples.iter().filter_map(|sample| sample.commits).collect();
    let growth = theil_sen(&allocated(samples));
    json!({
        "seconds": rounded(seconds),
        "samples": samples.len(),
        "rss_mib": Spread::of(&rss),
        "allocated_mib": Spread::of(&allocated(samples).iter().map(|(_, mib)| *mib).collect::<Vec<_>>()),
        "allocated_mib_per_hour": growth,
        "cpu_seconds": rounded(cpu),
        "rows": Spread::of(&rows),
        "lag_seconds": lags,
        "export_seconds": exports,
        "api_requests": increase(pages(samples).map(|page| page.api_requests)),
        "wal_bytes": wal,
        "rows_written": written,
        "wal_bytes_per_row_written": rounded(wal / written.max(1.0)),
        "commits": commits.last().zip(commits.first()).map_or(0, |(last, first)| last.saturating_sub(*first)),
        "shard_warnings": increase(pages(samples).map(|page| page.shard_warnings)),
        "errors": new_errors(samples),
    })
}

fn pages(samples: &[Sample]) -> impl Iterator<Item = &Page> {
    samples.iter().filter_map(|sample| sample.page.as_ref())
}

/// Returns what failed while the samples were taken, with its number.
pub(super) fn new_errors(samples: &[Sample]) -> Vec<String> {
    let names: BTreeSet<&String> = pages(samples).flat_map(|page| page.errors.keys()).collect();
    let grown = names.into_iter().filter_map(|name| {
        let count = increase(pages(samples).map(|page| page.errors.get(name).copied().unwrap_or_default()));
        (count > 0.0).then(|| format!("{name}: {count}"))
    });
    grown.collect()
}

/// Returns live memory in MiB over time in hours.
fn allocated(samples: &[Sample]) -> Vec<(f64, f64)> {
    let told = samples.iter().filter_map(|sample| Some((sample.at, sample.page.as_ref()?.allocated_bytes?)));
    told.map(|(at, bytes)| (at / 3_600.0, bytes / MIB)).collect()
}

/// Returns the resident memory of the minute from this second on.
fn rss_between(samples: &[Sample], from: f64) -> Option<f64> {
    let moment = samples.iter().filter(|sample| (from..=from + MOMENT.as_secs_f64()).contains(&sample.at));
    let rss: Vec<f64> = moment.filter_map(|sample| sample.process).map(|usage| usage.rss_mib).collect();
    percentile(&rss, 0.5)
}

fn lags(samples: &[Sample], sink: Sink) -> Value {
    let lags: Vec<f64> = pages(samples).flat_map(|page| page.lags_of(sink)).collect();
    let part = |part: f64| percentile(&lags, part).map(rounded);
    json!({"p50": part(0.5), "p99": part(0.99), "max": part(1.0)})
}

/// Returns number and durations of the exports between the first and the last sample.
fn exports(samples: &[Sample], sink: Sink) -> Value {
    let mut all = Histogram::default();
    let readings: Vec<Histogram> =
        pages(samples).map(|page| page.exports.get(&sink).cloned().unwrap_or_default()).collect();
    for (earlier, later) in readings.iter().zip(readings.iter().skip(1)) {
        all.merge(&later.since(earlier));
    }
    let part = |part: f64| all.quantile(part).map(rounded);
    json!({"count": all.count(), "p50": part(0.5), "p95": part(0.95), "p99": part(0.99)})
}

#[cfg(test)]
mod tests {
    use super::super::sample::Usage;
    use super::*;

    fn sample(at: f64, rss_mib: f64, errors: &[(&str, f64)], exports: f64) -> Sample {
        let mut histogram = Histogram::default();
        histogram.add(0.1, exports);
        histogram.add(f64::INFINITY, exports);
        let page = Page {
            errors: errors.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            exports: [(Sink::Git, histogram)].into(),
            lags: vec![(Sink::Git, at), (Sink::Postgres, 1.0)],
            allocated_bytes: Some(rss_mib * MIB),
            ..Page::default()
        };
        let process = Some(Usage { pid: 1, rss_mib, cpu_seconds: at });
        Sample { at, page: Some(page), process, ..Sample::default() }
    }

    #[test]
    fn errors_from_before_the_soak_are_not_held_against_it() {
        let samples = [
            sample(0.0, 1.0, &[("sink transient", 4.0)], 0.0),
            sample(5.0, 1.0, &[("sink transient", 4.0), ("reconcile terminal", 2.0)], 0.0),
        ];
        assert_eq!(new_errors(&samples), ["reconcile terminal: 2"]);
    }

    #[test]
    fn memory_of_a_moment_is_that_of_a_minute() {
        let samples: Vec<Sample> =
            (0..40).map(|turn| sample(f64::from(turn) * 5.0, f64::from(turn), &[], 0.0)).collect();
        assert_eq!(rss_between(&samples, 50.0), Some(16.0), "of 10 to 22");
        assert_eq!(rss_between(&samples, 900.0), None);
    }

    #[test]
    fn growth_is_in_mebibytes_an_hour() {
        let samples: Vec<Sample> =
            (0..20).map(|turn| sample(f64::from(turn) * 360.0, f64::from(turn), &[], 0.0)).collect();
        let slope = theil_sen(&allocated(&samples)).unwrap();
        assert!((slope.median - 10.0).abs() < 1e-6, "{slope:?}");
    }

    #[test]
    fn exports_and_lags_are_told_by_sink() {
        let samples = [sample(0.0, 1.0, &[], 3.0), sample(5.0, 1.0, &[], 5.0), sample(10.0, 1.0, &[], 1.0)];
        assert_eq!(exports(&samples, Sink::Git)["count"], 3.0, "two more, and one of a process that began anew");
        assert_eq!(exports(&samples, Sink::Postgres)["p50"], Value::Null);
        assert_eq!(lags(&samples, Sink::Git)["max"], 10.0);
    }
}
