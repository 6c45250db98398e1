//! From the text of an object to the attributes of a row: pure, and the hottest code of the operator.
//!
//! ```text
//!  text ──peek──► identity                      (watch task, before queueing)
//!  text ──decode(Plan)──► Value ──Extractor──► canonical attributes
//! ```
//!
//! A [`Plan`] is the union of what the extractors of one watch read; an object is decoded once with it and handed to
//! each [`Extractor`]. A Helm release in it is unpacked once, when the first of them asks for it. What comes out is the text of the `attributes` of a row, redacted, ready for
//! [`Body::new`](crate::model::Body::new). Whether an object is collected at all, and what happens to its row, is for
//! `watch` and `store`.

mod decode;
mod embed;
mod peek;
mod release;
mod scrub;
mod secrets;

use crate::api::v1alpha1::profile;
use crate::canonical::{Value, write_string};
use crate::expr::{self, EvalError, Found, Hiding, Prefixes, Program, Shape};
use crate::validate::{SecretContent, ValidatedProfile};

use embed::Embed;

pub use decode::{DecodeError, Object, Plan, TypeMeta, decode};
pub use peek::{Identity, peek};
pub use scrub::ScrubKeys;

/// One attribute of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Key in the row.
    pub name: String,
    /// Expression.
    pub path: String,
    /// Whether the profile declares `type: list`.
    pub shape: Shape,
    /// Whether the key is left out when there is no value or an error; else it is null, or the row fails.
    pub optional: bool,
}

impl From<&profile::Attribute> for Attribute {
    fn from(attribute: &profile::Attribute) -> Self {
        Self {
            name: attribute.name.clone(),
            path: attribute.path.clone(),
            shape: if attribute.type_.as_deref() == Some("list") { Shape::List } else { Shape::Any },
            optional: attribute.optional,
        }
    }
}

/// Why an attribute cannot be compiled. Reads well behind the field: `spec.attributes[2].path: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AttributeError {
    /// Place in the list.
    pub index: usize,
    /// Name of the attribute.
    pub name: String,
    /// What is wrong, how to write it, and the place in the path.
    pub message: String,
}

/// Why one object has no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attribute {name:?}")]
pub struct ExtractError {
    /// Name of the attribute.
    pub name: String,
    /// What its path ran into.
    #[source]
    pub source: EvalError,
}

/// What [`Extractor::extract`] has to say about a row that it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Whether a U+0000 was replaced by U+FFFD.
    pub sanitized: bool,
}

/// The compiled attributes of a profile.
#[derive(Debug)]
pub struct Extractor {
    /// Sorted by name, as they are written.
    columns: Vec<Column>,
    prefixes: Prefixes,
    keys: ScrubKeys,
    left_out: Vec<AttributeError>,
    content: SecretContent,
    /// The copy of the object, and how many columns are written before it.
    embed: Option<(usize, Embed)>,
}

#[derive(Debug)]
struct Column {
    /// Place in the list of the profile.
    index: usize,
    name: String,
    /// `"name":` as it is written.
    label: Vec<u8>,
    program: Program,
    optional: bool,
    sensitive: Sensitive,
    /// The keys that the value is picked by.
    last_keys: Vec<String>,
}

/// What the names around a value say of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sensitive {
    No,
    /// The attribute's name is a sensitive key: what holds no keys of its own is hidden.
    Name,
    /// The last key of the path is sensitive: whatever it is.
    Path,
}

impl Extractor {
    /// Compiles a profile. `scrub_keys` are those of the operator; the profile's own come on top of them.
    ///
    /// # Errors
    /// As [`Extractor::compile`].
    pub fn of_profile(profile: &ValidatedProfile, scrub_keys: &[String]) -> Result<Self, Vec<AttributeError>> {
        let attributes: Vec<Attribute> = profile.attributes().iter().map(Attribute::from).collect();
        let mut extractor = Self::compile(&attributes, &[scrub_keys, profile.scrub_keys()].concat())?;
        extractor.content = profile.secret_content();
        if let Some(embedding) = profile.embedding() {
            let embed = Embed::new(embedding, extractor.content);
            embed.prefixes(&mut extractor.prefixes);
            let place = extractor.columns.partition_point(|column| column.name < embed.key);
            extractor.embed = Some((place, embed));
        }
        Ok(extractor)
    }

