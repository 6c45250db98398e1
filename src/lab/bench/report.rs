//! Medians of runs, as one JSON object.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Values by key, one per run.
#[derive(Debug, Default)]
pub(super) struct Report {
    order: Vec<&'static str>,
    runs: BTreeMap<&'static str, Vec<f64>>,
}

impl Report {
    pub(super) fn add(&mut self, values: &[(&'static str, f64)]) {
        for (key, value) in values {
            if !self.runs.contains_key(key) {
                self.order.push(key);
            }
            self.runs.entry(key).or_default().push(*value);
        }
    }

    /// Returns `{"key": median, "key_runs": [each]}` for every key, behind what is the same for all runs.
    pub(super) fn finish(&self, same: &[(&str, Value)]) -> Value {
        let mut object: Map<String, Value> =
            same.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        for key in &self.order {
            let runs = &self.runs[key];
            object.insert((*key).to_owned(), number(median(runs)));
            object.insert(format!("{key}_runs"), runs.iter().map(|value| number(*value)).collect());
        }
        Value::Object(object)
    }
}

/// Prints the values of one run.
pub(super) fn line(values: &[(&'static str, f64)]) -> String {
    let each: Vec<String> = values.iter().map(|(key, value)| format!("{key} {}", round(*value))).collect();
    each.join(", ")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// Writes a count as a whole number and a measurement with its thousandths.
fn number(value: f64) -> Value {
    let text = round(value).to_string();
    text.parse::<i64>().map_or_else(|_| json!(round(value)), |whole| json!(whole))
}

/// Keeps what was measured and drops what the representation adds.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_holds_medians_and_runs() {
        let mut report = Report::default();
        for seconds in [3.5, 1.0, 2.250_04] {
            report.add(&[("seconds", seconds)]);
        }
        let report = report.finish(&[("rows", json!(10))]);
        assert_eq!(report.to_string(), r#"{"rows":10,"seconds":2.25,"seconds_runs":[3.5,1,2.25]}"#);
    }

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert!((median(&[4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
