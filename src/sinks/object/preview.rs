//! What a sink would write to its bucket, as text for people. Nothing is connected.

use super::error::ObjectError;
use super::render::Recipe;
use crate::api::v1alpha1::sink::Preview;
use crate::export::layout::LayoutError;
use crate::model::{InventoryKey, Name, Namespace};
use crate::validate::ValidatedObject;

/// Renders the key of an example: inventory `team-a/api`, generation 1.
pub fn preview(sink: &ValidatedObject) -> Result<Preview, LayoutError> {
    let key = |sink: &ValidatedObject| {
        let recipe = Recipe::new(sink.encoding.clone(), sink.cluster.clone(), sink.path_template.as_deref())?;
        recipe.key(&InventoryKey::new(Namespace::new("team-a"), Name::new("api")), 1)
    };
    let key = match key(sink) {
        Ok(key) => key,
        Err(ObjectError::Layout(error)) => return Err(error),
        Err(_) => String::new(), // a key fails for no other reason
    };
    let prefix = &sink.bucket.prefix;
    let object_path = if prefix.is_empty() { key } else { format!("{prefix}/{key}") };
    Ok(Preview { serialization_format: sink.encoding.format().to_owned(), object_path, ..Preview::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn path(more: &Value) -> String {
        let mut spec = json!({"type": "s3", "endpoint": "s3://inv/prod", "cluster": "west"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: crate::api::v1alpha1::KollectSnapshotSinkSpec = serde_json::from_value(spec).unwrap();
        let shown = preview(&crate::validate::object(&spec).unwrap()).unwrap();
        format!("{} {}", shown.serialization_format, shown.object_path)
    }

    #[test]
    fn a_preview_shows_the_key_with_its_prefix() {
        for (more, want) in [
            (json!({}), "json prod/inventory/team-a/api.json"),
            (json!({"serialization": {"compression": "gzip"}}), "json prod/inventory/team-a/api.json.gz"),
            (json!({"serialization": {"format": "ndjson"}}), "ndjson prod/inventory/team-a/api.ndjson"),
            (
                json!({"pathTemplate": "clusters/{cluster}/{namespace}/{name}{extension}", "endpoint": "s3://inv"}),
                "json clusters/west/team-a/api.json",
            ),
            (
                json!({"objectStore": {"format": "parquet"}}),
                "parquet prod/inventory/cluster=west/ns=team-a/name=api/generation=1.parquet",
            ),
        ] {
            assert_eq!(path(&more), want);
        }
    }
}
