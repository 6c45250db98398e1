//! JSONPath in the manner of kubectl: literal text with `{…}` actions, of which the first yields the value.
//!
//! ```text
//! $.metadata.name          {.metadata.name}          {['metadata']['name']}
//! $.labels['app.kubernetes.io/name']                 $.labels.app\.kubernetes\.io/name
//! $.containers[*].image    $.containers[-1].image    $.containers[0,2].image    $.containers[1:].image
//! $.conditions[?(@.type=="Ready")].status            $..image                   $.labels.*
//! ```
//!
//! Where kubectl and earlier releases surprise, this does not (D18): a quoted key is literal, in either kind of quotes,
//! with `\.` still understood; an index outside a list is "no value"; maps are walked in the order of their keys; a path
//! that could only ever yield its own text is refused.

mod parse;

use std::cell::Cell;
use std::cmp::Ordering;

use super::{CompileError, EvalError, Found, Hiding, Prefixes, Shape};
use crate::canonical::Value;

/// Values that one evaluation may visit, each as often as it is: several times what an object of the API server holds.
/// `..` behind `..`, unions of one key and filters in filters would multiply without an end.
pub const BUDGET_VALUES: usize = 1_000_000;

/// A compiled path.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
    shape: Shape,
}

/// One `{…}`; the text between is dropped, for it can never be the value.
#[derive(Debug, PartialEq)]
enum Node {
    Action(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(Box<str>),
    Index(i64),
    Slice(Slice),
    /// `.*`, over a list or a map; `[*]` is a slice.
    Wildcard,
    Recursive,
    /// Members in listed order, each over all inputs.
    Union(Vec<Step>),
    Filter(Box<Filter>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    step: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    /// `None` asks whether `left` exists.
    test: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value<'static>),
}

impl Template {
    /// Compiles a path that is trimmed and not empty.
    pub(super) fn compile(text: &str, shape: Shape) -> Result<Self, CompileError> {
        Ok(Self { nodes: parse::template(text)?, shape })
    }

    pub(super) fn prefixes(&self, prefixes: &mut Prefixes) {
        want_nodes(&self.nodes, prefixes);
    }

    /// Calls back with the keys that the first action ends with.
    pub(super) fn last_keys(&self, each: &mut dyn FnMut(&str)) {
        let mut node = self.nodes.first();
        while let Some(current) = node {
            match current {
                Node::Action(steps) => return last_keys(steps, each),
                Node::Range(steps, body) => {
                    last_keys(steps, each); // for a body of `{@}`
                    node = body.first();
                }
            }
        }
    }

    /// Calls back with each key that is written in the path.
    pub(super) fn keys(&self, each: &mut dyn FnMut(&str)) {
        keys_of_nodes(&self.nodes, each);
    }

    pub(super) fn evaluate<'v, 'a>(
        &'v self,
        root: &'v Value<'a>,
        hiding: Hiding<'v>,
    ) -> Result<Found<'v, 'a>, EvalError> {
        let left = Cell::new(BUDGET_VALUES);
        evaluate_nodes(&self.nodes, root, self.shape, Walk { hiding, left: &left })
    }
}

/// What goes along with one evaluation.
#[derive(Clone, Copy)]
struct Walk<'v, 'b> {
    hiding: Hiding<'v>,
    /// Values that may still be visited.
    left: &'b Cell<usize>,
}

impl<'b> Walk<'_, 'b> {
    fn visit(self, values: usize) -> Result<(), EvalError> {
        self.left.set(self.left.get().checked_sub(values).ok_or(EvalError::TooManyValues)?);
        Ok(())
    }

    /// Filters compare what is there; only what they let through is shown.
    fn unhidden(self) -> Walk<'static, 'b> {
        Walk { hiding: Hiding::NOTHING, left: self.left }
    }
}

fn keys_of_nodes(nodes: &[Node], each: &mut dyn FnMut(&str)) {
    for node in nodes {
        match node {
            Node::Action(steps) => keys_of(steps, each),
            Node::Range(steps, body) => {
                keys_of(steps, each);
                keys_of_nodes(body, each);
            }
        }
    }
}

fn keys_of(steps: &[Step], each: &mut dyn FnMut(&str)) {
    for step in steps {
        match step {
            Step::Field(key) => each(key),
            Step::Union(members) => keys_of(members, each),
            Step::Filter(filter) => {
                for operand in std::iter::once(&filter.left).chain(filter.test.as_ref().map(|(_, right)| right)) {
                    if let Operand::Path(path) = operand {
                        keys_of(path, each);
                    }
                }
            }
            Step::Index(_) | Step::Slice(_) | Step::Wildcard | Step::Recursive => {}
        }
    }
}

/// The last key picks the value; `[0]`, `.*` and their like behind it pick from what is under the same key.
fn last_keys(steps: &[Step], each: &mut dyn FnMut(&str)) {
    match steps.iter().rev().find(|step| matches!(step, Step::Field(_) | Step::Union(_))) {
        Some(Step::Field(key)) => each(key),
        Some(Step::Union(members)) => members.iter().for_each(|member| last_keys(std::slice::from_ref(member), each)),
        _ => {}
    }
}

fn want_nodes(nodes: &[Node], prefixes: &mut Prefixes) {
    for node in nodes {
        match node {
            Node::Action(steps) => want(steps, prefixes, &mut Prefixes::take_all),
            Node::Range(steps, body) => want(steps, prefixes, &mut |element| want_nodes(body, element)),
        }
    }
}

/// Walks to where the steps end and lets `end` say what it wants there.
fn want(steps: &[Step], prefixes: &mut Prefixes, end: &mut dyn FnMut(&mut Prefixes)) {
    let Some((step, rest)) = steps.split_first() else { return end(prefixes) };
    match step {
        Step::Field(key) => want(rest, prefixes.picked(key), end),
        Step::Index(_) | Step::Slice(_) => want(rest, prefixes, end),
        Step::Wildcard | Step::Recursive => prefixes.take_all(),
        Step::Union(members) => {
            // Unions behind unions would multiply; what is below the second is taken whole.
            let nested = rest.iter().any(|step| matches!(step, Step::Union(_)));
            for member in members {
                match member {
                    Step::Field(key) if nested => prefixes.picked(key).take_all(),
                    Step::Field(key) => want(rest, prefixes.picked(key), end),
                    _ if nested => prefixes.take_all(),
                    _ => want(rest, prefixes, end),
                }
            }
        }
        Step::Filter(filter) => {
            let right = filter.test.as_ref().map(|(_, right)| right);
            for operand in [Some(&filter.left), right].into_iter().flatten() {
                if let Operand::Path(path) = operand {
                    want(path, prefixes, &mut Prefixes::take_all);
                }
            }
            want(rest, prefixes, end);
        }
    }
}

fn evaluate_nodes<'v, 'a>(
    nodes: &'v [Node],
    root: &'v Value<'a>,
    shape: Shape,
    walk: Walk<'v, '_>,
) -> Result<Found<'v, 'a>, EvalError> {
    let mut first = None;
    for node in nodes {
        let found = match node {
            Node::Action(steps) => evaluate_steps(steps, root, shape, walk)?,
            // Only the first turn can yield the value.
            Node::Range(steps, body) => match matches_of(steps, root, walk)?.and_then(|all| all.into_iter().next()) {
                Some(element) => evaluate_nodes(body, element, shape, walk)?,
                None => Found::Nothing,
            },
        };
        if matches!(found, Found::Nothing) {
            return Ok(Found::Nothing);
        }
        first.get_or_insert(found);
    }
    Ok(first.unwrap_or(Found::Nothing))
}

fn evaluate_steps<'v, 'a>(
    steps: &'v [Step],
    root: &'v Value<'a>,
    shape: Shape,
    walk: Walk<'v, '_>,
) -> Result<Found<'v, 'a>, EvalError> {
    if is_definite(steps) {
        let Some(value) = pick(steps, root, walk.hiding)? else { return Ok(Found::Nothing) };
        return Ok(match value {
            Value::Null => Found::Nothing,
            Value::List(_) => Found::One(value),
            _ if shape == Shape::List => Found::Many(vec![value]),
            _ => Found::One(value),
        });
    }
    let matches = matches_of(steps, root, walk)?;
    Ok(match (matches, shape) {
        (None, Shape::Any) => Found::Nothing,
        (None, Shape::List) => Found::Many(Vec::new()),
        (Some(all), Shape::List) => Found::Many(all),
        (Some(all), Shape::Any) => match all.as_slice() {
            [] | [Value::Null] => Found::Nothing,
            [one] => Found::One(one),
            _ => Found::Many(all),
        },
    })
}

/// Tells whether the steps pick at most one value; the usual path does, and needs no list of matches.
fn is_definite(steps: &[Step]) -> bool {
    steps.iter().all(|step| matches!(step, Step::Field(_) | Step::Index(_)))
}

fn pick<'v, 'a>(
    steps: &'v [Step],
    root: &'v Value<'a>,
    hiding: Hiding<'v>,
) -> Result<Option<&'v Value<'a>>, EvalError> {
    let mut value = root;
    for (at, step) in steps.iter().enumerate() {
        let next = match step {
            Step::Field(key) => field(value, key, steps.get(at + 1..).unwrap_or_default(), hiding),
            Step::Index(index) => list(value)?.and_then(|items| item(items, *index)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// Picks by name. What is hidden is replaced where the path ends, and not entered before.
fn field<'v, 'a>(value: &'v Value<'a>, key: &str, rest: &[Step], hiding: Hiding<'v>) -> Option<&'v Value<'a>> {
    let found = value.get(key)?;
    if key == "value" && hiding.applies(value) {
        return rest.is_empty().then_some(hiding.replacement);
    }
    Some(found)
}

/// Returns all that the steps match, in order; `None` when the path as a whole has no value.
fn matches_of<'v, 'a>(
    steps: &'v [Step],
    root: &'v Value<'a>,
    walk: Walk<'v, '_>,
) -> Result<Option<Vec<&'v Value<'a>>>, EvalError> {
    let mut current = vec![root];
    let mut next = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let rest = steps.get(at + 1..).unwrap_or_default();
        if !advance(step, rest, &current, &mut next, walk)? || next.is_empty() {
            return Ok(None);
        }
        std::mem::swap(&mut current, &mut next);
        next.clear();
    }
    Ok(Some(current))
}

/// Takes one step from each input. Returns `false` when the whole path has no value, whatever the other inputs have.
fn advance<'v, 'a>(
    step: &'v Step,
    rest: &[Step],
    inputs: &[&'v Value<'a>],
    out: &mut Vec<&'v Value<'a>>,
    walk: Walk<'v, '_>,
) -> Result<bool, EvalError> {
    let hiding = walk.hiding;
    if let Step::Union(members) = step {
        for member in members {
            let before = out.len();
            if !advance(member, rest, inputs, out, walk)? || out.len() == before {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for &input in inputs {
        let before = out.len();
        match step {
            Step::Field(key) => out.extend(field(input, key, rest, hiding)),
            Step::Index(index) => out.extend(list(input)?.and_then(|items| item(items, *index))),
            Step::Slice(slice) => {
                if let Some(items) = list(input)? {
                    cut(items, *slice, out);
                }
            }
            Step::Wildcard => match input {
                Value::List(items) => out.extend(items),
                Value::Map(map) => {
                    for (key, _) in map.iter() {
                        if !(hiding.hides)(key) {
                            out.extend(field(input, key, rest, hiding));
                        } else if rest.is_empty() {
                            out.push(hiding.replacement);
                        }
                    }
                }
                Value::Str(_) => return Err(EvalError::NoElements("string")),
                _ => {}
            },
            Step::Recursive => descend(input, walk, out)?,
            Step::Filter(filter) => {
                let elements = list(input)?.unwrap_or_default();
                walk.visit(elements.len())?;
                for element in elements {
                    match filter.keeps(element, walk.unhidden())? {
                        Some(true) => out.push(element),
                        Some(false) => {}
                        None => return Ok(false),
                    }
                }
            }
            Step::Union(_) => {}
        }
        walk.visit(out.len() - before)?;
    }
    Ok(true)
}

/// Returns the elements of a list, none of null, and an error for what has no elements to choose from.
fn list<'v, 'a>(value: &'v Value<'a>) -> Result<Option<&'v [Value<'a>]>, EvalError> {
    match value {
        Value::List(items) => Ok(Some(items)),
        Value::Null => Ok(None),
        Value::Map(_) => Err(EvalError::NotAList("map")),
        Value::Str(_) => Err(EvalError::NotAList("string")),
        Value::Bool(_) => Err(EvalError::NotAList("bool")),
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => Err(EvalError::NotAList("number")),
    }
}

/// Counts from the end when negative.
fn position(length: usize, index: i64) -> Option<usize> {
    let back = usize::try_from(index.unsigned_abs()).ok()?;
    if index < 0 { length.checked_sub(back) } else { Some(back) }
}

fn item<'v, 'a>(items: &'v [Value<'a>], index: i64) -> Option<&'v Value<'a>> {
    items.get(position(items.len(), index)?)
}

/// A bound outside the list is an index outside the list: no value.
fn cut<'v, 'a>(items: &'v [Value<'a>], slice: Slice, out: &mut Vec<&'v Value<'a>>) {
    let start = slice.start.map_or(Some(0), |start| position(items.len(), start));
    let end = slice.end.map_or(Some(items.len()), |end| position(items.len(), end));
    if let (Some(start), Some(end)) = (start, end)
        && let Some(part) = items.get(start..end)
    {
        out.extend(part.iter().step_by(slice.step));
    }
}

/// Adds the value and everything below it that has elements, parents first; what is hidden is not entered.
fn descend<'v, 'a>(value: &'v Value<'a>, walk: Walk<'v, '_>, out: &mut Vec<&'v Value<'a>>) -> Result<(), EvalError> {
    match value {
        Value::List(items) if !items.is_empty() => {
            walk.visit(items.len())?;
            out.push(value);
            for item in items {
                descend(item, walk, out)?;
            }
        }
        Value::Map(map) if !map.is_empty() => {
            walk.visit(map.len())?;
            out.push(value);
            let hides_value = walk.hiding.applies(value);
            for (key, item) in map.iter() {
                let hidden = (walk.hiding.hides)(key) || (hides_value && key == "value");
                if !hidden {
                    descend(item, walk, out)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

impl Filter {
    /// Tells whether the element stays; `None` when a side of the comparison is missing.
    fn keeps(&self, element: &Value<'_>, walk: Walk<'static, '_>) -> Result<Option<bool>, EvalError> {
        let Some((comparison, right)) = &self.test else {
            return Ok(Some(match &self.left {
                Operand::Path(path) if is_definite(path) => pick(path, element, Hiding::NOTHING)?.is_some(),
                Operand::Path(path) => matches_of(path, element, walk)?.is_some(),
                Operand::Literal(_) => true,
            }));
        };
        let (Some(left), Some(right)) = (self.left.resolve(element, walk)?, right.resolve(element, walk)?) else {
            return Ok(None);
        };
        comparison.holds(left, right).map(Some)
    }
}

impl Operand {
    fn resolve<'v, 'a>(
        &'v self,
        element: &'v Value<'a>,
        walk: Walk<'static, '_>,
    ) -> Result<Option<&'v Value<'a>>, EvalError> {
        match self {
            Self::Literal(value) => Ok(Some(value)),
            Self::Path(path) if is_definite(path) => pick(path, element, Hiding::NOTHING),
            Self::Path(path) => match matches_of(path, element, walk)?.as_deref() {
                None | Some([]) => Ok(None),
                Some([one]) => Ok(Some(one)),
                Some(_) => Err(EvalError::ManyToCompare),
            },
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Result<bool, EvalError> {
        let order = match (left, right) {
            (Value::Str(left), Value::Str(right)) => left.cmp(right),
            (Value::Int(left), Value::Int(right)) => left.cmp(right),
            (Value::UInt(left), Value::UInt(right)) => left.cmp(right),
            (Value::UInt(_), Value::Int(_)) => Ordering::Greater,
            (Value::Int(_), Value::UInt(_)) => Ordering::Less,
            (Value::Float(left), Value::Float(right)) => left.partial_cmp(right).ok_or(EvalError::Incompatible)?,
            // Booleans have no order, only equality.
            (Value::Bool(left), Value::Bool(right)) if matches!(self, Self::Equal | Self::NotEqual) => left.cmp(right),
            _ => return Err(EvalError::Incompatible),
        };
        Ok(match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        })
    }
}
