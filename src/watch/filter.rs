//! Which objects a target wants: names, labels and the watch labels of `spec/collection.md` §1.5 and §1.7.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt};

use crate::api::v1alpha1::WatchMode;
use crate::canonical::Value;
use crate::model::Name;

/// Label on objects and namespaces, `enabled` or `disabled`.
pub const WATCH_LABEL: &str = "kollect.dev/watch";
/// Annotation on namespaces with the same values.
pub const NAMESPACE_WATCH_ANNOTATION: &str = "kollect.dev/namespace-watch";

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

/// The object filter of one target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Wanted names; empty for all.
    pub names: BTreeSet<Name>,
    /// Wanted labels; selects all when it is empty.
    pub labels: Selector,
    /// What is wanted without any label.
    pub mode: WatchMode,
}

impl Filter {
    /// Tells whether an object of a namespace with that consent is wanted.
    pub fn wants(&self, name: &str, labels: Option<&Value<'_>>, consent: Consent) -> bool {
        if !self.names.is_empty() && !self.names.contains(name) {
            return false;
        }
        if !self.consents(Consent::read(labels.and_then(|labels| labels.get(WATCH_LABEL)?.as_str())), consent) {
            return false;
        }
        self.labels.selects_all() || self.labels.matches(&owned(labels))
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

fn owned(labels: Option<&Value<'_>>) -> BTreeMap<String, String> {
    let Some(Value::Map(labels)) = labels else { return BTreeMap::new() };
    labels.iter().filter_map(|(key, value)| Some((key.to_owned(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn disabled_wins_between_label_and_annotation_and_other_values_are_unset() {
        assert_eq!(Consent::of_namespace(Some("enabled"), Some("disabled")), Consent::Disabled);
        assert_eq!(Consent::of_namespace(None, Some("enabled")), Consent::Enabled);
        assert_eq!(Consent::of_namespace(Some("Enabled"), None), Consent::Unset);
    }
}
