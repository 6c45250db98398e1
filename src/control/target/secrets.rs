//! Profiles over core Secrets that have no consent, or no longer: a sink keeps nothing that nobody consents to.

use super::{Refusal, Rows};
use crate::api::v1alpha1::KollectProfileSpec;
use crate::api::v1alpha1::conditions::reasons;
use crate::control::Shelves;
use crate::control::shelf::Object;
use crate::model::ObjectKey;
use crate::validate;

/// Refuses a target whose profile asks for more of Secrets than it consents to. Asked before anything that keeps rows as
/// they are, such as a scope that cannot be read.
pub(super) fn consented(shelves: &Shelves, profile: &ObjectKey) -> Result<(), Refusal> {
    shelves.profiles.get(profile).and_then(|object| refusal(profile.name.as_str(), object)).map_or(Ok(()), Err)
}

/// Returns why a profile has no rows. That it withdraws its consent is deliberate; whether it was given once is not asked,
/// so that it counts for a process that starts later as well. Rows of any other mistake stay.
fn refusal(name: &str, profile: &Object<KollectProfileSpec>) -> Option<Refusal> {
    let (spec, annotations) = (profile.spec.as_ref().ok()?, profile.meta.annotations.as_ref());
    if !validate::lacks_secret_consent(spec, annotations) {
        return None;
    }
    let errors = validate::profile(spec, annotations).err()?;
    let message =
        format!("KollectProfile {name:?}: {errors}; without its consent there are no rows, neither here nor in a sink");
    Some(Refusal::new(reasons::PROFILE_INVALID, message, Rows::Go))
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_go_where_consent_is_missing_and_stay_with_any_other_mistake() {
        for (kind, path, given, goes) in [
            ("Secret", "$.data.user", "false", true),
            ("Secret", "$.data.user", "true", false),
            ("Secret", "{.type", "false", false),
            ("ConfigMap", "{.data.user", "false", false),
        ] {
            let annotations = [(validate::ALLOW_SECRET_EXTRACTION.to_owned(), given.to_owned())].into();
            let spec =
                json!({"targetGVK": {"version": "v1", "kind": kind}, "attributes": [{"name": "a", "path": path}]});
            let meta = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
            let spec: KollectProfileSpec = serde_json::from_value(spec).unwrap();
            let refusal = refusal("p", &Object { meta, spec: Ok(spec), status: Value::Null });
            assert_eq!(refusal.as_ref().is_some_and(|refusal| refusal.rows == Rows::Go), goes, "{kind} {path} {given}");
            assert_eq!(refusal.is_some(), goes);
        }
    }
}
