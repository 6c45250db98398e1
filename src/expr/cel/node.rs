//! Values of an object as the interpreter sees them: scalars as its own, lists and maps as views.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use ::cel::common::functions::Function;
use ::cel::common::traits::{Adder, Container, Indexer, Iterable, Iterator as ValIterator, Sizer};
use ::cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, DYN_TYPE, Kind, LIST_TYPE, MAP_TYPE, Type,
};
use ::cel::common::value::{CowVal, Val};
use ::cel::{Env, ExecutionError};

use super::meter::Meter;
use super::{Scope, check};
use crate::canonical::Value;

pub(super) fn boolean<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if value { &CelBool::TRUE } else { &CelBool::FALSE })
}

/// Shows a value of the object to the interpreter.
pub(super) fn view<'b, 'v>(value: &'v Value<'v>, scope: &'v Scope<'v>) -> CowVal<'b, 'v> {
    CowVal::Owned(boxed(value, scope))
}

fn boxed<'v>(value: &'v Value<'v>, scope: &'v Scope<'v>) -> Box<dyn Val + 'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Int(value) => Box::new(CelInt::from(*value)),
        Value::UInt(value) => Box::new(CelUInt::from(*value)),
        Value::Float(value) => Box::new(CelDouble::from(*value)),
        Value::Str(text) => Box::new(CelString::from(&**text)),
        Value::List(_) | Value::Map(_) => Box::new(View { value, scope, children: OnceLock::new() }),
    }
}

/// Returns the entry of a map, and remembers when it is a `value` that must not be shown.
pub(super) fn entry<'v>(map: &'v Value<'v>, key: &str, scope: &Scope<'_>) -> Option<&'v Value<'v>> {
    let found = map.get(key)?;
    if key == "value" && scope.hiding.applies(map) {
        scope.hidden.store(true, Ordering::Relaxed);
    }
    Some(found)
}

/// As [`entry`], for keys that the expression may have computed: a plain value under a sensitive one counts too.
fn computed_entry<'v>(map: &'v Value<'v>, key: &str, scope: &Scope<'_>) -> Option<&'v Value<'v>> {
    let found = entry(map, key, scope)?;
    if !matches!(found, Value::Map(_)) && (scope.hiding.hides)(key) {
        scope.hidden.store(true, Ordering::Relaxed);
    }
    Some(found)
}

pub(super) fn type_name(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null_type",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::Str(_) => "string",
        Value::List(_) => "list",
        Value::Map(_) => "map",
    }
}

/// A list or a map of the object.
struct View<'v> {
    value: &'v Value<'v>,
    scope: &'v Scope<'v>,
    /// What a loop walks over: the elements, or the keys in order. Made by the first loop.
    children: OnceLock<Vec<Box<dyn Val + 'v>>>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(type_name(self.value))
    }
}

impl<'v> View<'v> {
    fn children(&self) -> &[Box<dyn Val + 'v>] {
        self.children.get_or_init(|| match self.value {
            Value::List(items) => items.iter().map(|item| boxed(item, self.scope)).collect(),
            Value::Map(map) => map.iter().map(|(key, _)| Box::new(CelString::from(key)) as Box<dyn Val>).collect(),
            _ => Vec::new(),
        })
    }

    fn lookup(&self, index: &dyn Val) -> Result<&'v Value<'v>, ExecutionError> {
        match self.value {
            Value::Map(_) => match index.downcast_ref::<CelString>() {
                Some(key) => computed_entry(self.value, key.inner(), self.scope)
                    .ok_or_else(|| ExecutionError::no_such_key(key.inner())),
                None if matches!(index.get_type().kind(), Kind::Int | Kind::UInt | Kind::Double | Kind::Boolean) => {
                    Err(ExecutionError::no_such_key("that is not text"))
                }
                None => Err(mismatch(index, "map key")),
            },
            Value::List(items) => position(index)?
                .and_then(|at| items.get(at))
                .ok_or(ExecutionError::IndexOutOfBounds(::cel::Value::Null)),
            _ => Err(mismatch(index, "index")),
        }
    }
}

