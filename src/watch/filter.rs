//! Which objects a target wants: by names and labels or by rules, and by the watch labels.
//!
//! What depends on the namespace of an object alone is decided once, when the target is reconciled, and handed in as
//! [`Terms`]; an event looks at the object only.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Expression, Selector, SelectorExt};

use crate::api::v1alpha1::WatchMode;
use crate::canonical::Value;
use crate::expr::{Policy, Prefixes};
use crate::model::Name;

/// Label on objects and namespaces, `enabled` or `disabled`.
pub const WATCH_LABEL: &str = "kollect.dev/watch";
/// Annotation on namespaces with the same values.
pub const NAMESPACE_WATCH_ANNOTATION: &str = "kollect.dev/namespace-watch";

/// A filter that looks for more names or values is held against every object.
const MAX_SIGNS: usize = 64;

/// What the watch label and annotation of a namespace say. A `disabled` wins over an `enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consent {
    /// Neither is set.
    #[default]
    Unset,
    /// One says `enabled`.
    Enabled,
    /// One says `disabled`.
    Disabled,
}

impl Consent {
    /// Reads label and annotation of a namespace.
    pub fn of_namespace(label: Option<&str>, annotation: Option<&str>) -> Self {
        match (Self::read(label), Self::read(annotation)) {
            (Self::Disabled, _) | (_, Self::Disabled) => Self::Disabled,
            (Self::Enabled, _) | (_, Self::Enabled) => Self::Enabled,
            (Self::Unset, Self::Unset) => Self::Unset,
        }
    }

    fn read(value: Option<&str>) -> Self {
        match value {
            Some("enabled") => Self::Enabled,
            Some("disabled") => Self::Disabled,
            _ => Self::Unset,
        }
    }
}

/// Numbers of the rules of a target, of which there are at most 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleSet(u64);

impl RuleSet {
    /// Contains no rule.
    pub const NONE: Self = Self(0);

    /// Tells whether a rule is contained.
    pub fn has(self, rule: usize) -> bool {
        rule < 64 && self.0 >> rule & 1 == 1
    }
}

impl FromIterator<usize> for RuleSet {
    fn from_iter<I: IntoIterator<Item = usize>>(rules: I) -> Self {
        Self(rules.into_iter().filter(|rule| *rule < 64).fold(0, |set, rule| set | 1 << rule))
    }
}

/// On what terms a target collects in a namespace. When they change, the namespace is listed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// What the namespace says.
    pub consent: Consent,
    /// The rules that apply there.
    pub rules: RuleSet,
}

/// The object filter of one target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Which objects.
    pub choice: Choice,
    /// What is wanted without any label.
    pub mode: WatchMode,
}

/// What an object may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has this name.
    Name(Name),
    /// It has this label, with this value or with any.
    Label(String, Option<String>),
}

/// How a target chooses among the objects of its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// By name and labels.
    Plain {
        /// Wanted names; empty for all.
        names: BTreeSet<Name>,
        /// Wanted labels; selects all when it is empty.
        labels: Selector,
    },
    /// By rules, one of which has to match. Without any nothing is wanted.
    Rules(Vec<Rule>),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Plain { names: BTreeSet::new(), labels: Selector::default() }
    }
}

/// One rule for the kind that is collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its number in a [`RuleSet`].
    pub number: usize,
    /// Wanted labels; selects all when it is empty.
    pub labels: Selector,
    /// What has to hold besides.
    pub policy: Option<Policy>,
}

/// An object as filters see it; its labels are copied when the first filter asks for them.
pub(super) struct Candidate<'o> {
    object: &'o Value<'o>,
    name: &'o str,
    labels: Option<&'o Value<'o>>,
    owned: OnceCell<BTreeMap<String, String>>,
}

impl<'o> Candidate<'o> {
    pub(super) fn new(object: &'o Value<'o>) -> Self {
        let metadata = object.get("metadata");
        let name = metadata.and_then(|metadata| metadata.get("name")?.as_str()).unwrap_or_default();
        let labels = metadata.and_then(|metadata| metadata.get("labels"));
        Self { object, name, labels, owned: OnceCell::new() }
    }

    pub(super) fn name(&self) -> &'o str {
        self.name
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = (&'o str, &'o str)> {
        let labels = if let Some(Value::Map(labels)) = self.labels { Some(labels) } else { None };
        labels.into_iter().flat_map(|labels| labels.iter().filter_map(|(key, value)| Some((key, value.as_str()?))))
    }

