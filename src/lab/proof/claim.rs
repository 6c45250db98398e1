//! Claims: what has to be so, what was seen, and whether that is enough.

use serde::Serialize;

use super::sample::rounded;

/// Whether a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Holds,
    Fails,
    /// This run does not tell, say because it was too short.
    NotJudged,
}

impl Outcome {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "FAILS",
            Self::NotJudged => "not judged",
        }
    }
}

/// One line of the table of a proof.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Claim {
    pub(super) phase: &'static str,
    pub(super) what: String,
    /// What was expected, with its unit.
    pub(super) limit: String,
    /// What was seen, with its unit, or why it was not judged.
    pub(super) measured: String,
    pub(super) outcome: Outcome,
}

/// All claims of a run, in order.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    /// Claims that a figure does not exceed a limit.
    pub(super) fn at_most(&mut self, phase: &'static str, what: &str, limit: f64, measured: f64, unit: &str) {
        let with_unit = |value: f64| format!("{} {unit}", rounded(value)).trim_end().to_owned();
        self.add(phase, what, format!("≤ {}", with_unit(limit)), with_unit(measured), measured <= limit);
    }

    /// Claims that a figure stays below a limit.
    pub(super) fn below(&mut self, phase: &'static str, what: &str, limit: f64, measured: f64, unit: &str) {
        let with_unit = |value: f64| format!("{} {unit}", rounded(value)).trim_end().to_owned();
        self.add(phase, what, format!("< {}", with_unit(limit)), with_unit(measured), measured < limit);
    }

    /// Claims that a number is exactly this.
    pub(super) fn equals(&mut self, phase: &'static str, what: &str, expected: usize, measured: usize) {
        self.add(phase, what, expected.to_string(), measured.to_string(), measured == expected);
    }

    /// Claims that there is nothing of a kind; what there is, is shown.
    pub(super) fn none(&mut self, phase: &'static str, what: &str, found: &[String]) {
        let shown = if found.is_empty() { "none".to_owned() } else { found.join("; ") };
        self.add(phase, what, "none".to_owned(), shown, found.is_empty());
    }

    /// Has a claim in the table that this run says nothing about.
    pub(super) fn not_judged(&mut self, phase: &'static str, what: &str, limit: &str, why: &str) {
        self.push(Claim {
            phase,
            what: what.to_owned(),
            limit: limit.to_owned(),
            measured: why.to_owned(),
            outcome: Outcome::NotJudged,
        });
    }

    /// Has a claim fail that could not be measured.
    pub(super) fn failed(&mut self, phase: &'static str, what: &str, limit: &str, seen: &str) {
        self.add(phase, what, limit.to_owned(), seen.to_owned(), false);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter()
    }

    /// Returns those that fail.
    pub(super) fn failures(&self) -> Vec<&Claim> {
        self.0.iter().filter(|claim| claim.outcome == Outcome::Fails).collect()
    }

    fn add(&mut self, phase: &'static str, what: &str, limit: String, measured: String, holds: bool) {
        let outcome = if holds { Outcome::Holds } else { Outcome::Fails };
        self.push(Claim { phase, what: what.to_owned(), limit, measured, outcome });
    }

    fn push(&mut self, claim: Claim) {
        let Claim { phase, what, limit, measured, outcome } = &claim;
        eprintln!("  {}: {phase}: {what}: expected {limit}, seen {measured}", outcome.as_str());
        self.0.push(claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_says_what_was_expected_and_seen() {
        let mut claims = Claims::default();
        claims.at_most("converge", "verified", 120.0, 80.123_456, "s");
        claims.below("soak", "growth", 4.0, 4.0, "MiB/h");
        claims.equals("restart", "rows written", 0, 3);
        claims.none("soak", "errors", &["sink transient: 2".to_owned()]);
        claims.not_judged("soak", "memory", "≤ 1.1", "the soak is shorter than 30 min");
        let lines: Vec<String> = claims
            .iter()
            .map(|claim| format!("{} | {} | {}", claim.limit, claim.measured, claim.outcome.as_str()))
            .collect();
        assert_eq!(
            lines,
            [
                "≤ 120 s | 80.123 s | holds",
                "< 4 MiB/h | 4 MiB/h | FAILS",
                "0 | 3 | FAILS",
                "none | sink transient: 2 | FAILS",
                "≤ 1.1 | the soak is shorter than 30 min | not judged",
            ]
        );
        assert_eq!(claims.failures().len(), 3);
    }
}