fn mismatch(value: &dyn Val, want: &str) -> ExecutionError {
    ExecutionError::UnexpectedType { got: value.get_type().name().to_owned(), want: want.to_owned() }
}

/// Reads an index; `Err` for what counts nothing, `None` for a number that no list has.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers below 2^53 are checked for")]
fn position(index: &dyn Val) -> Result<Option<usize>, ExecutionError> {
    if let Some(index) = index.downcast_ref::<CelInt>() {
        return Ok(usize::try_from(*index.inner()).ok());
    }
    if let Some(index) = index.downcast_ref::<CelUInt>() {
        return Ok(usize::try_from(*index.inner()).ok());
    }
    match index.downcast_ref::<CelDouble>().map(|index| *index.inner()) {
        Some(index) if index.fract() == 0.0 => Ok((0.0..9e15).contains(&index).then_some(index as usize)),
        _ => Err(mismatch(index, "list index")),
    }
}

impl Val for View<'_> {
    fn get_type(&self) -> &Type {
        if matches!(self.value, Value::Map(_)) { &MAP_TYPE } else { &LIST_TYPE }
    }

    fn cel_type() -> &'static Type {
        &DYN_TYPE
    }

    fn as_adder<'b, 'w>(&'b self) -> Option<&'b (dyn Adder + 'w)>
    where
        Self: 'w,
    {
        matches!(self.value, Value::List(_)).then_some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        equal(self, other)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(View { value: self.value, scope: self.scope, children: OnceLock::new() })
    }
}

impl Adder for View<'_> {
    fn add<'b, 'w>(&'b self, other: &(dyn Val + 'w)) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let mut others = match other.as_iterable() {
            Some(list) if other.get_type().kind() == Kind::List => list.iter(),
            _ => return Err(mismatch(other, "list")),
        };
        let mut all: Vec<Box<dyn Val + 'w>> = self.children().iter().map(|child| child.clone_as_boxed()).collect();
        while let Some(other) = others.next() {
            all.push(other.clone_as_boxed());
        }
        Ok(CowVal::owned(CelList::from(all)))
    }
}

impl Container for View<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        match self.value {
            Value::List(_) => Ok(self.children().iter().any(|child| equal(child.as_ref(), value))),
            map => Ok(value.downcast_ref::<CelString>().is_some_and(|key| map.get(key.inner()).is_some())),
        }
    }
}

impl Indexer for View<'_> {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        Ok(view(self.lookup(index)?, self.scope))
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        Ok(boxed(self.lookup(index)?, self.scope))
    }
}

impl Iterable for View<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn ValIterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Children(self.children().iter()))
    }
}

struct Children<'b, 'v>(std::slice::Iter<'b, Box<dyn Val + 'v>>);

impl<'b, 'v: 'w, 'w> ValIterator<'b, 'w> for Children<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        let child = self.0.next()?;
        Some(child.as_ref())
    }
}

impl Sizer for View<'_> {
    fn size(&self) -> CelInt {
        let size = match self.value {
            Value::List(items) => items.len(),
            Value::Map(map) => map.len(),
            _ => 0,
        };
        CelInt::from(i64::try_from(size).unwrap_or(i64::MAX))
    }
}

/// Compares by structure, whether a list or map is a view or was made by the expression.
fn equal(left: &dyn Val, right: &dyn Val) -> bool {
    let (kind, other) = (left.get_type().kind(), right.get_type().kind());
    let nests = |kind: Kind| matches!(kind, Kind::List | Kind::Map);
    if !nests(kind) && !nests(other) {
        return left.equals(right);
    }
    // Never by `equals` of a view, which asks here again.
    if kind != other {
        return false;
    }
    let sizes = left.as_sizer().zip(right.as_sizer());
    if sizes.is_none_or(|(left, right)| left.size().inner() != right.size().inner()) {
        return false;
    }
    let (Some(lefts), Some(rights)) = (left.as_iterable(), right.as_iterable()) else { return false };
    let mut keys = lefts.iter();
    if kind == Kind::List {
        let mut others = rights.iter();
        while let (Some(item), Some(other)) = (keys.next(), others.next()) {
            if !equal(item, other) {
                return false;
            }
        }
        return true;
    }
    let (Some(left), Some(right)) = (left.as_indexer(), right.as_indexer()) else { return false };
    while let Some(key) = keys.next() {
        let (Ok(item), Ok(other)) = (left.get(key), right.get(key)) else { return false };
        if !equal(&*item, &*other) {
            return false;
        }
    }
    true
}

