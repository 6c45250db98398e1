//! From a Rust type to the structural schema that an API server accepts.
//!
//! The general generator describes what serde reads: an optional field may be null, an enum with documented variants is
//! a choice of constants. A `CustomResourceDefinition` wants neither, so the tree is rewritten here: nothing is
//! nullable (the API server then drops explicit nulls before defaults apply), enums are plain lists of strings whose
//! meanings move into the description, and paragraphs of doc comments become single lines.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a kind while it is put together.
pub(super) struct Object {
    spec: Value,
    status: Option<Value>,
}

/// Starts with the schema of the spec.
pub(super) fn object<Spec: JsonSchema>() -> Object {
    Object { spec: structural::<Spec>(), status: None }
}

impl Object {
    /// Adds the schema of the status.
    pub(super) fn with_status<Status: JsonSchema>(self) -> Self {
        Self { status: Some(structural::<Status>()), ..self }
    }

    /// Returns the schema of the whole object.
    #[expect(clippy::expect_used, reason = "every keyword in use is one that the definition type knows")]
    pub(super) fn into_props(self, kind: &str) -> JSONSchemaProps {
        // The whole doc comment describes the kind; the spec repeats none of it.
        let mut spec = self.spec;
        let description = spec["description"].take();
        spec["description"] = json!(format!("What the {kind} asks for."));
        let mut properties = json!({
            "apiVersion": { "type": "string", "description": "Version of the API: `kollect.dev/v1alpha1`." },
            "kind": { "type": "string", "description": format!("Kind of the object: `{kind}`.") },
            "metadata": { "type": "object" },
            "spec": spec,
        });
        if let Some(mut status) = self.status {
            status["description"] = json!("What the operator found and did; written by the operator alone.");
            properties["status"] = status;
        }
        let whole = json!({
            "description": description,
            "type": "object",
            "properties": properties,
            "required": ["spec"],
        });
        serde_json::from_value(whole).expect("a structural schema")
    }
}

fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    rewrite(&mut schema);
    schema
}

/// Rewrites one schema and all below it.
fn rewrite(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    drop_null(object);
    collapse_choices(object);
    object.remove("title");
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        object.remove("format");
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = unwrap_lines(text);
    }
    // Rules for the elements of a list of strings, which have no field of their own to carry them.
    if let Some(rules) = object.remove("items-validations") {
        object["items"]["x-kubernetes-validations"] = rules;
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(rewrite);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(child) = object.get_mut(below) {
            rewrite(child);
        }
    }
}

/// Takes the null out of an optional field. What the field says wins over what its type says, except that rules of
/// both hold.
fn drop_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(mut choices)) = object.remove("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        for choice in choices {
            let Value::Object(choice) = choice else { continue };
            for (key, value) in choice {
                match (key.as_str(), object.get_mut(&key), value) {
                    ("x-kubernetes-validations", Some(Value::Array(rules)), Value::Array(more)) => rules.extend(more),
                    (_, Some(_), _) => {}
                    (_, None, value) => {
                        object.insert(key, value);
                    }
                }
            }
        }
    }
    // An optional type with a choice of its own may now need the same.
    if object.get("anyOf").is_some() {
        drop_null(object);
    }
}

/// Turns a choice of documented constants into an enum, and their docs into a list below the description.
fn collapse_choices(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.remove("oneOf") else { return };
    let mut values = Vec::new();
    let mut meanings = Vec::new();
    for choice in &choices {
        let Some(word) = choice["const"].as_str() else { continue };
        values.push(json!(word));
        if let Some(meaning) = choice["description"].as_str() {
            meanings.push(format!("`{word}`: {}", unwrap_lines(meaning)));
        }
    }
    object.insert("type".to_owned(), json!("string"));
    object.insert("enum".to_owned(), Value::Array(values));
    let description = object.get("description").and_then(Value::as_str).unwrap_or_default();
    let text = format!("{}\n\n{}", description.trim(), meanings.join("\n\n"));
    object.insert("description".to_owned(), json!(text));
}

/// Joins the lines of each paragraph.
fn unwrap_lines(text: &str) -> String {
    let paragraphs: Vec<String> =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    paragraphs.join("\n\n")
}
