//! One walk over the syntax tree, at compile time: what cannot work is refused, the rest is made ready to run.

use ::cel::IdedExpr;
use ::cel::ParseErrors;
use ::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr, SelectExpr, SourceInfo, operators,
};

use super::types::{Ty, literal_type, result_type};
use super::{MAX_DEPTH, Reference, Segment};
use crate::expr::CompileError;

/// The name that a reference gets, its number behind it. `@` cannot be written in CEL.
pub(super) const REFERENCE: &str = "@ref";
/// Takes one step of the budget and is true, or an error when none is left.
pub(super) const STEP: &str = "@step";
/// The meter of the evaluation, an argument of [`CHARGED`].
pub(super) const METER: &str = "@meter";
/// The second argument, charged to the first.
pub(super) const CHARGED: &str = "@charged";
/// `==` by structure.
pub(super) const EQUAL: &str = "@equal";
/// `in` by structure.
pub(super) const WITHIN: &str = "@within";
/// `has()` of what is no chain from `object`; unlike a selection it reads no value.
pub(super) const PRESENT: &str = "@present";
/// The keys of a map in order; a list as it is.
pub(super) const SORTED: &str = "@sorted";

/// The variable in which the parser has a loop collect; not writable in CEL either.
const ACCUMULATOR: &str = "@result";
/// Literals up to this size cost less than looking at them would.
const UNCHARGED_ELEMENTS: usize = 4;

pub(super) struct Checked {
    pub(super) root: IdedExpr,
    pub(super) references: Vec<Reference>,
    pub(super) last_keys: Vec<String>,
    /// Every key that is written in the expression.
    pub(super) keys: Vec<String>,
    /// Levels of the tree.
    pub(super) depth: usize,
}

/// Refuses text whose brackets are nested too deep, before a parser recurses over it.
pub(super) fn nesting(source: &str) -> Result<(), CompileError> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in source.char_indices() {
        if let Some(open) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == open => quote = None,
                _ => {}
            }
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(CompileError::new(at, too_deep()));
        }
    }
    Ok(())
}

fn too_deep() -> String {
    format!("expression is nested deeper than {MAX_DEPTH} levels")
}

pub(super) fn parse_error(source: &str, errors: &ParseErrors) -> CompileError {
    let Some(first) = errors.errors.first() else { return CompileError::new(0, "expression cannot be parsed") };
    let (line, column) = first.pos;
    let line_start: usize =
        source.split_inclusive('\n').take(usize::try_from(line - 1).unwrap_or(0)).map(str::len).sum();
    let position = line_start + usize::try_from(column - 1).unwrap_or(0);
    CompileError::new(position.min(source.len()), first.msg.clone())
}

pub(super) fn check(tree: IdedExpr, info: &SourceInfo) -> Result<Checked, CompileError> {
    let mut last_keys = Vec::new();
    let mut checker =
        Checker { info, references: Vec::new(), scopes: Vec::new(), keys: Vec::new(), depth: 0, deepest: 0 };
    let (root, _) = checker.expr(tree, &mut last_keys)?;
    last_keys.sort();
    last_keys.dedup();
    let Checker { references, mut keys, deepest, .. } = checker;
    let of_references = references.iter().flat_map(|reference| &reference.path).filter_map(|segment| match segment {
        Segment::Key(key) => Some(key.clone()),
        Segment::Index(_) => None,
    });
    keys.extend(of_references);
    Ok(Checked { root, references, last_keys, keys, depth: deepest })
}

struct Checker<'i> {
    info: &'i SourceInfo,
    references: Vec<Reference>,
    scopes: Vec<Variable>,
    /// Keys that are written outside of references.
    keys: Vec<String>,
    depth: usize,
    deepest: usize,
}

/// A variable of a loop, with the keys that its values were picked by.
struct Variable {
    name: String,
    keys: Vec<String>,
}

/// What [`Checker::expr`] hands back: the expression made ready, and its type.
type Typed = (IdedExpr, Ty);

