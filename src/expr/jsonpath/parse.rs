//! From text to steps: a hand-written parser over characters, positions in bytes.

use super::{Comparison, Filter, Node, Operand, Slice, Step};
use crate::canonical::Value;
use crate::expr::CompileError;

/// Steps of one path, elements of one union: more than any real path has, few enough to walk without a second thought.
const MAX_STEPS: usize = 250;

/// Reads a whole path.
pub(super) fn template(text: &str) -> Result<Vec<Node>, CompileError> {
    let mut parser = Parser { text, at: 0, steps: 0 };
    if let Some(rest) = text.strip_prefix("$.") {
        // `$.a.b` is `{.a.b}`; the closing brace is the end of the text.
        parser.at = text.len() - rest.len() - 1;
        let steps = parser.steps(End::Text)?;
        return Ok(vec![Node::Action(steps)]);
    }
    if !text.contains('{') {
        return Err(without_action(text));
    }
    let (nodes, _) = parser.nodes(0)?;
    Ok(nodes)
}

fn without_action(text: &str) -> CompileError {
    let hint = if text.starts_with("object.") || text.starts_with("object[") {
        format!("a CEL expression needs the prefix: cel:{text}")
    } else if text.starts_with('$') {
        format!("a path starts with `$.`, or stands in braces: {{{text}}}")
    } else {
        format!("a path starts with `$.`: $.{}", text.trim_start_matches('.'))
    };
    CompileError::new(0, format!("path has no action and would yield its own text; {hint}"))
}

