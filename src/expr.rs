//! Compiled expressions: from the `path` of an attribute to a value of an object.
//!
//! A path is compiled once per profile and evaluated for each object. It says beforehand which parts of an object it
//! reads ([`Program::prefixes`]), so that `extract` decodes those and skips the rest; evaluating over the skimmed object
//! gives what evaluating over the whole one would.
//!
//! | Path | Language |
//! |---|---|
//! | `cel:…` | CEL, standard library only ([`cel`]) |
//! | `helm:release.…` | a field of a Helm release ([`helm`]) |
//! | anything else | JSONPath in the manner of kubectl ([`jsonpath`]) |
//!
//! A [`Policy`] is CEL too, without the prefix, and only says yes or no.
//!
//! Nothing here redacts or encodes; `extract` does both.

use crate::canonical::Value;

pub mod cel;
pub mod helm;
pub mod jsonpath;
pub mod policy;
pub mod prefixes;

pub use policy::Policy;
pub use prefixes::Prefixes;

/// What `type` an attribute declares, as far as it changes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// One match is that value, several are a list.
    #[default]
    Any,
    /// `type: list`: always a list, so that a column never changes its type.
    List,
}

/// A compiled path. Evaluating needs no lock; share it between threads.
#[derive(Debug)]
pub enum Program {
    /// A JSONPath template.
    JsonPath(jsonpath::Template),
    /// A CEL expression.
    Cel(cel::Expression),
    /// A field of a Helm release.
    Helm(helm::Field),
}

/// Why a path cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// What is wrong and how to write it, for people.
    pub message: String,
    /// Where in the path as written, in bytes.
    pub position: usize,
}

impl CompileError {
    pub(crate) fn new(position: usize, message: impl Into<String>) -> Self {
        Self { message: message.into(), position }
    }

    /// Returns the message with the place in the path that it is about, as people count.
    pub fn placed(&self, path: &str) -> String {
        let before = path.get(..self.position).unwrap_or(path);
        format!("{} (at character {})", self.message, before.chars().count() + 1)
    }

    fn moved_by(mut self, bytes: usize) -> Self {
        self.position += bytes;
        self
    }
}

/// Why a compiled path has no answer for one object. Messages never hold values of the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// `[…]` on something else than a list.
    #[error("{0} is not array or slice")]
    NotAList(&'static str),
    /// `.*` on a string or a number.
    #[error("{0} has no elements")]
    NoElements(&'static str),
    /// A field of something else than a map.
    #[error("{0} has no fields")]
    NoFields(&'static str),
    /// The object holds no Helm release.
    #[error(transparent)]
    Release(#[from] helm::ReleaseError),
    /// JSONPath: more values than one evaluation may visit.
    #[error("path visits more than {} values; name more of the keys on the way", jsonpath::BUDGET_VALUES)]
    TooManyValues,
    /// A filter compares two types.
    #[error("incompatible types for comparison")]
    Incompatible,
    /// A side of a filter has several values.
    #[error("can only compare one element at a time")]
    ManyToCompare,
    /// CEL: a key that the object does not have.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// CEL: an index outside a list.
    #[error("index out of bounds")]
    OutOfBounds,
    /// CEL: an operator or function has no meaning for these types.
    #[error("no such overload: {0}")]
    NoSuchOverload(String),
    /// CEL: a function refused its argument.
    #[error("failed to call {0}")]
    Function(String),
    /// CEL: integer arithmetic left 64 bits.
    #[error("integer overflow")]
    Overflow,
    /// CEL: division or remainder by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// CEL: NaN or an infinity, which JSON cannot say.
    #[error("result is not a finite number")]
    NotFinite,
    /// CEL: a value without a JSON form.
    #[error("result of type {0} has no JSON form")]
    NoJsonForm(String),
    /// CEL: more loop steps than one evaluation may take.
    #[error("cost budget of {} steps exceeded", cel::BUDGET_STEPS)]
    BudgetExceeded,
    /// CEL: a deep expression runs on a thread of its own, and none could be had.
    #[error("no thread for a deeply nested expression")]
    NoStack,
    /// CEL: a result larger than one attribute may be.
    #[error("result is larger than {} bytes", cel::RESULT_LIMIT_BYTES)]
    TooLarge,
}

/// Which keys are sensitive, for what has lost its key once a path has picked it: the members that `.*` and `..` pick,
/// and the `value` of an entry such as `{name: DB_PASSWORD, value: …}`.
#[derive(Clone, Copy)]
pub struct Hiding<'v> {
    /// Tells whether what is under this key, or beside this `name`, must not be shown.
    pub hides: &'v (dyn Fn(&str) -> bool + Sync),
    /// What is shown in its place.
    pub replacement: &'v Value<'static>,
}

impl Hiding<'static> {
    /// Hides nothing.
    pub const NOTHING: Self = Self { hides: &|_| false, replacement: &Value::Null };
}

impl Hiding<'_> {
    /// Tells whether the `value` of this map must not be shown.
    fn applies(&self, entry: &Value<'_>) -> bool {
        entry.get("name").and_then(Value::as_str).is_some_and(self.hides)
    }
}