impl Checker<'_> {
    fn fail<T>(&self, id: u64, message: impl Into<String>) -> Result<T, CompileError> {
        let position = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        Err(CompileError::new(position, message))
    }

    /// Checks an expression. `keys` collects the keys that its value may have been picked by.
    fn expr(&mut self, tree: IdedExpr, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > MAX_DEPTH {
            return self.fail(tree.id, too_deep());
        }
        let checked = self.expr_inside(tree, keys);
        self.depth -= 1;
        checked
    }

    fn expr_inside(&mut self, tree: IdedExpr, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        let id = tree.id;
        if let Some(reference) = self.reference(&tree.expr) {
            return Ok(self.refer(id, reference, keys));
        }
        let with = |expr: Expr, ty: Ty| Ok((IdedExpr { id, expr }, ty));
        match tree.expr {
            Expr::Literal(literal) => {
                let ty = literal_type(&literal);
                with(Expr::Literal(literal), ty)
            }
            Expr::Ident(name) => self.ident(id, name, keys),
            Expr::Select(select) => self.select(id, select, keys),
            Expr::Call(call) => self.call(id, call, keys),
            Expr::List(list) => {
                let mut elements = Vec::with_capacity(list.elements.len());
                for element in list.elements {
                    elements.push(self.expr(element, keys)?.0);
                }
                let many = elements.len() > UNCHARGED_ELEMENTS;
                let list = IdedExpr { id, expr: Expr::List(ListExpr::new(elements)) };
                Ok((if many { charged(list) } else { list }, Ty::List))
            }
            Expr::Map(map) => self.map(id, map, keys),
            Expr::Comprehension(comprehension) => self.comprehension(id, *comprehension, keys),
            Expr::Struct(message) => self.fail(id, format!("unknown type {}", message.type_name)),
            Expr::Unspecified => self.fail(id, "expression cannot be parsed"),
        }
    }

    fn is_variable(&self, name: &str) -> bool {
        self.scopes.iter().any(|variable| variable.name == name)
    }

    /// Reads a chain of selections from `object`, or `has()` of one.
    fn reference(&self, expr: &Expr) -> Option<Reference> {
        if let Expr::Select(SelectExpr { operand, field, test: true }) = expr {
            let mut path = self.chain(&operand.expr)?;
            path.push(Segment::Key(field.clone()));
            return Some(Reference { path, test: true });
        }
        self.chain(expr).map(|path| Reference { path, test: false })
    }

    fn chain(&self, expr: &Expr) -> Option<Vec<Segment>> {
        let mut path = Vec::new();
        let mut expr = expr;
        loop {
            match expr {
                Expr::Ident(name) if name == "object" && !self.is_variable("object") => {
                    path.reverse();
                    return Some(path);
                }
                Expr::Select(SelectExpr { operand, field, test: false }) => {
                    path.push(Segment::Key(field.clone()));
                    expr = &operand.expr;
                }
                Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
                    let [operand, index] = args.as_slice() else { return None };
                    path.push(match &index.expr {
                        Expr::Literal(LiteralValue::String(key)) => Segment::Key(key.inner().to_owned()),
                        Expr::Literal(LiteralValue::Int(index)) => Segment::Index(*index.inner()),
                        _ => return None,
                    });
                    expr = &operand.expr;
                }
                _ => return None,
            }
        }
    }

    fn refer(&mut self, id: u64, reference: Reference, keys: &mut Vec<String>) -> Typed {
        let ty = if reference.test { Ty::Bool } else { Ty::Dyn };
        if !reference.test {
            let key = reference.path.iter().rev().find_map(|segment| match segment {
                Segment::Key(key) => Some(key.clone()),
                Segment::Index(_) => None,
            });
            keys.extend(key);
        }
        let number = self.references.iter().position(|known| *known == reference).unwrap_or_else(|| {
            self.references.push(reference);
            self.references.len() - 1
        });
        (IdedExpr { id, expr: Expr::Ident(format!("{REFERENCE}{number}")) }, ty)
    }

    fn ident(&self, id: u64, name: String, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        const TYPES: [&str; 10] =
            ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
        if let Some(variable) = self.scopes.iter().rev().find(|variable| variable.name == name) {
            keys.extend(variable.keys.iter().cloned());
            return Ok((IdedExpr { id, expr: Expr::Ident(name) }, Ty::Dyn));
        }
        if TYPES.contains(&name.as_str()) {
            return Ok((IdedExpr { id, expr: Expr::Ident(name) }, Ty::Type));
        }
        self.fail(id, format!("undeclared reference to {name:?}; the object is called `object`"))
    }

    fn select(&mut self, id: u64, select: SelectExpr, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        if !select.test && self.is_protobuf_type(&select) {
            return Ok((IdedExpr { id, expr: Expr::Select(select) }, Ty::Type));
        }
        self.keys.push(select.field.clone());
        let (operand, ty) = self.expr(*select.operand, &mut Vec::new())?;
        if !ty.may_be(&[Ty::Map]) {
            return self.fail(id, format!("type {} has no fields", ty.name()));
        }
        if select.test {
            let field = IdedExpr { id, expr: Expr::Literal(LiteralValue::String(select.field.into())) };
            return Ok((IdedExpr { id, expr: call_expr(PRESENT, vec![operand, field]) }, Ty::Bool));
        }
        keys.push(select.field.clone());
        let select = SelectExpr { operand: Box::new(operand), ..select };
        Ok((IdedExpr { id, expr: Expr::Select(select) }, Ty::Dyn))
    }

    /// `google.protobuf.Timestamp` and `google.protobuf.Duration` are names of types.
    fn is_protobuf_type(&self, select: &SelectExpr) -> bool {
        let Expr::Select(middle) = &select.operand.expr else { return false };
        matches!(select.field.as_str(), "Timestamp" | "Duration")
            && middle.field == "protobuf"
            && matches!(&middle.operand.expr, Expr::Ident(name) if name == "google" && !self.is_variable(name))
    }

    fn map(&mut self, id: u64, map: MapExpr, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for mut entry in map.entries {
            let EntryExpr::MapEntry(pair) = &mut entry.expr else { return self.fail(id, "unknown type") };
            // A key is shown as well as what is under it.
            let (key, ty) = self.expr(std::mem::take(&mut pair.key), keys)?;
            if !ty.may_be(&[Ty::String, Ty::Int, Ty::UInt, Ty::Bool]) {
                return self.fail(key.id, format!("type {} cannot be a map key", ty.name()));
            }
            pair.key = key;
            pair.value = self.expr(std::mem::take(&mut pair.value), keys)?.0;
            entries.push(entry);
        }
        let many = entries.len() > UNCHARGED_ELEMENTS;
        let map = IdedExpr { id, expr: Expr::Map(MapExpr { entries }) };
        Ok((if many { charged(map) } else { map }, Ty::Map))
    }

    fn comprehension(
        &mut self,
        id: u64,
        comprehension: ComprehensionExpr,
        keys: &mut Vec<String>,
    ) -> Result<Typed, CompileError> {
        let ComprehensionExpr { iter_range, iter_var, accu_var, accu_init, loop_cond, loop_step, result, .. } =
            comprehension;
        let mut element_keys = Vec::new();
        let is_view = self.reference(&iter_range.expr).is_some();
        let (mut iter_range, range_type) = self.expr(iter_range, &mut element_keys)?;
        if !range_type.may_be(&[Ty::List, Ty::Map]) {
            return self.fail(iter_range.id, format!("type {} has no elements", range_type.name()));
        }
        if !is_view && range_type != Ty::List {
            iter_range = call(SORTED, vec![iter_range]);
        }
        let (accu_init, accu_type) = self.expr(accu_init, &mut Vec::new())?;
        let collects = accu_type == Ty::List;

        self.scopes.push(Variable { name: iter_var.clone(), keys: element_keys });
        self.scopes.push(Variable { name: accu_var.clone(), keys: Vec::new() });
        let steady = matches!(loop_cond.expr, Expr::Literal(_));
        let (mut loop_cond, _) = self.expr(loop_cond, &mut Vec::new())?;
        let mut step_keys = Vec::new();
        let (mut loop_step, _) = self.expr(loop_step, &mut step_keys)?;
        let (result, result_type) = self.expr(result, &mut Vec::new())?;
        self.scopes.truncate(self.scopes.len() - 2);

        // An `exists` or `all` forgives errors of its step, but not of its condition; a `map` or `filter` is only fast
        // while its condition is a literal, and forgives nothing.
        if steady {
            step_inside(&mut loop_step);
        } else {
            loop_cond = stepped(loop_cond, LiteralValue::Boolean(false.into()));
        }
        if collects {
            keys.append(&mut step_keys);
        }
        let ty = match result_type {
            _ if collects => Ty::List,
            Ty::Dyn => Ty::Bool, // `exists` and `all` end with their accumulator
            other => other,
        };
        let expr = ComprehensionExpr {
            iter_range,
            iter_var,
            iter_var2: None,
            accu_var,
            accu_init,
            loop_cond,
            loop_step,
            result,
        };
        Ok((IdedExpr { id, expr: Expr::Comprehension(Box::new(expr)) }, ty))
    }

    fn call(&mut self, id: u64, call: CallExpr, keys: &mut Vec<String>) -> Result<Typed, CompileError> {
        let CallExpr { func_name, target, args } = call;
        if matches!(func_name.as_str(), "all" | "exists" | "exists_one" | "map" | "filter" | "has") {
            // The parser replaces these; one that is left was called in a way that it did not know.
            return self.fail(id, format!("wrong number of arguments to {func_name}"));
        }
        // Whether the result holds what the arguments hold, or only says something about them.
        let passes_on = matches!(
            func_name.as_str(),
            operators::CONDITIONAL
                | operators::INDEX
                | operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO
                | operators::NEGATE
                | "string"
                | "bytes"
                | "dyn"
                | "int"
                | "uint"
                | "double"
                | "timestamp"
                | "duration"
        );
        let mut kept = Vec::new();
        let mut types = Vec::with_capacity(args.len() + 1);
        let mut is_view = Vec::with_capacity(args.len());
        let target = match target {
            None => None,
            Some(target) => {
                let (target, ty) = self.expr(*target, &mut Vec::new())?;
                types.push(ty);
                Some(Box::new(target))
            }
        };
        let mut checked = Vec::with_capacity(args.len());
        let literal_key = literal_index(&func_name, &args);
        self.keys.extend(literal_key.clone());
        for (at, arg) in args.into_iter().enumerate() {
            is_view.push(self.reference(&arg.expr).is_some());
            // The condition of a ternary and the place in an index are not part of the result.
            let picked = passes_on && !(func_name == operators::CONDITIONAL && at == 0);
            let mut unused = Vec::new();
            let arg_keys = if picked && !(func_name == operators::INDEX && at == 1) { &mut kept } else { &mut unused };
            let (arg, ty) = self.expr(arg, arg_keys)?;
            types.push(ty);
            checked.push(arg);
        }
        match literal_key {
            Some(key) => keys.push(key),
            None => keys.append(&mut kept),
        }
        let ty = match result_type(&func_name, target.is_some(), &types) {
            Ok(ty) => ty,
            Err(problem) => return self.fail(id, problem),
        };
        let structural = types.iter().all(|ty| !ty.is_scalar());
        let expr = match func_name.as_str() {
            operators::EQUALS if structural => call_expr(EQUAL, checked),
            operators::NOT_EQUALS if structural => call_expr(operators::LOGICAL_NOT, vec![self::call(EQUAL, checked)]),
            operators::IN if types.first().is_some_and(|ty| !ty.is_scalar()) && is_view.last() == Some(&false) => {
                call_expr(WITHIN, checked)
            }
            _ => {
                let builds = matches!(func_name.as_str(), operators::ADD | "string" | "bytes") && !ty.is_number();
                let accumulates =
                    matches!(checked.as_slice(), [IdedExpr { expr: Expr::Ident(name), .. }, _] if name == ACCUMULATOR);
                let call = IdedExpr { id, expr: Expr::Call(CallExpr { func_name, target, args: checked }) };
                return Ok((if builds && !accumulates { charged(call) } else { call }, ty));
            }
        };
        Ok((IdedExpr { id, expr }, ty))
    }
}

