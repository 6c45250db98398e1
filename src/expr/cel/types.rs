//! Static types: what the operators and functions of the standard library take and yield.
//!
//! Values of the object are [`Ty::Dyn`], so most of an expression is only known when it runs. What the text alone shows
//! to be impossible is refused at compile time, as a type-checking CEL would.

use ::cel::common::ast::{LiteralValue, operators};

/// The static type of an expression, as far as the tree shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ty {
    Dyn,
    Null,
    Bool,
    Int,
    UInt,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List,
    Map,
    Type,
}

impl Ty {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dyn => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::UInt => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::List => "list",
            Self::Map => "map",
            Self::Type => "type",
        }
    }

    /// Tells whether a value of this type may be one of those.
    pub(super) fn may_be(self, types: &[Ty]) -> bool {
        self == Self::Dyn || types.contains(&self)
    }

    pub(super) fn is_scalar(self) -> bool {
        !matches!(self, Self::Dyn | Self::List | Self::Map)
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::UInt | Self::Double)
    }
}

/// Returns the type of a literal.
pub(super) fn literal_type(literal: &LiteralValue) -> Ty {
    match literal {
        LiteralValue::Boolean(_) => Ty::Bool,
        LiteralValue::Bytes(_) => Ty::Bytes,
        LiteralValue::Double(_) => Ty::Double,
        LiteralValue::Int(_) => Ty::Int,
        LiteralValue::Null => Ty::Null,
        LiteralValue::String(_) => Ty::String,
        LiteralValue::UInt(_) => Ty::UInt,
    }
}

/// Returns the type of a call, or what is wrong with it. A method's target is the first of the types.
pub(super) fn result_type(function: &str, is_method: bool, types: &[Ty]) -> Result<Ty, String> {
    let result = match (function, is_method, types) {
        (operators::CONDITIONAL, false, [condition, yes, no]) => {
            condition.may_be(&[Ty::Bool]).then(|| branches(*yes, *no)).flatten()
        }
        (operators::LOGICAL_AND | operators::LOGICAL_OR, false, [left, right]) => {
            (left.may_be(&[Ty::Bool]) && right.may_be(&[Ty::Bool])).then_some(Ty::Bool)
        }
        (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, false, [operand]) => {
            operand.may_be(&[Ty::Bool]).then_some(Ty::Bool)
        }
        (operators::NEGATE, false, [operand]) => operand.may_be(&[Ty::Int, Ty::Double]).then_some(*operand),
        (
            operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO,
            false,
            [left, right],
        ) => arithmetic(function, *left, *right),
        (operators::EQUALS | operators::NOT_EQUALS, false, [left, right]) => {
            let alike = left == right || (left.is_number() && right.is_number());
            (alike || [*left, *right].iter().any(|ty| matches!(ty, Ty::Dyn | Ty::Null))).then_some(Ty::Bool)
        }
        (
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
            false,
            [left, right],
        ) => {
            const ORDERED: [Ty; 8] =
                [Ty::Bool, Ty::Int, Ty::UInt, Ty::Double, Ty::String, Ty::Bytes, Ty::Timestamp, Ty::Duration];
            let alike = left == right || (left.is_number() && right.is_number());
            let either = *left == Ty::Dyn || *right == Ty::Dyn;
            (left.may_be(&ORDERED) && right.may_be(&ORDERED) && (alike || either)).then_some(Ty::Bool)
        }
        (operators::IN, false, [_, right]) => right.may_be(&[Ty::List, Ty::Map]).then_some(Ty::Bool),
        (operators::INDEX, false, [operand, index]) => {
            let keyed =
                operand.may_be(&[Ty::Map]) && index.may_be(&[Ty::String, Ty::Int, Ty::UInt, Ty::Bool, Ty::Double]);
            let counted = operand.may_be(&[Ty::List]) && index.may_be(&[Ty::Int, Ty::UInt, Ty::Double]);
            (keyed || counted).then_some(Ty::Dyn)
        }
        ("size", _, [operand]) => operand.may_be(&[Ty::String, Ty::Bytes, Ty::List, Ty::Map]).then_some(Ty::Int),
        ("contains" | "startsWith" | "endsWith", true, [left, right]) | ("matches", _, [left, right]) => {
            (left.may_be(&[Ty::String]) && right.may_be(&[Ty::String])).then_some(Ty::Bool)
        }
        ("dyn", false, [_]) => Some(Ty::Dyn),
        ("type", false, [_]) => Some(Ty::Type),
        (_, false, [operand]) => match conversion(function) {
            Some((result, from)) => operand.may_be(from).then_some(result),
            None => return Err(unknown(function, is_method)),
        },
        (_, true, [operand, zone @ ..]) if zone.len() <= 1 => {
            let duration = matches!(function, "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds");
            let date = matches!(
                function,
                "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getFullYear" | "getMonth"
            );
            if !duration && !date {
                return Err(unknown(function, is_method));
            }
            let of_time = operand.may_be(&[Ty::Timestamp]) && zone.iter().all(|zone| zone.may_be(&[Ty::String]));
            let of_span = duration && zone.is_empty() && operand.may_be(&[Ty::Duration]);
            (of_time || of_span).then_some(Ty::Int)
        }
        _ => return Err(unknown(function, is_method)),
    };
    result.ok_or_else(|| {
        let names: Vec<_> = types.iter().map(|ty| ty.name()).collect();
        format!("no such overload: {function}({})", names.join(", "))
    })
}

