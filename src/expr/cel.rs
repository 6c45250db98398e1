//! CEL over the variable `object`, standard library only.
//!
//! The crate `cel` parses and interprets; between the two, [`check`] goes over the syntax tree once, at compile time:
//!
//! - it refuses names, functions, argument counts and types that can only fail, with their place;
//! - it replaces each chain of selections from `object` (`object.spec.replicas`) by one reference, which is both what
//!   the decoder has to keep and what is looked up in one go when the expression runs;
//! - it puts a step of the budget into every loop and a charge on everything that is built ([`meter`]), so that three
//!   nested loops over 200 elements end soon, and no expression outgrows the process;
//! - it makes the order of map keys bytewise and equality structural, whichever way a list or map came about.
//!
//! Values of the object reach the interpreter as borrowed views ([`node`]), never as copies.

mod check;
mod convert;
mod meter;
mod node;
mod types;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use ::cel::common::value::CowVal;
use ::cel::context::VariableResolver;
use ::cel::{Context, Env, ExecutionError, IdedExpr};

use self::meter::{Meter, Overrun};
use super::{CompileError, EvalError, Found, Hiding, Prefixes, Shape};
use crate::canonical::Value;

pub use self::meter::BUDGET_STEPS;

/// Bytes of one result; what an API server accepts as a whole object is 1.5 MiB.
pub const RESULT_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// Code points of one expression.
const MAX_SOURCE: usize = 100_000;

/// Nesting of one expression, in the text and in the tree.
const MAX_DEPTH: usize = 250;

/// Up to this depth an expression runs on the stack of its caller: 10 KiB a level in a debug build, of 2 MiB.
const SHALLOW: usize = 64;

/// Stack for whatever recurses with the text of an expression.
const LARGE_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A compiled CEL expression.
pub struct Expression {
    root: IdedExpr,
    /// What was compiled.
    source: Box<str>,
    references: Vec<Reference>,
    /// Keys that the result may have been picked by.
    last_keys: Vec<String>,
    /// Every key that is written in the expression.
    keys: Vec<String>,
    shape: Shape,
    depth: usize,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").field("references", &self.references).finish_non_exhaustive()
    }
}

/// A chain of selections from `object`.
#[derive(Debug, Clone, PartialEq)]
struct Reference {
    path: Vec<Segment>,
    /// Whether it is the argument of `has()`: only the presence of the last key matters.
    test: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Segment {
    Key(String),
    Index(i64),
}

/// The standard library without optionals, and the functions that [`check`] puts into expressions.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    node::declare(&mut env);
    Arc::new(env)
});

impl Expression {
    /// Compiles the text behind `cel:`.
    pub(super) fn compile(source: &str, shape: Shape) -> Result<Self, CompileError> {
        let start = source.len() - source.trim_start().len();
        let source = source.trim();
        if source.is_empty() {
            return Err(CompileError::new(0, "empty expression"));
        }
        if source.chars().count() > MAX_SOURCE {
            return Err(CompileError::new(start, format!("expression is longer than {MAX_SOURCE} characters")));
        }
        check::nesting(source)
            .and_then(|()| {
                on_large_stack(|| Self::compile_here(source, shape))
                    .unwrap_or_else(|| Err(CompileError::new(0, "expression cannot be parsed")))
            })
            .map_err(|error| error.moved_by(start))
    }

    fn compile_here(source: &str, shape: Shape) -> Result<Self, CompileError> {
        let depth = u16::try_from(MAX_DEPTH).unwrap_or(u16::MAX);
        let parser = ENV.parser().max_recursion_depth(depth);
        let (tree, info) =
            parser.parse_with_source_info(source).map_err(|errors| check::parse_error(source, &errors))?;
        let checked = check::check(tree, &info)?;
        let check::Checked { root, references, last_keys, keys, depth } = checked;
        Ok(Self { root, source: source.into(), references, last_keys, keys, shape, depth })
    }

    pub(super) fn prefixes(&self, prefixes: &mut Prefixes) {
        for reference in &self.references {
            let mut node = &mut *prefixes;
            for segment in &reference.path {
                if let Segment::Key(key) = segment {
                    node = node.picked(key);
                }
            }
            if !reference.test {
                node.take_all();
            }
        }
    }