/// Returns the key of `x['key']`.
fn literal_index(function: &str, args: &[IdedExpr]) -> Option<String> {
    match args {
        [_, IdedExpr { expr: Expr::Literal(LiteralValue::String(key)), .. }] if function == operators::INDEX => {
            Some(key.inner().to_owned())
        }
        _ => None,
    }
}

fn call_expr(function: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args })
}

fn call(function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id: 0, expr: call_expr(function, args) }
}

/// Wraps an expression so that evaluating it costs a step: `@step ? expr : never`.
fn stepped(expr: IdedExpr, never: LiteralValue) -> IdedExpr {
    let step = IdedExpr { id: 0, expr: Expr::Ident(STEP.to_owned()) };
    let never = IdedExpr { id: 0, expr: Expr::Literal(never) };
    call(operators::CONDITIONAL, vec![step, expr, never])
}

/// Wraps an expression so that its value is charged to the meter.
fn charged(expr: IdedExpr) -> IdedExpr {
    call(CHARGED, vec![IdedExpr { id: 0, expr: Expr::Ident(METER.to_owned()) }, expr])
}

/// Puts the step where the interpreter still recognises an append: into the guard, or into the appended element.
fn step_inside(loop_step: &mut IdedExpr) {
    let Expr::Call(CallExpr { func_name, args, .. }) = &mut loop_step.expr else { return };
    match (func_name.as_str(), args.as_mut_slice()) {
        (operators::CONDITIONAL, [guard, append, _]) => {
            *guard = stepped(std::mem::take(guard), LiteralValue::Boolean(false.into()));
            if let Some(element) = appended(append) {
                *element = charged(std::mem::take(element));
            }
        }
        _ => {
            if let Some(element) = appended(loop_step) {
                *element = stepped(charged(std::mem::take(element)), LiteralValue::Null);
            }
        }
    }
}

/// Returns `x` of `@result + [x]`.
fn appended(expr: &mut IdedExpr) -> Option<&mut IdedExpr> {
    let Expr::Call(CallExpr { func_name, args, .. }) = &mut expr.expr else { return None };
    match args.as_mut_slice() {
        [_, IdedExpr { expr: Expr::List(list), .. }] if func_name == operators::ADD => list.elements.first_mut(),
        _ => None,
    }
}