/// What ends a run of steps.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The end of the text, after `$.`.
    Text,
    /// `}`, which is consumed.
    Brace,
    /// Anything that does not continue a path: inside a filter.
    Operand,
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    steps: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|next| matches!(next, ' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.at, message))
    }

    /// Reads text and actions up to the end, or to the `{end}` of a range; tells whether it was the latter.
    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, bool), CompileError> {
        if depth > 8 {
            return self.fail("ranges are nested too deep");
        }
        let mut nodes = Vec::new();
        loop {
            let text = self.rest();
            let Some(skipped) = text.find('{') else {
                self.at = self.text.len();
                return Ok((nodes, false));
            };
            if skipped > 0 && nodes.is_empty() {
                return self.fail("text before the first action would become the value; remove it");
            }
            self.at += skipped + 1;
            let start = self.at;
            self.skip_space();
            match self.word() {
                "end" if depth > 0 => {
                    self.at += "end".len();
                    self.close(start)?;
                    return Ok((nodes, true));
                }
                "range" => {
                    self.at += "range".len();
                    let over = self.steps(End::Brace)?;
                    let (body, ended) = self.nodes(depth + 1)?;
                    if !ended {
                        return Err(CompileError::new(start, "range without {end}"));
                    }
                    if body.is_empty() {
                        return Err(CompileError::new(start, "range without an action in it has no value"));
                    }
                    nodes.push(Node::Range(over, body));
                }
                "" if matches!(self.peek(), Some('"' | '\'')) => {
                    // Quoted text between actions, `{"\n"}`: never the value, as text outside of braces.
                    if nodes.is_empty() {
                        return self.fail("text before the first action would become the value; remove it");
                    }
                    self.quoted()?;
                    self.close(start)?;
                }
                "" => nodes.push(Node::Action(self.steps(End::Brace)?)),
                word => {
                    let message = format!("unrecognized identifier {word}; a field is written `.{word}`");
                    return self.fail(message);
                }
            }
        }
    }

    fn close(&mut self, start: usize) -> Result<(), CompileError> {
        self.skip_space();
        if self.eat("}") { Ok(()) } else { Err(CompileError::new(start, "unclosed action")) }
    }

    /// Returns the word at the current place without consuming it; empty for anything but a letter.
    fn word(&self) -> &str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default();
        if word.starts_with(|c: char| c.is_ascii_digit()) { "" } else { word }
    }

    fn steps(&mut self, end: End) -> Result<Vec<Step>, CompileError> {
        let start = self.at;
        let mut steps = Vec::new();
        let mut anchored = false;
        loop {
            // Counted over the whole path, nested filters included, so this bounds the depth too.
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return self.fail("path is too long");
            }
            if end != End::Operand {
                self.skip_space();
            }
            match self.peek() {
                None if end == End::Brace => return Err(CompileError::new(start, "unclosed action")),
                None => return Ok(steps),
                Some('}') if end == End::Brace => {
                    self.at += 1;
                    return Ok(steps);
                }
                Some('$' | '@') if steps.is_empty() && !anchored => {
                    anchored = true;
                    self.at += 1;
                }
                Some('.') => {
                    self.at += 1;
                    self.after_dot(end, &mut steps)?;
                }
                Some('[') => {
                    self.at += 1;
                    let step = self.bracket()?;
                    steps.push(step);
                }
                Some(_) if end == End::Operand => return Ok(steps),
                Some(other) => {
                    let word = self.word();
                    let message = if word.is_empty() {
                        format!("unexpected {other:?}")
                    } else {
                        format!("unrecognized identifier {word}; a field is written `.{word}`")
                    };
                    return self.fail(message);
                }
            }
        }
    }

    fn after_dot(&mut self, end: End, steps: &mut Vec<Step>) -> Result<(), CompileError> {
        if self.eat(".") {
            steps.push(Step::Recursive);
            if self.peek() == Some('.') {
                return self.fail("three dots in a row");
            }
        }
        match self.peek() {
            Some('*') => {
                self.at += 1;
                steps.push(Step::Wildcard);
            }
            // `.['a']` is `['a']`, and `..` may stand alone.
            Some('[') => {}
            next if ends_field(next) => {
                let alone = steps.last() == Some(&Step::Recursive);
                let closes = next.is_none() || next == Some('}') || end == End::Operand;
                if !(alone && closes) {
                    return self.fail("a field name is missing after the dot");
                }
            }
            _ => {
                let name = self.field_name()?;
                steps.push(Step::Field(name.into()));
            }
        }
        Ok(())
    }

    fn field_name(&mut self) -> Result<String, CompileError> {
        let mut name = String::new();
        while !ends_field(self.peek()) {
            // Comparisons end a name inside a filter; no Kubernetes field or label holds these.
            if matches!(self.peek(), Some('=' | '!' | '<' | '>' | '(' | ')')) {
                break;
            }
            match self.next() {
                Some('\\') => match self.next() {
                    Some(escaped) => name.push(escaped),
                    None => return self.fail("a backslash ends the path"),
                },
                Some(other) => name.push(other),
                None => break,
            }
        }
        if name.is_empty() { self.fail("a field name is missing after the dot") } else { Ok(name) }
    }

    /// Reads what stands in brackets, the closing one included.
    fn bracket(&mut self) -> Result<Step, CompileError> {
        let start = self.at - 1;
        self.skip_space();
        if self.eat("?") {
            return self.filter(start);
        }
        let mut members = Vec::new();
        loop {
            self.skip_space();
            members.push(self.member(start)?);
            self.skip_space();
            match self.next() {
                Some(']') => break,
                Some(',') if members.len() < MAX_STEPS => {}
                Some(_) | None => return Err(CompileError::new(start, "invalid array index, or `]` is missing")),
            }
        }
        Ok(if members.len() == 1 { members.remove(0) } else { Step::Union(members) })
    }

    fn member(&mut self, start: usize) -> Result<Step, CompileError> {
        match self.peek() {
            Some('\'' | '"') => Ok(Step::Field(self.quoted()?.into())),
            Some('*') => {
                self.at += 1;
                Ok(Step::Slice(Slice { start: None, end: None, step: 1 }))
            }
            Some(']') => Ok(Step::Index(0)), // `[]` is `[0]`
            _ => self.index_or_slice(start),
        }
    }

    fn index_or_slice(&mut self, start: usize) -> Result<Step, CompileError> {
        let first = self.integer(start)?;
        self.skip_space();
        if !self.eat(":") {
            let message = "an index is a number, a slice, `*`, a quoted key or a filter";
            return first.map(Step::Index).ok_or_else(|| CompileError::new(start, message));
        }
        let end = self.integer(start)?;
        let step = if self.eat(":") { self.integer(start)? } else { None };
        match usize::try_from(step.unwrap_or(1)) {
            Ok(step) if step > 0 => Ok(Step::Slice(Slice { start: first, end, step })),
            _ => Err(CompileError::new(start, "the step of a slice must be above 0")),
        }
    }

    fn integer(&mut self, start: usize) -> Result<Option<i64>, CompileError> {
        self.skip_space();
        let rest = self.rest();
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if length == 0 {
            return Ok(None);
        }
        let end = rest.len() - digits.len() + length;
        let number = rest.get(..end).and_then(|text| text.parse().ok());
        self.at += end;
        self.skip_space();
        number.map(Some).ok_or_else(|| CompileError::new(start, "the number is too large"))
    }

    /// Reads a quoted text. A backslash takes the next character as it is, so that `\.` of older paths still means a dot.
    fn quoted(&mut self) -> Result<String, CompileError> {
        let start = self.at;
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(CompileError::new(start, "unterminated quoted text")),
                next if next == quote => return Ok(text),
                Some('\\') => text.extend(self.next()),
                Some(other) => text.push(other),
            }
        }
    }

    fn filter(&mut self, start: usize) -> Result<Step, CompileError> {
        const SHAPE: &str =
            "a filter is written [?(@.field)] or [?(@.field == \"text\")]; it has no `&&`, `||` or `=~`";
        let wrong = || CompileError::new(start, SHAPE);
        if !self.eat("(") {
            return Err(wrong());
        }
        self.skip_space();
        let left = self.operand()?.ok_or_else(wrong)?;
        self.skip_space();
        let test = match self.comparison() {
            None => None,
            Some(comparison) => {
                self.skip_space();
                Some((comparison, self.operand()?.ok_or_else(wrong)?))
            }
        };
        self.skip_space();
        if !self.eat(")") || (test.is_none() && matches!(left, Operand::Literal(_))) {
            return Err(wrong());
        }
        self.skip_space();
        if !self.eat("]") {
            return Err(CompileError::new(start, "`]` is missing after the filter"));
        }
        Ok(Step::Filter(Box::new(Filter { left, test })))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let known = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        known.into_iter().find_map(|(text, comparison)| self.eat(text).then_some(comparison))
    }

    fn operand(&mut self) -> Result<Option<Operand>, CompileError> {
        Ok(Some(match self.peek() {
            Some('@' | '$') => Operand::Path(self.steps(End::Operand)?),
            Some('"' | '\'') => Operand::Literal(Value::Str(self.quoted()?.into())),
            _ => match self.literal() {
                Some(value) => Operand::Literal(value),
                None => return Ok(None),
            },
        }))
    }

    /// Reads `true`, `false`, an integer or a float.
    fn literal(&mut self) -> Option<Value<'static>> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| c.is_whitespace() || matches!(c, ')' | '=' | '!' | '<' | '>')).unwrap_or(rest.len());
        let word = rest.get(..end)?;
        let value = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ if !word.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E')) => {
                return None;
            }
            _ => match word.parse() {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Float(word.parse().ok().filter(|number: &f64| number.is_finite())?),
            },
        };
        self.at += end;
        Some(value)
    }
}

fn ends_field(next: Option<char>) -> bool {
    next.is_none_or(|next| matches!(next, ' ' | '\t' | '\n' | '\r' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}'))
}