    /// Compiles the attributes of a profile. `scrub_keys` come on top of the built-in sensitive keys.
    ///
    /// # Errors
    /// All attributes that cannot be compiled, in order. An optional one whose path is wrong is not among them: it is
    /// never in a row, and [`Extractor::left_out`] names it.
    pub fn compile(attributes: &[Attribute], scrub_keys: &[String]) -> Result<Self, Vec<AttributeError>> {
        let keys = ScrubKeys::new(scrub_keys);
        let mut columns: Vec<Column> = Vec::with_capacity(attributes.len());
        let (mut errors, mut left_out) = (Vec::new(), Vec::new());
        for (index, attribute) in attributes.iter().enumerate() {
            let error = |message: String| AttributeError { index, name: attribute.name.clone(), message };
            if columns.iter().any(|column| column.name == attribute.name) {
                errors.push(error(format!("attribute {:?} is declared twice", attribute.name)));
                continue;
            }
            match expr::compile(&attribute.path, attribute.shape) {
                Ok(program) => columns.push(Column::new(index, attribute, program, &keys)),
                Err(cause) => {
                    let list = if attribute.optional { &mut left_out } else { &mut errors };
                    list.push(error(cause.placed(&attribute.path)));
                }
            }
        }
        if !errors.is_empty() {
            errors.append(&mut left_out);
            errors.sort_by_key(|error| error.index);
            return Err(errors);
        }
        let mut prefixes = Prefixes::default();
        for column in &columns {
            column.program.prefixes(&mut prefixes);
        }
        columns.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self { columns, prefixes, keys, left_out, content: SecretContent::default(), embed: None })
    }

    /// Returns what the attributes read of an object.
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// Returns the optional attributes that are in no row because their path cannot be compiled.
    pub fn left_out(&self) -> &[AttributeError] {
        &self.left_out
    }

    /// Appends the attributes of an object as one canonical JSON object.
    ///
    /// # Errors
    /// The first attribute, in the order of the profile, that ran into an error and is not optional. `out` then ends
    /// where it did before.
    pub fn extract(&self, object: &Object<'_>, out: &mut Vec<u8>) -> Result<Extracted, ExtractError> {
        let start = out.len();
        let hides = |name: &str| self.keys.matches(name);
        let hiding = Hiding { hides: &hides, replacement: &scrub::REDACTED_VALUE };
        let veiled = secrets::veiled(object, self.content);
        let root: &Value<'_> = veiled.as_ref().unwrap_or(object);
        let mut failed: Option<(&Column, EvalError)> = None;
        let mut writer = scrub::Writer { keys: &self.keys, out, sanitized: false };
        let mut separator = b'{';
        for (place, column) in self.columns.iter().enumerate() {
            self.embed(place, object, &mut separator, &mut writer);
            let found = match column.program {
                // The release is read from the Secret as it is: what may be shown of it was decided with the path.
                Program::Helm(_) => object.release().map_err(EvalError::from),
                Program::JsonPath(_) | Program::Cel(_) => Ok(root),
            };
            let found = match found.and_then(|root| column.program.evaluate(root, hiding)) {
                Err(_) | Ok(Found::Nothing) if column.optional => continue,
                Ok(found) => found,
                Err(error) => {
                    if failed.as_ref().is_none_or(|(other, _)| other.index > column.index) {
                        failed = Some((column, error));
                    }
                    continue;
                }
            };
            writer.out.push(separator);
            separator = b',';
            writer.out.extend_from_slice(&column.label);
            column.write(&found, &mut writer);
        }
        self.embed(self.columns.len(), object, &mut separator, &mut writer);
        if separator == b'{' {
            writer.out.push(b'{');
        }
        writer.out.push(b'}');
        let sanitized = writer.sanitized;
        match failed {
            None => Ok(Extracted { sanitized }),
            Some((column, source)) => {
                out.truncate(start);
                Err(ExtractError { name: column.name.clone(), source })
            }
        }
    }

    /// Writes the copy of the object where its key stands among the columns.
    fn embed(&self, place: usize, object: &Value<'_>, separator: &mut u8, writer: &mut scrub::Writer<'_, '_>) {
        if let Some((at, embed)) = &self.embed
            && *at == place
        {
            writer.out.push(std::mem::replace(separator, b','));
            writer.out.extend_from_slice(&embed.label);
            embed.write(object, writer);
        }
    }
}

impl Column {
    fn new(index: usize, attribute: &Attribute, program: Program, keys: &ScrubKeys) -> Self {
        let mut label = Vec::new();
        write_string(&attribute.name, &mut label);
        label.push(b':');
        let mut last_keys = Vec::new();
        program.last_keys(&mut |key| last_keys.push(key.to_owned()));
        let by_path = last_keys.iter().any(|key| keys.matches(key));
        let sensitive = match (by_path, keys.matches(&attribute.name)) {
            (true, _) => Sensitive::Path,
            (false, true) => Sensitive::Name,
            (false, false) => Sensitive::No,
        };
        Self { index, name: attribute.name.clone(), label, program, optional: attribute.optional, sensitive, last_keys }
    }

    fn write(&self, found: &Found<'_, '_>, writer: &mut scrub::Writer<'_, '_>) {
        if self.hides(found, writer.keys) {
            return writer.redacted();
        }
        match found {
            Found::Nothing => writer.value(&Value::Null),
            Found::One(value) => writer.value(value),
            Found::Many(values) => writer.list(values.iter().copied(), None),
            Found::Made(value) => writer.value(value),
        }
    }

    fn hides(&self, found: &Found<'_, '_>, keys: &ScrubKeys) -> bool {
        let values: &[&Value<'_>] = match found {
            Found::Nothing => return false,
            Found::One(value) => &[value],
            Found::Made(value) => &[value],
            Found::Many(values) => values,
        };
        match self.sensitive {
            Sensitive::Path => return true,
            Sensitive::Name if values.iter().all(|value| holds_no_keys(value)) => return true,
            Sensitive::Name | Sensitive::No => {}
        }
        // `tls`, `valueFrom` and the like depend on what they hold, which only maps do.
        let hidden = |value: &Value<'_>| self.last_keys.iter().any(|key| keys.hides_entry(key, value));
        values.iter().any(|value| matches!(value, Value::Map(_)) && hidden(value))
    }
}

fn holds_no_keys(value: &Value<'_>) -> bool {
    match value {
        Value::Map(_) => false,
        Value::List(items) => items.iter().all(holds_no_keys),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