/// Declares the functions that [`check`] puts in the place of operators. Their names cannot be written in CEL.
pub(super) fn declare(env: &mut Env) {
    let functions: [(&str, usize, Function); 5] = [
        (check::EQUAL, 2, |args| match args.as_slice() {
            [left, right] => Ok(boolean(equal(&**left, &**right))),
            _ => Err(ExecutionError::missing_argument_or_target()),
        }),
        (check::WITHIN, 2, |args| match args.as_slice() {
            [item, list] => within(&**item, &**list).map(boolean),
            _ => Err(ExecutionError::missing_argument_or_target()),
        }),
        (check::PRESENT, 2, |args| match args.as_slice() {
            [map, key] if map.get_type().kind() == Kind::Map => within(&**key, &**map).map(boolean),
            [map, _] => Err(mismatch(&**map, "map")),
            _ => Err(ExecutionError::missing_argument_or_target()),
        }),
        (check::CHARGED, 2, |mut args| match (args.pop(), args.pop()) {
            (Some(value), Some(meter)) => match meter.downcast_ref::<Meter>() {
                Some(meter) if meter.charge(&*value) => Ok(value),
                _ => Err(ExecutionError::function_error("+", "too large")),
            },
            _ => Err(ExecutionError::missing_argument_or_target()),
        }),
        (check::SORTED, 1, |mut args| match args.pop() {
            Some(map) if map.get_type().kind() == Kind::Map => Ok(CowVal::owned(CelList::from(sorted_keys(&*map)))),
            Some(list) => Ok(list),
            None => Err(ExecutionError::missing_argument_or_target()),
        }),
    ];
    for (name, arity, function) in functions {
        let types = (0..arity).map(|_| DYN_TYPE).collect();
        let declared = env.add_overload(name, name, types, function);
        debug_assert!(declared.is_ok(), "each name is declared once: {declared:?}");
    }
}

fn within(item: &dyn Val, container: &dyn Val) -> Result<bool, ExecutionError> {
    if container.get_type().kind() == Kind::List
        && let Some(list) = container.as_iterable()
    {
        let mut items = list.iter();
        while let Some(other) = items.next() {
            if equal(other, item) {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    container.as_container().ok_or_else(|| mismatch(container, "list or map"))?.contains(item)
}

/// Returns the keys of a map in the order of their text.
pub(super) fn sorted_keys<'v>(map: &(dyn Val + 'v)) -> Vec<Box<dyn Val + 'v>> {
    let mut keys = Vec::new();
    if let Some(iterable) = map.as_iterable() {
        let mut iterator = iterable.iter();
        while let Some(key) = iterator.next() {
            keys.push((key_text(key), key.clone_as_boxed()));
        }
    }
    keys.sort_by(|(left, _), (right, _)| left.cmp(right));
    keys.into_iter().map(|(_, key)| key).collect()
}

/// Returns a map key as the JSON key that it becomes.
pub(super) fn key_text(key: &dyn Val) -> String {
    if let Some(text) = key.downcast_ref::<CelString>() {
        return text.inner().to_owned();
    }
    if let Some(number) = key.downcast_ref::<CelInt>() {
        return number.inner().to_string();
    }
    if let Some(number) = key.downcast_ref::<CelUInt>() {
        return number.inner().to_string();
    }
    key.downcast_ref::<CelBool>().map(|value| value.inner().to_string()).unwrap_or_default()
}
