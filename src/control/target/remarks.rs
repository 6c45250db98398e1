//! What a person should know of a target that collects: filters and expressions that do less than they seem to.
//!
//! None of it stops anything. Admission says the same as warnings, to whoever writes the object; here it stands in the
//! condition of every target that uses it, for a profile has no status of its own.

use super::{Compiled, filter};
use crate::extract::AttributeError;
use crate::model::Gvk;
use crate::validate::{ValidatedProfile, ValidatedTarget};
use crate::watch::Scope;

/// So many remarks on a profile are spelled out.
const NAMED: usize = 5;

/// Returns what is to be said of a target and of the profile that it uses.
pub(super) fn of(target: &ValidatedTarget, gvk: &Gvk, scope: Scope, compiled: Option<&Compiled>) -> Vec<String> {
    let filters = Some(filter::remarks(target, gvk, scope)).filter(|remarks| !remarks.is_empty());
    let profile = compiled.into_iter().flat_map(|compiled| compiled.remarks.iter().cloned());
    filters.into_iter().chain(profile).collect()
}

/// Returns what is to be said of a profile, and of the optional attributes that cannot be compiled.
pub(super) fn of_profile(name: &str, profile: &ValidatedProfile, left_out: &[AttributeError]) -> Vec<String> {
    let never = |error: &AttributeError| {
        format!("spec.attributes[{}].path: {error}; no row has this optional attribute", error.index)
    };
    let mut all: Vec<String> = profile.warnings().iter().cloned().chain(left_out.iter().map(never)).collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let mut remarks: Vec<String> = all.iter().map(|remark| format!("KollectProfile {name:?}: {remark}")).collect();
    if more > 0 {
        remarks.push(format!("and {more} more"));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::extract::Extractor;
    use crate::validate;

    fn said(attributes: &Value) -> Vec<String> {
        let spec = json!({"targetGVK": {"version": "v1", "kind": "Pod"}, "attributes": attributes});
        let profile = validate::profile(&serde_json::from_value(spec).unwrap(), None).unwrap();
        of_profile("p", &profile, Extractor::of_profile(&profile, &[]).unwrap().left_out())
    }

    #[test]
    fn what_a_profile_does_not_do_is_said_with_its_name_and_field() {
        let quiet = json!([{"name": "a", "path": "{.a}"}, {"name": "b", "path": "{.b}", "optional": true}]);
        assert_eq!(said(&quiet), Vec::<String>::new());
        let comparing = "{.status.conditions[?(@.type==\"Ready\")].status}";
        let remarks =
            said(&json!([{"name": "a", "path": comparing}, {"name": "b", "path": "cel:object.", "optional": true}]));
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].starts_with("KollectProfile \"p\": spec.attributes[0].path: a comparison"), "{remarks:?}");
        assert!(remarks[1].starts_with("KollectProfile \"p\": spec.attributes[1].path: "), "{remarks:?}");
        assert!(remarks[1].ends_with("; no row has this optional attribute"), "{remarks:?}");
    }

    #[test]
    fn many_remarks_are_counted() {
        let all = (0..9).map(|number| json!({"name": number.to_string(), "path": "{.a[}", "optional": true}));
        let remarks = said(&all.collect());
        assert_eq!((remarks.len(), remarks[5].as_str()), (6, "and 4 more"));
    }
}