    fn consent(&self) -> Consent {
        Consent::read(self.labels.and_then(|labels| labels.get(WATCH_LABEL)?.as_str()))
    }

    fn has(&self, wanted: &Selector) -> bool {
        wanted.selects_all() || wanted.matches(self.owned.get_or_init(|| self.copied()))
    }

    fn copied(&self) -> BTreeMap<String, String> {
        self.labels().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl Filter {
    /// Tells whether an object of a namespace with these terms is wanted. What costs most is asked last.
    pub(super) fn wants(&self, candidate: &Candidate<'_>, terms: Terms) -> bool {
        if !self.consents(candidate.consent(), terms.consent) {
            return false;
        }
        match &self.choice {
            Choice::Plain { names, labels } => {
                (names.is_empty() || names.contains(candidate.name)) && candidate.has(labels)
            }
            Choice::Rules(rules) => rules
                .iter()
                .filter(|rule| terms.rules.has(rule.number) && candidate.has(&rule.labels))
                .any(|rule| rule.policy.as_ref().is_none_or(|policy| policy.holds(candidate.object))),
        }
    }

    /// Returns signs of which every object that is wanted on these terms bears one; `None` when it may be any object.
    pub(super) fn signs(&self, terms: Terms) -> Option<Vec<Sign>> {
        if !self.consents(Consent::Unset, terms.consent) {
            return Some(vec![Sign::Label(WATCH_LABEL.to_owned(), Some("enabled".to_owned()))]);
        }
        match &self.choice {
            Choice::Plain { names, labels } if names.is_empty() || names.len() > MAX_SIGNS => signs(labels),
            Choice::Plain { names, .. } => Some(names.iter().cloned().map(Sign::Name).collect()),
            Choice::Rules(rules) => {
                let applying = rules.iter().filter(|rule| terms.rules.has(rule.number));
                let each: Vec<Vec<Sign>> = applying.map(|rule| signs(&rule.labels)).collect::<Option<_>>()?;
                let all = each.concat();
                (all.len() <= MAX_SIGNS).then_some(all)
            }
        }
    }

    /// Returns what of an object is read besides its metadata.
    pub(super) fn prefixes(&self) -> Prefixes {
        let mut prefixes = Prefixes::default();
        if let Choice::Rules(rules) = &self.choice {
            rules.iter().filter_map(|rule| rule.policy.as_ref()).for_each(|policy| policy.prefixes(&mut prefixes));
        }
        prefixes
    }

    /// Returns labels that every wanted object has, whatever the terms.
    pub(super) fn labels(&self) -> Option<&Selector> {
        let labels = match &self.choice {
            Choice::Plain { labels, .. } => labels,
            Choice::Rules(rules) => match rules.as_slice() {
                [only] => &only.labels,
                _ => return None,
            },
        };
        (!labels.selects_all()).then_some(labels)
    }

    fn consents(&self, object: Consent, namespace: Consent) -> bool {
        // What the object says wins over what its namespace says.
        let said = if object == Consent::Unset { namespace } else { object };
        match said {
            Consent::Disabled => false,
            Consent::Enabled => true,
            Consent::Unset => self.mode == WatchMode::All,
        }
    }
}

/// Returns signs of which every object that a selector selects bears one; `None` when there are none, or too many.
fn signs(labels: &Selector) -> Option<Vec<Sign>> {
    let of_one = |expression: Expression| -> Option<Vec<Sign>> {
        match expression {
            Expression::Equal(key, value) => Some(vec![Sign::Label(key, Some(value))]),
            Expression::In(key, values) if values.len() <= MAX_SIGNS => {
                Some(values.into_iter().map(|value| Sign::Label(key.clone(), Some(value))).collect())
            }
            Expression::In(key, _) | Expression::Exists(key) => Some(vec![Sign::Label(key, None)]),
            Expression::NotIn(..) | Expression::NotEqual(..) | Expression::DoesNotExist(_) => None,
        }
    };
    // A label that merely exists says least.
    let says_least = |signs: &Vec<Sign>| matches!(signs.as_slice(), [Sign::Label(_, None)]);
    labels.clone().into_iter().filter_map(of_one).min_by_key(says_least)
}

#[cfg(test)]
mod tests {
    use kube::core::Expression;

    use super::*;
    use crate::extract::{Plan, TypeMeta, decode};

    #[test]
    fn the_first_matching_line_of_the_watch_label_table_wins() {
        use Consent::{Disabled, Enabled, Unset};
        let cases = [
            (Disabled, Enabled, WatchMode::OptIn, false),
            (Enabled, Disabled, WatchMode::All, true),
            (Unset, Disabled, WatchMode::All, false),
            (Unset, Enabled, WatchMode::OptIn, true),
            (Unset, Unset, WatchMode::OptIn, false),
            (Unset, Unset, WatchMode::All, true),
        ];
        for (object, namespace, mode, want) in cases {
            let filter = Filter { mode, ..Filter::default() };
            assert_eq!(filter.consents(object, namespace), want, "{object:?} {namespace:?} {mode:?}");
        }
    }

    /// Decides over an object of which only what the filter reads was decoded.
    fn wants(filter: &Filter, terms: Terms, object: &str) -> bool {
        let supplied = TypeMeta { api_version: "v1", kind: "Report" };
        let object = decode(object.as_bytes(), &Plan::new([&filter.prefixes()]), supplied).unwrap();
        filter.wants(&Candidate::new(&object), terms)
    }

    fn labels(key: &str, value: &str) -> Selector {
        Expression::Equal(key.to_owned(), value.to_owned()).into()
    }

    fn rule(number: usize, labels: Selector, policy: Option<&str>) -> Rule {
        Rule { number, labels, policy: policy.map(|source| Policy::compile(source).unwrap()) }
    }

    fn rules(rules: Vec<Rule>) -> Filter {
        Filter { choice: Choice::Rules(rules), ..Filter::default() }
    }

    fn within(rules: &[usize]) -> Terms {
        Terms { rules: rules.iter().copied().collect(), ..Terms::default() }
    }

    const CRITICAL: &str = "has(object.status.summary) && object.status.summary.criticalCount > 0";

    #[test]
    fn one_rule_has_to_match_with_all_its_parts() {
        let filter =
            rules(vec![rule(0, labels("criticality", "high"), None), rule(1, Selector::default(), Some(CRITICAL))]);
        let high = r#"{"metadata":{"labels":{"criticality":"high"}}}"#;
        let two = r#"{"metadata":{},"status":{"summary":{"criticalCount":2,"other":[{}]}}}"#;
        let zero = r#"{"metadata":{"labels":{"criticality":"low"}},"status":{"summary":{"criticalCount":0}}}"#;
        let decide = |rules: &[usize]| [high, two, zero].map(|object| wants(&filter, within(rules), object));
        assert_eq!(decide(&[0, 1]), [true, true, false]);
        // What applies in this namespace decides, whatever other rules say.
        assert_eq!(decide(&[0]), [true, false, false]);
        assert_eq!(decide(&[1]), [false, true, false]);
        assert_eq!(decide(&[]), [false, false, false]);

        let both = rules(vec![rule(0, labels("criticality", "high"), Some(CRITICAL))]);
        let all = r#"{"metadata":{"labels":{"criticality":"high"}},"status":{"summary":{"criticalCount":1}}}"#;
        assert_eq!([high, two, all].map(|object| wants(&both, within(&[0]), object)), [false, false, true]);
    }

    #[test]
    fn without_a_rule_for_the_kind_nothing_is_wanted() {
        assert!(!wants(&rules(Vec::new()), within(&[0]), "{}"));
    }

    #[test]
    fn a_condition_that_is_neither_true_nor_says_so_matches_nothing() {
        for (source, want) in
            [("'truthy'", false), ("1 + 1", false), ("null", false), ("object.gone", false), ("'t'", true)]
        {
            let filter = rules(vec![rule(0, Selector::default(), Some(source))]);
            assert_eq!(wants(&filter, within(&[0]), "{}"), want, "{source}");
        }
    }

    #[test]
    fn watch_labels_decide_over_what_a_rule_matches() {
        let mut filter = rules(vec![rule(0, Selector::default(), None)]);
        let disabled = r#"{"metadata":{"labels":{"kollect.dev/watch":"disabled"}}}"#;
        assert!(!wants(&filter, Terms { consent: Consent::Enabled, ..within(&[0]) }, disabled));
        filter.mode = WatchMode::OptIn;
        assert!(!wants(&filter, within(&[0]), "{}"));
        assert!(wants(&filter, Terms { consent: Consent::Enabled, ..within(&[0]) }, "{}"));
    }

    #[test]
    fn names_and_labels_have_to_agree_and_case_counts() {
        let choice = Choice::Plain { names: BTreeSet::from([Name::new("web")]), labels: labels("app", "web") };
        let filter = Filter { choice, ..Filter::default() };
        let object =
            |name: &str, app: &str| format!(r#"{{"metadata":{{"name":"{name}","labels":{{"app":"{app}"}}}}}}"#);
        let cases = [("web", "web", true), ("Web", "web", false), ("web", "api", false), ("api", "web", false)];
        for (name, app, want) in cases {
            assert_eq!(wants(&filter, Terms::default(), &object(name, app)), want, "{name} {app}");
        }
    }

    #[test]
    fn signs_are_what_no_wanted_object_is_without() {
        let is = |value: &str| Sign::Label("a".to_owned(), Some(value.to_owned()));
        let has = Sign::Label("b".to_owned(), None);
        let plain = |names: &[&'static str], labels| Filter {
            choice: Choice::Plain { names: names.iter().map(|name| Name::new(*name)).collect(), labels },
            ..Filter::default()
        };
        let one_of = |values: &[String]| Expression::In("a".to_owned(), values.iter().cloned().collect());
        let not = Expression::NotEqual("a".to_owned(), "x".to_owned());
        let exists = Expression::Exists("b".to_owned());
        let many: Vec<String> = (0..=MAX_SIGNS).map(|number| number.to_string()).collect();
        let equal = || labels("a", "b");
        let cases = [
            (plain(&[], Selector::default()), None),
            (plain(&["n"], equal()), Some(vec![Sign::Name(Name::new("n"))])),
            (plain(&[], not.clone().into()), None),
            (plain(&[], [not, exists.clone()].into_iter().collect()), Some(vec![has.clone()])),
            (plain(&[], [exists.clone(), one_of(&many[..2])].into_iter().collect()), Some(vec![is("0"), is("1")])),
            (plain(&[], one_of(&many).into()), Some(vec![Sign::Label("a".to_owned(), None)])),
            (rules(vec![rule(0, equal(), None), rule(1, exists.into(), None)]), Some(vec![is("b"), has])),
            (rules(vec![rule(0, equal(), None), rule(1, Selector::default(), Some(CRITICAL))]), None),
            // What does not apply in this namespace wants nothing there.
            (rules(vec![rule(0, equal(), None), rule(2, Selector::default(), None)]), Some(vec![is("b")])),
            (rules(Vec::new()), Some(vec![])),
        ];
        for (filter, want) in cases {
            assert_eq!(filter.signs(within(&[0, 1])), want, "{filter:?}");
        }
        let enabled = Some(vec![Sign::Label(WATCH_LABEL.to_owned(), Some("enabled".to_owned()))]);
        let opt_in = Filter { mode: WatchMode::OptIn, ..Filter::default() };
        assert_eq!(opt_in.signs(Terms::default()), enabled);
        let disabled = Terms { consent: Consent::Disabled, ..Terms::default() };
        assert_eq!(Filter::default().signs(disabled), enabled);
        assert_eq!(opt_in.signs(Terms { consent: Consent::Enabled, ..Terms::default() }), None);
    }

    #[test]
    fn labels_of_all_wanted_objects_are_known_where_there_is_one_way_to_be_wanted() {
        let plain = |labels| Filter { choice: Choice::Plain { names: BTreeSet::new(), labels }, ..Filter::default() };
        let said = |filter: &Filter| filter.labels().map(ToString::to_string);
        let one = rule(0, labels("a", "b"), Some(CRITICAL));
        assert_eq!(said(&plain(Selector::default())), None);
        assert_eq!(said(&plain(labels("a", "b"))).as_deref(), Some("a=b"));
        assert_eq!(said(&rules(vec![one.clone()])).as_deref(), Some("a=b"));
        assert_eq!(said(&rules(vec![one.clone(), one])), None);
        assert_eq!(said(&rules(Vec::new())), None);
    }

    #[test]
    fn disabled_wins_between_label_and_annotation_and_other_values_are_unset() {
        assert_eq!(Consent::of_namespace(Some("enabled"), Some("disabled")), Consent::Disabled);
        assert_eq!(Consent::of_namespace(None, Some("enabled")), Consent::Enabled);
        assert_eq!(Consent::of_namespace(Some("Enabled"), None), Consent::Unset);
    }
}
