//! Where a target cannot collect: what is said of it, and what to do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refusal, Rows, some};
use crate::api::v1alpha1::conditions::reasons;
use crate::config::Bound;
use crate::error::Class;
use crate::model::{Gvk, Namespace};
use crate::watch::{Fault, Problem, Resource, Scope};

type Problems = BTreeMap<Namespace, Problem>;

/// Refuses a kind without namespaces where the operator looks at namespaces only.
pub(super) fn within(bound: &Bound, profile: &str, gvk: &Gvk, resource: &Resource) -> Result<(), Refusal> {
    if *bound == Bound::Cluster || resource.scope == Scope::Namespaced {
        return Ok(());
    }
    let message = format!(
        "spec.targetGVK of KollectProfile {profile:?}: objects of kind {} are in no namespace, and this operator looks at \
         namespaces only (--watch-namespaces, --tenant-mode); collect them with one that does not",
        gvk.kind
    );
    Err(Refusal::new(reasons::NOT_SERVED, message, Rows::Stay))
}

/// Says what is wrong where neither rights nor patience are the answer, or not rights alone.
pub(super) fn failure(problems: &Problems) -> Option<(&'static str, String, Class)> {
    let without: Vec<&Namespace> =
        problems.iter().filter(|(_, problem)| problem.fault == Fault::Budget).map(|(namespace, _)| namespace).collect();
    if let Some(first) = without.first().and_then(|namespace| problems.get(*namespace)) {
        let message = format!(
            "nothing is collected in {}: {}, and one stream over all namespaces is not permitted; rows from there stay as \
             they are. Select fewer namespaces, raise --max-watch-connections, or grant list and watch on the cluster",
            some(without.iter().copied()),
            first.message
        );
        return Some((reasons::INFORMER_REGISTRATION_FAILED, message, Class::Terminal));
    }
    let (namespace, problem) = problems.iter().find(|(_, problem)| problem.code != Some(403))?;
    let place = if namespace.is_empty() { String::new() } else { format!(" in namespace {:?}", namespace.as_str()) };
    let message = format!("failed to {}{place}: {}", verbs([problem]), problem.message);
    Some((reasons::INFORMER_REGISTRATION_FAILED, message, Class::Transient))
}

/// Says where the API server refuses, and what.
pub(super) fn denied(problems: &Problems) -> String {
    let named = some(problems.keys().filter(|namespace| !namespace.is_empty()));
    let place = if named.is_empty() { "the cluster".to_owned() } else { named };
    format!(
        "may not {} in {place}; rows from there stay as they are. Grant list and watch to the operator: {}",
        verbs(problems.values()),
        problems.values().next().map(|problem| problem.message.as_str()).unwrap_or_default()
    )
}

fn verbs<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> String {
    let verbs: BTreeSet<&str> = problems
        .into_iter()
        .map(|problem| match problem.fault {
            Fault::List | Fault::Budget => "list",
            Fault::Watch => "watch",
        })
        .collect();
    verbs.into_iter().collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(of: &[(&'static str, Fault, Option<u16>)]) -> Problems {
        let problem = |fault, code| Problem { fault, code, message: "because".to_owned() };
        of.iter().map(|(name, fault, code)| (Namespace::new(*name), problem(*fault, *code))).collect()
    }

    #[test]
    fn a_refusal_names_the_namespaces_and_the_verb_and_is_no_failure() {
        for (of, want) in [
            (&[("c", Fault::List, Some(403))][..], "may not list in c; "),
            (&[("c", Fault::Watch, Some(403))], "may not watch in c; "),
            (&[("b", Fault::Watch, Some(403)), ("c", Fault::List, Some(403))], "may not list or watch in b, c; "),
            (&[("", Fault::List, Some(403))], "may not list in the cluster; "),
        ] {
            let problems = problems(of);
            assert!(denied(&problems).starts_with(want), "{}", denied(&problems));
            assert_eq!(failure(&problems), None);
        }
    }

    #[test]
    fn other_failures_say_whether_to_wait_or_what_to_do() {
        for (of, want, class) in [
            (&[("c", Fault::Watch, Some(500))][..], "failed to watch in namespace \"c\": because", Class::Transient),
            (&[("", Fault::List, None)], "failed to list: because", Class::Transient),
            (
                &[("a", Fault::List, Some(403)), ("b", Fault::Budget, None), ("c", Fault::Budget, None)],
                "nothing is collected in b, c: because, and one stream over all namespaces is not permitted",
                Class::Terminal,
            ),
        ] {
            let (reason, message, found) = failure(&problems(of)).unwrap();
            assert_eq!((reason, found), (reasons::INFORMER_REGISTRATION_FAILED, class));
            assert!(message.starts_with(want), "{message}");
        }
    }

    #[test]
    fn a_kind_without_namespaces_is_outside_of_any_bound() {
        let resource = |scope| Resource { group: "".into(), version: "v1".into(), plural: "nodes".into(), scope };
        let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Node".into() };
        let bound = Bound::Namespaces(BTreeSet::from([Namespace::new("a")]));
        assert!(within(&Bound::Cluster, "p", &gvk, &resource(Scope::Cluster)).is_ok());
        assert!(within(&bound, "p", &gvk, &resource(Scope::Namespaced)).is_ok());
        let refusal = within(&bound, "p", &gvk, &resource(Scope::Cluster)).unwrap_err();
        assert_eq!((refusal.reason, refusal.rows), (reasons::NOT_SERVED, Rows::Stay));
        assert!(refusal.message.contains("kind Node are in no namespace"), "{}", refusal.message);
    }
}
