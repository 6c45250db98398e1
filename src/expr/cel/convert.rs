//! From the interpreter's values and errors to ours.

use ::cel::ExecutionError;
use ::cel::common::types::{
    CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelString, CelTimestamp, CelType, CelUInt, Kind,
};
use ::cel::common::value::{FromVal, Val};

use super::{RESULT_LIMIT_BYTES, check, node};
use crate::canonical::{Map, Value};
use crate::expr::EvalError;

/// Copies a result into plain JSON values.
pub(super) fn to_value<'a>(result: &dyn Val) -> Result<Value<'a>, EvalError> {
    Converter { left: RESULT_LIMIT_BYTES }.value(result)
}

struct Converter {
    /// Bytes that the result may still take.
    left: usize,
}

impl Converter {
    fn spend(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.left = self.left.checked_sub(bytes).ok_or(EvalError::TooLarge)?;
        Ok(())
    }

    fn text<'a>(&mut self, text: impl Into<String> + AsRef<str>) -> Result<Value<'a>, EvalError> {
        self.spend(text.as_ref().len())?;
        Ok(Value::Str(text.into().into()))
    }

    fn value<'a>(&mut self, result: &dyn Val) -> Result<Value<'a>, EvalError> {
        self.spend(1)?;
        match result.get_type().kind() {
            Kind::NullType => Ok(Value::Null),
            Kind::Boolean => Ok(Value::Bool(*known::<CelBool>(result)?.inner())),
            Kind::Int => Ok(Value::Int(*known::<CelInt>(result)?.inner())),
            Kind::UInt => {
                let number = *known::<CelUInt>(result)?.inner();
                Ok(i64::try_from(number).map_or(Value::UInt(number), Value::Int))
            }
            Kind::Double => {
                let number = *known::<CelDouble>(result)?.inner();
                if number.is_finite() { Ok(Value::Float(number)) } else { Err(EvalError::NotFinite) }
            }
            Kind::String => self.text(known::<CelString<'_>>(result)?.inner()),
            Kind::Bytes => self.text(base64(known::<CelBytes<'_>>(result)?.inner())),
            Kind::Duration => {
                let nanoseconds = known::<CelDuration>(result)?.inner().num_nanoseconds();
                nanoseconds.map(Value::Int).ok_or(EvalError::Overflow)
            }
            Kind::Timestamp => {
                let time = known::<CelTimestamp>(result)?.inner();
                let nanoseconds = i32::try_from(time.timestamp_subsec_nanos()).map_err(|_| EvalError::Overflow)?;
                let time = jiff::Timestamp::new(time.timestamp(), nanoseconds).map_err(|_| EvalError::Overflow)?;
                self.text(time.to_string())
            }
            Kind::Type => self.text(known::<CelType>(result)?.name()),
            Kind::List => self.list(result),
            Kind::Map => self.map(result),
            _ => Err(no_form(result)),
        }
    }

    fn list<'a>(&mut self, result: &dyn Val) -> Result<Value<'a>, EvalError> {
        let mut elements = result.as_iterable().ok_or_else(|| no_form(result))?.iter();
        let mut items = Vec::new();
        while let Some(element) = elements.next() {
            items.push(self.value(element)?);
        }
        Ok(Value::List(items))
    }

    fn map<'a>(&mut self, result: &dyn Val) -> Result<Value<'a>, EvalError> {
        let indexer = result.as_indexer().ok_or_else(|| no_form(result))?;
        let mut keys = result.as_iterable().ok_or_else(|| no_form(result))?.iter();
        let mut entries = Vec::new();
        while let Some(key) = keys.next() {
            let item = indexer.get(key).map_err(|error| explain(&error))?;
            let key = node::key_text(key);
            self.spend(key.len())?;
            entries.push((key.into(), self.value(&*item)?));
        }
        Ok(Value::Map(Map::new(entries)))
    }
}

fn known<'b, 'v, T: FromVal<'b, 'v>>(value: &'b (dyn Val + 'v)) -> Result<&'b T, EvalError> {
    value.downcast_ref::<T>().ok_or_else(|| no_form(value))
}

fn no_form(value: &dyn Val) -> EvalError {
    EvalError::NoJsonForm(value.get_type().name().to_owned())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let index = (group >> (18 - 6 * digit) & 63) as usize;
            text.push(if shown { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

/// Puts an error of the interpreter into words that hold no values of the object.
pub(super) fn explain(error: &ExecutionError) -> EvalError {
    match error {
        ExecutionError::NoSuchKey(key) => EvalError::NoSuchKey(key.to_string()),
        ExecutionError::IndexOutOfBounds(_) => EvalError::OutOfBounds,
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => EvalError::DivisionByZero,
        ExecutionError::Overflow(..) => EvalError::Overflow,
        ExecutionError::NoSuchOverload(overload) => {
            EvalError::NoSuchOverload(format!("{}({})", overload.function(), overload.argument_types().join(", ")))
        }
        ExecutionError::UnsupportedBinaryOperator(operator, ..) => EvalError::NoSuchOverload((*operator).to_owned()),
        ExecutionError::UndeclaredReference(name) if name.as_str() == check::STEP => EvalError::BudgetExceeded,
        ExecutionError::FunctionError { function, .. } => EvalError::Function(function.clone()),
        ExecutionError::UnexpectedType { got, want } => EvalError::NoSuchOverload(format!("got {got}, want {want}")),
        ExecutionError::DuplicateKey(_) => EvalError::Function("a map literal with one key twice".to_owned()),
        ExecutionError::UnsupportedIndex(..) => EvalError::NoSuchOverload("_[_]".to_owned()),
        ExecutionError::UnsupportedKeyType(_) => EvalError::NoSuchOverload("map key".to_owned()),
        ExecutionError::ValuesNotComparable(..) => EvalError::NoSuchOverload("comparison".to_owned()),
        _ => EvalError::Function("an operator or function".to_owned()),
    }
}
