//! The natural order of keys: numbers inside them compare as numbers, letters come after everything else.
//!
//! A key is seen as a row of digit runs and single characters. At the first difference a character that is neither
//! letter nor digit comes before a run of digits, and that before a letter; characters compare by code point, runs by
//! their value, of one value the shorter first. A key that is the beginning of another comes first.

use std::cmp::Ordering;

use crate::export::json::{Kind, Tape};

/// Compares two keys of a map.
pub(super) fn compare(tape: &Tape, json: &[u8], left: usize, right: usize) -> Ordering {
    let (left, right) = (tape.node(left), tape.node(right));
    if left.kind == Kind::Text && right.kind == Kind::Text {
        return natural(left.raw(json), right.raw(json));
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    natural(left.text(json, &mut first), right.text(json, &mut second))
}

fn natural(left: &[u8], right: &[u8]) -> Ordering {
    let Some(at) = left.iter().zip(right).position(|(left, right)| left != right) else {
        return left.len().cmp(&right.len());
    };
    let (here, there) = (left.get(at).copied().unwrap_or_default(), right.get(at).copied().unwrap_or_default());
    if here.is_ascii_alphabetic() && there.is_ascii_alphabetic() {
        return here.cmp(&there);
    }
    // A run of digits counts as a whole, also the part of it that both have.
    let mut start = at;
    if here.is_ascii_digit() || there.is_ascii_digit() {
        while ends_in_digit(left, start) {
            start -= 1;
        }
    }
    let (left, right) = (tail(left, start), tail(right, start));
    rank(left).cmp(&rank(right)).then_with(|| match (run(left), run(right)) {
        ([], _) | (_, []) => left.cmp(right), // UTF-8 is in the order of the code points
        (left, right) => number(left).cmp(&number(right)).then_with(|| left.len().cmp(&right.len())),
    })
}

fn ends_in_digit(text: &[u8], end: usize) -> bool {
    end.checked_sub(1).and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit)
}

/// Returns the rest of a text from the character that this byte belongs to.
fn tail(text: &[u8], mut start: usize) -> &[u8] {
    while start > 0 && text.get(start).is_some_and(|byte| byte & 0xc0 == 0x80) {
        start -= 1;
    }
    text.get(start..).unwrap_or_default()
}

fn rank(text: &[u8]) -> u8 {
    match text {
        [] => 0,
        [digit, ..] if digit.is_ascii_digit() => 2,
        [ascii, ..] if ascii.is_ascii() => 1 + 2 * u8::from(ascii.is_ascii_alphabetic()),
        other => {
            let end = other.iter().skip(1).position(|byte| byte & 0xc0 != 0x80).map_or(other.len(), |at| at + 1);
            let first =
                std::str::from_utf8(other.get(..end).unwrap_or_default()).ok().and_then(|text| text.chars().next());
            1 + 2 * u8::from(first.is_some_and(char::is_alphabetic))
        }
    }
}

/// Returns the digits that a text starts with.
fn run(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Returns digits in a form whose order is that of the numbers.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    let digits = digits.get(zeros..).unwrap_or_default();
    (digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_in_natural_order() {
        let ordered = [
            "",
            "_x",
            "0",
            "9",
            "09",
            "10",
            "99999999999999999998",
            "99999999999999999999",
            "A",
            "a",
            "a-b",
            "a.b",
            "a2",
            "a2-",
            "a2.x",
            "a2b",
            "a02",
            "a10",
            "a10b",
            "aB",
            "ab",
            "ä",
        ];
        let keys: Vec<&[u8]> = ordered.iter().map(|key| key.as_bytes()).collect();
        for (index, left) in keys.iter().enumerate() {
            for (other, right) in keys.iter().enumerate() {
                let (left_text, right_text) = (String::from_utf8_lossy(left), String::from_utf8_lossy(right));
                assert_eq!(natural(left, right), index.cmp(&other), "{left_text} {right_text}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[a0-2.ä-]{0,5}", b in "[a0-2.ä-]{0,5}", c in "[a0-2.ä-]{0,5}") {
            let (a, b, c) = (a.as_bytes(), b.as_bytes(), c.as_bytes());
            prop_assert_eq!(natural(a, b), natural(b, a).reverse());
            prop_assert_eq!(natural(a, b).is_eq(), a == b);
            if natural(a, b).is_le() && natural(b, c).is_le() {
                prop_assert!(natural(a, c).is_le());
            }
        }
    }
}