    pub(super) fn last_keys(&self) -> impl Iterator<Item = &str> {
        self.last_keys.iter().map(String::as_str)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    pub(super) fn evaluate<'v, 'a>(
        &'v self,
        root: &'v Value<'a>,
        hiding: Hiding<'v>,
    ) -> Result<Found<'v, 'a>, EvalError> {
        if self.depth <= SHALLOW {
            return self.evaluate_here(root, hiding);
        }
        on_large_stack(|| self.evaluate_here(root, hiding)).unwrap_or(Err(EvalError::NoStack))
    }

    fn evaluate_here<'v, 'a>(&'v self, root: &'v Value<'a>, hiding: Hiding<'v>) -> Result<Found<'v, 'a>, EvalError> {
        let scope = Scope {
            source: &self.source,
            references: &self.references,
            root,
            hiding,
            meter: Meter::default(),
            hidden: AtomicBool::new(false),
        };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&scope);
        let outcome = ::cel::Value::resolve_val(&self.root, &context);
        // Also when an operator such as `||` swallowed the error of a loop that was cut short.
        match scope.meter.overrun() {
            Some(Overrun::Steps) => return Err(EvalError::BudgetExceeded),
            Some(Overrun::Bytes) => return Err(EvalError::TooLarge),
            None => {}
        }
        let value = outcome.map_err(|error| scope.explain(&error))?;
        // Asked before the conversion, which reads all of a map; whoever shows a map applies the rule to its entries.
        let hidden = scope.hidden.load(Ordering::Relaxed);
        let value = convert::to_value(&*value)?;
        // A yes or no only speaks about what was read.
        if hidden && !matches!(value, Value::Null | Value::Bool(_)) {
            return Ok(Found::One(hiding.replacement));
        }
        Ok(match (value, self.shape) {
            (Value::Null, _) => Found::Nothing,
            (list @ Value::List(_), _) => Found::Made(list),
            (value, Shape::List) => Found::Made(Value::List(vec![value])),
            (value, Shape::Any) => Found::Made(value),
        })
    }
}

/// Runs on a thread of its own: what recurses with the depth of an expression may need more than a worker's 2 MiB.
/// `None` when the thread cannot be started, or panics.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("deep-cel".to_owned()).stack_size(LARGE_STACK_BYTES);
        thread.spawn_scoped(scope, work).ok()?.join().ok()
    })
}

/// What an expression sees while it runs.
struct Scope<'v> {
    source: &'v str,
    references: &'v [Reference],
    root: &'v Value<'v>,
    hiding: Hiding<'v>,
    meter: Meter,
    /// Whether a value was read that must not be shown.
    hidden: AtomicBool,
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == check::STEP {
            return self.meter.step().then(|| node::boolean(true));
        }
        if variable == check::METER {
            return Some(CowVal::Borrowed(&self.meter));
        }
        let reference = self.reference(variable)?;
        let found = self.walk(&reference.path);
        if reference.test {
            return match found {
                Ok(_) => Some(node::boolean(true)),
                Err((at, Value::Map(_))) if at + 1 == reference.path.len() => Some(node::boolean(false)),
                Err(_) => None,
            };
        }
        Some(node::view(found.ok()?, self))
    }
}

impl<'v> Scope<'v> {
    fn reference(&self, variable: &str) -> Option<&'v Reference> {
        self.references.get(variable.strip_prefix(check::REFERENCE)?.parse::<usize>().ok()?)
    }

    /// Follows a path; on the way out, how many segments were taken and where it stopped.
    fn walk(&self, path: &[Segment]) -> Result<&'v Value<'v>, (usize, &'v Value<'v>)> {
        let mut value = self.root;
        for (at, segment) in path.iter().enumerate() {
            let next = match (segment, value) {
                (Segment::Key(key), Value::Map(_)) => node::entry(value, key, self),
                (Segment::Index(index), Value::List(items)) => usize::try_from(*index).ok().and_then(|i| items.get(i)),
                _ => None,
            };
            value = next.ok_or((at, value))?;
        }
        Ok(value)
    }

    /// Puts an interpreter's error into words that hold no values of the object. A missing key is named if the expression
    /// names it; else it was made of values.
    fn explain(&self, error: &ExecutionError) -> EvalError {
        match self.cause(error) {
            EvalError::NoSuchKey(key) if !self.source.contains(&key) => {
                EvalError::NoSuchKey("one that is computed".to_owned())
            }
            cause => cause,
        }
    }

    fn cause(&self, error: &ExecutionError) -> EvalError {
        let ExecutionError::UndeclaredReference(name) = error else { return convert::explain(error) };
        let Some(reference) = self.reference(name) else { return convert::explain(error) };
        match self.walk(&reference.path) {
            Err((at, stopped)) => match (reference.path.get(at), stopped) {
                (Some(Segment::Key(key)), Value::Map(_)) => EvalError::NoSuchKey(key.clone()),
                (Some(Segment::Index(_)), Value::List(_)) => EvalError::OutOfBounds,
                (Some(Segment::Index(index)), Value::Map(_)) => EvalError::NoSuchKey(index.to_string()),
                (_, other) => EvalError::NoSuchOverload(format!("selection on {}", node::type_name(other))),
            },
            Ok(_) => convert::explain(error),
        }
    }
}