/// What an evaluation found.
#[derive(Debug, PartialEq)]
pub enum Found<'v, 'a> {
    /// No value: missing or null.
    Nothing,
    /// One value of the object itself.
    One(&'v Value<'a>),
    /// A list of values of the object.
    Many(Vec<&'v Value<'a>>),
    /// A value that was computed.
    Made(Value<'a>),
}

impl Found<'_, '_> {
    /// Copies the finding into a value of its own.
    pub fn to_value(&self) -> Option<Value<'_>> {
        match self {
            Self::Nothing => None,
            Self::One(value) => Some((*value).clone()),
            Self::Many(values) => Some(Value::List(values.iter().map(|&value| value.clone()).collect())),
            Self::Made(value) => Some(value.clone()),
        }
    }
}

/// What paths into a Helm release start with.
const HELM: &str = "helm:release.";

/// Compiles a path.
///
/// # Errors
/// A [`CompileError`] for what cannot be read, and for what can never have a value, such as a path without any `{…}`.
pub fn compile(path: &str, shape: Shape) -> Result<Program, CompileError> {
    let text = path.trim();
    let start = path.len() - path.trim_start().len();
    if text.is_empty() {
        return Err(CompileError::new(0, "empty path"));
    }
    if let Some(source) = text.strip_prefix("cel:") {
        return cel::Expression::compile(source, shape).map(Program::Cel).map_err(|error| error.moved_by(start + 4));
    }
    if let Some(field) = text.strip_prefix(HELM) {
        return helm::Field::compile(field, shape)
            .map(Program::Helm)
            .map_err(|error| error.moved_by(start + HELM.len()));
    }
    jsonpath::Template::compile(text, shape).map(Program::JsonPath).map_err(|error| error.moved_by(start))
}

impl Program {
    /// Adds what this program reads of an object.
    pub fn prefixes(&self, prefixes: &mut Prefixes) {
        match self {
            Self::JsonPath(template) => template.prefixes(prefixes),
            Self::Cel(expression) => expression.prefixes(prefixes),
            Self::Helm(field) => field.prefixes(prefixes),
        }
    }

    /// Evaluates over an object, [`Program::Helm`] over the release that it holds; what stands in for values that must not
    /// be shown is `hiding`'s to say.
    ///
    /// # Errors
    /// An [`EvalError`]: this object has no row then, unless the attribute is optional.
    pub fn evaluate<'v, 'a>(&'v self, root: &'v Value<'a>, hiding: Hiding<'v>) -> Result<Found<'v, 'a>, EvalError> {
        match self {
            Self::JsonPath(template) => template.evaluate(root, hiding),
            Self::Cel(expression) => expression.evaluate(root, hiding),
            Self::Helm(field) => field.evaluate(root, hiding),
        }
    }

    /// Calls back with each key that the value may have been picked by, as far as it is written in the path: where a
    /// sensitive name is looked for.
    pub fn last_keys(&self, each: &mut dyn FnMut(&str)) {
        match self {
            Self::JsonPath(template) => template.last_keys(each),
            Self::Cel(expression) => expression.last_keys().for_each(each),
            Self::Helm(field) => field.keys().next_back().into_iter().for_each(each),
        }
    }

    /// Calls back with each key of the object that is written in the path, wherever it stands. A field of a release is no
    /// key of the object.
    pub fn keys(&self, each: &mut dyn FnMut(&str)) {
        match self {
            Self::JsonPath(template) => template.keys(each),
            Self::Cel(expression) => expression.keys().for_each(each),
            Self::Helm(_) => {}
        }
    }
}