fn unknown(function: &str, is_method: bool) -> String {
    const KNOWN: [&str; 5] = ["size", "contains", "startsWith", "endsWith", "matches"];
    if KNOWN.contains(&function) || conversion(function).is_some() || matches!(function, "dyn" | "type") {
        return format!(
            "wrong number of arguments to {function}, or not called as a {}",
            if is_method { "function" } else { "method" }
        );
    }
    format!("unknown function {function:?}; only the standard library of CEL is available")
}

/// The branches of a ternary have one type; `null` goes with any, for it is "no value".
fn branches(yes: Ty, no: Ty) -> Option<Ty> {
    match (yes, no) {
        _ if yes == no => Some(yes),
        (Ty::Dyn | Ty::Null, _) | (_, Ty::Dyn | Ty::Null) => Some(Ty::Dyn),
        _ => None,
    }
}

fn arithmetic(operator: &str, left: Ty, right: Ty) -> Option<Ty> {
    use Ty::{Bytes, Double, Duration, Dyn, Int, List, String, Timestamp, UInt};
    const NUMBERS: &[(Ty, Ty, Ty)] = &[(Int, Int, Int), (UInt, UInt, UInt), (Double, Double, Double)];
    const SUMS: &[(Ty, Ty, Ty)] = &[
        (String, String, String),
        (Bytes, Bytes, Bytes),
        (List, List, List),
        (Timestamp, Duration, Timestamp),
        (Duration, Timestamp, Timestamp),
        (Duration, Duration, Duration),
    ];
    const DIFFERENCES: &[(Ty, Ty, Ty)] =
        &[(Timestamp, Duration, Timestamp), (Timestamp, Timestamp, Duration), (Duration, Duration, Duration)];
    let more: &[(Ty, Ty, Ty)] = match operator {
        operators::ADD => SUMS,
        operators::SUBSTRACT => DIFFERENCES,
        _ => &[],
    };
    let numbers = if operator == operators::MODULO { &NUMBERS[..2] } else { NUMBERS };
    let mut results = numbers
        .iter()
        .chain(more)
        .filter(|(a, b, _)| (left == Dyn || left == *a) && (right == Dyn || right == *b))
        .map(|(_, _, result)| *result);
    let first = results.next()?;
    Some(if results.all(|other| other == first) { first } else { Dyn })
}

/// Returns what a conversion yields, and from what.
fn conversion(function: &str) -> Option<(Ty, &'static [Ty])> {
    use Ty::{Bool, Bytes, Double, Duration, Int, String, Timestamp, UInt};
    Some(match function {
        "int" => (Int, &[Int, UInt, Double, String, Timestamp]),
        "uint" => (UInt, &[Int, UInt, Double, String]),
        "double" => (Double, &[Int, UInt, Double, String]),
        "string" => (String, &[Bool, Int, UInt, Double, String, Bytes, Timestamp, Duration]),
        "bytes" => (Bytes, &[Bytes, String]),
        "bool" => (Bool, &[Bool, String]),
        "timestamp" => (Timestamp, &[Timestamp, String, Int]),
        "duration" => (Duration, &[Duration, String]),
        _ => return None,
    })
}
