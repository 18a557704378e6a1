//! From a rule's condition, as Cedar parsed it, to its form without Cedar.
//!
//! Only what Cedar's validator has passed comes here, so that types are right. What is not known here by
//! its exact shape has no such form.

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use cedar_policy_core::ast::{BinaryOp, EntityUID, Expr, ExprKind, Literal as Value, UnaryOp, Var};

use super::asked::{Holder, Literal, Side, Slot, Words};
use super::native::Test;
use super::request::Action;
use super::schema;
use crate::identity::Attribute;

/// How deep a condition may be nested; Cedar evaluates deeper ones.
const MAX_DEPTH: usize = 32;

/// The condition of a policy whose head lets the request pass; none if Cedar is to evaluate it.
pub(super) fn compile(policy: &Policy, words: &mut Words) -> Option<Test> {
    if !has_plain_head(policy) {
        return None;
    }
    let condition = match policy.as_ref().non_scope_constraints() {
        None => Test::Constant(true),
        Some(condition) => Compiler { words }.test(condition, MAX_DEPTH)?,
    };
    Some(match action(policy) {
        // No action is named: both.
        None => condition,
        Some(test) => Test::All(joined(test, condition, conjuncts)),
    })
}

/// What the head says of the action; none if it names none.
fn action(policy: &Policy) -> Option<Test> {
    let asks = |wanted: &EntityUid| {
        let found = Action::ALL.into_iter().find(|action| schema::action_uid(*action) == wanted);
        found.map_or(Test::Constant(false), Test::Asks)
    };
    match policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(action) => Some(asks(&action)),
        ActionConstraint::In(actions) => Some(Test::Any(actions.iter().map(asks).collect())),
    }
}

fn conjuncts(test: Test) -> Result<Box<[Test]>, Test> {
    match test {
        Test::All(tests) => Ok(tests),
        other => Err(other),
    }
}

/// Whether the head says no more than the index knows: a request that finds the policy passes it.
fn has_plain_head(policy: &Policy) -> bool {
    let caller = match policy.principal_constraint() {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Is(kind) => kind == *schema::workload_type(),
        PrincipalConstraint::Eq(uid) => schema::is_workload(&uid),
        PrincipalConstraint::In(uid) => is_place(&uid),
        PrincipalConstraint::IsIn(kind, uid) => kind == *schema::workload_type() && is_place(&uid),
    };
    let callee = match policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(kind) => kind == *schema::workload_type(),
        ResourceConstraint::Eq(uid) => schema::is_workload(&uid),
        ResourceConstraint::In(uid) => is_place(&uid),
        ResourceConstraint::IsIn(kind, uid) => kind == *schema::workload_type() && is_place(&uid),
    };
    caller && callee
}

fn is_place(uid: &EntityUid) -> bool {
    schema::is_workload(uid) || schema::is_namespace(uid)
}

/// What an operand is.
enum Operand<'a> {
    /// A text of the request.
    Text(Slot),
    /// `principal`, `resource`.
    Workload(Side),
    /// `principal.namespace`, `resource.namespace`.
    Namespace(Side),
    /// `context.port`.
    Port,
    /// Anything written out.
    Value(&'a Value),
}

struct Compiler<'a> {
    words: &'a mut Words,
}

impl Compiler<'_> {
    fn test(&mut self, condition: &Expr, depth: usize) -> Option<Test> {
        let below = depth.checked_sub(1)?;
        match condition.expr_kind() {
            ExprKind::Lit(Value::Bool(holds)) => Some(Test::Constant(*holds)),
            ExprKind::And { left, right } => {
                let (left, right) = (self.test(left, below)?, self.test(right, below)?);
                Some(Test::All(joined(left, right, conjuncts)))
            }
            ExprKind::Or { left, right } => {
                let (left, right) = (self.test(left, below)?, self.test(right, below)?);
                Some(Test::Any(joined(left, right, |test| match test {
                    Test::Any(tests) => Ok(tests),
                    other => Err(other),
                })))
            }
            ExprKind::If { test_expr, then_expr, else_expr } => {
                let test = self.test(test_expr, below)?;
                let then = self.test(then_expr, below)?;
                let otherwise = self.test(else_expr, below)?;
                Some(Test::If(Box::new([test, then, otherwise])))
            }
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => {
                Some(Test::Not(Box::new(self.test(arg, below)?)))
            }
            ExprKind::BinaryApp { op, arg1, arg2 } => self.binary(*op, arg1, arg2),
            ExprKind::Like { expr, pattern } => match self.operand(expr)? {
                Operand::Text(slot) => Some(Test::Like(slot, Box::new(pattern.clone()))),
                _ => None,
            },
            ExprKind::HasAttr { expr, attr } => Some(Test::Carries(self.lackable(expr, attr)?)),
            ExprKind::Is { expr, entity_type } => {
                let workload = matches!(self.operand(expr)?, Operand::Workload(_));
                (workload && entity_type.name().to_string() == schema::WORKLOAD_TYPE)
                    .then_some(Test::Constant(true))
            }
            _ => None,
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr) -> Option<Test> {
        match op {
            BinaryOp::Eq => self.equal(left, right),
            BinaryOp::In => match right.expr_kind() {
                ExprKind::Set(places) => {
                    let tests = places.iter().map(|place| self.within(left, place));
                    Some(Test::Any(tests.collect::<Option<_>>()?))
                }
                _ => self.within(left, right),
            },
            BinaryOp::Contains => self.contains(left, right),
            BinaryOp::Less | BinaryOp::LessEq => self.ordered(op == BinaryOp::Less, left, right),
            _ => None,
        }
    }

    fn equal(&mut self, left: &Expr, right: &Expr) -> Option<Test> {
        use Operand::{Namespace, Port, Text, Value as Written, Workload};
        match (self.operand(left)?, self.operand(right)?) {
            (Text(left), Text(right)) => Some(Test::Same(left, right)),
            (Text(slot), Written(Value::String(text)))
            | (Written(Value::String(text)), Text(slot)) => {
                Some(Test::Is(slot, self.words.literal(text)?))
            }
            (Port, Written(Value::Long(port))) | (Written(Value::Long(port)), Port) => {
                Some(Test::PortIs(*port))
            }
            (Workload(left), Workload(right)) => {
                Some(Test::Same(Slot::spiffe_id(left), Slot::spiffe_id(right)))
            }
            (Workload(side), Written(Value::EntityUID(uid)))
            | (Written(Value::EntityUID(uid)), Workload(side)) => self.is_workload(side, uid),
            (Namespace(left), Namespace(right)) => {
                Some(Test::Same(Slot::namespace(left), Slot::namespace(right)))
            }
            (Namespace(side), Written(Value::EntityUID(uid)))
            | (Written(Value::EntityUID(uid)), Namespace(side)) => {
                let namespace = namespace(uid)?;
                Some(Test::Is(Slot::namespace(side), self.words.literal(namespace)?))
            }
            _ => None,
        }
    }

    /// `left in right`: the same, or a namespace that the left lies in or below.
    fn within(&mut self, left: &Expr, right: &Expr) -> Option<Test> {
        use Operand::{Namespace, Value as Written, Workload};
        match (self.operand(left)?, self.operand(right)?) {
            (Workload(inner) | Namespace(inner), Namespace(outer)) => {
                Some(Test::BelowOther(inner, outer))
            }
            (Workload(left), Workload(right)) => {
                Some(Test::Same(Slot::spiffe_id(left), Slot::spiffe_id(right)))
            }
            (Workload(side), Written(Value::EntityUID(uid))) => match namespace(uid) {
                Some(namespace) => Some(Test::Below(side, namespace.into())),
                None => self.is_workload(side, uid),
            },
            (Namespace(side), Written(Value::EntityUID(uid))) => {
                Some(Test::Below(side, namespace(uid)?.into()))
            }
            _ => None,
        }
    }

    fn is_workload(&mut self, side: Side, uid: &EntityUID) -> Option<Test> {
        let workload = uid.entity_type().name().to_string() == schema::WORKLOAD_TYPE;
        let literal = workload.then(|| self.words.literal(uid.eid().as_ref()))??;
        Some(Test::Is(Slot::spiffe_id(side), literal))
    }

    /// `[…].contains(x)`, of texts, namespaces or numbers that are written out.
    fn contains(&mut self, set: &Expr, wanted: &Expr) -> Option<Test> {
        let ExprKind::Set(members) = set.expr_kind() else { return None };
        match self.operand(wanted)? {
            Operand::Text(slot) => self.one_of(slot, members, |member| match member.expr_kind() {
                ExprKind::Lit(Value::String(text)) => Some(text),
                _ => None,
            }),
            Operand::Namespace(side) => {
                self.one_of(Slot::namespace(side), members, |member| match member.expr_kind() {
                    ExprKind::Lit(Value::EntityUID(uid)) => namespace(uid),
                    _ => None,
                })
            }
            Operand::Port => {
                let port = |member: &Expr| match member.expr_kind() {
                    ExprKind::Lit(Value::Long(port)) => Some(*port),
                    _ => None,
                };
                let mut ports = members.iter().map(port).collect::<Option<Box<[i64]>>>()?;
                ports.sort_unstable();
                Some(Test::PortOneOf(ports))
            }
            _ => None,
        }
    }

    /// One of the texts that `text` finds in the members of a list; none if it finds no text in one of them.
    fn one_of(
        &mut self,
        slot: Slot,
        members: &[Expr],
        text: impl Fn(&Expr) -> Option<&str>,
    ) -> Option<Test> {
        let literals = members.iter().map(|member| self.words.literal(text(member)?));
        let mut literals = literals.collect::<Option<Box<[Literal]>>>()?;
        literals.sort_unstable();
        Some(Test::OneOf(slot, literals))
    }

    /// `left < right`, or `left <= right` where not `strict`.
    fn ordered(&mut self, strict: bool, left: &Expr, right: &Expr) -> Option<Test> {
        match (self.operand(left)?, self.operand(right)?, strict) {
            (Operand::Port, Operand::Value(Value::Long(limit)), true) => {
                Some(Test::PortBelow(*limit))
            }
            (Operand::Port, Operand::Value(Value::Long(limit)), false) => {
                Some(Test::PortAtMost(*limit))
            }
            (Operand::Value(Value::Long(limit)), Operand::Port, true) => {
                Some(Test::Not(Box::new(Test::PortAtMost(*limit))))
            }
            (Operand::Value(Value::Long(limit)), Operand::Port, false) => {
                Some(Test::Not(Box::new(Test::PortBelow(*limit))))
            }
            _ => None,
        }
    }

    /// What a workload may lack: a label of its own, one of its node, or what it runs.
    fn lackable(&mut self, of: &Expr, name: &str) -> Option<Slot> {
        if let Some((side, holder)) = labels_of(of) {
            return Some(self.words.label(side, holder, name));
        }
        Some(Slot::attribute(workload(of)?, Attribute::named(name)?))
    }

    fn operand<'a>(&mut self, operand: &'a Expr) -> Option<Operand<'a>> {
        match operand.expr_kind() {
            ExprKind::Lit(value) => Some(Operand::Value(value)),
            ExprKind::Var(_) => workload(operand).map(Operand::Workload),
            ExprKind::GetAttr { expr, attr } => {
                if let Some(slot) = self.lackable(expr, attr) {
                    return Some(Operand::Text(slot));
                }
                if matches!(expr.expr_kind(), ExprKind::Var(Var::Context)) {
                    return match attr.as_str() {
                        "port" => Some(Operand::Port),
                        "protocol" => Some(Operand::Text(Slot::PROTOCOL)),
                        _ => None,
                    };
                }
                let side = workload(expr)?;
                match attr.as_str() {
                    "namespace" => Some(Operand::Namespace(side)),
                    "name" => Some(Operand::Text(Slot::name(side))),
                    "spiffe_id" => Some(Operand::Text(Slot::spiffe_id(side))),
                    "trust_domain" => Some(Operand::Text(Slot::trust_domain(side))),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Two conditions one behind the other, as one list where they are lists of this kind already.
fn joined(
    left: Test,
    right: Test,
    list: impl Fn(Test) -> Result<Box<[Test]>, Test>,
) -> Box<[Test]> {
    let parts = |test| list(test).map_or_else(|one| vec![one], Vec::from);
    let mut tests = parts(left);
    tests.extend(parts(right));
    tests.into_boxed_slice()
}

/// Whose labels `principal.labels`, `resource.node` and the like are.
fn labels_of(expr: &Expr) -> Option<(Side, Holder)> {
    match expr.expr_kind() {
        ExprKind::GetAttr { expr, attr } => Some((workload(expr)?, Holder::named(attr)?)),
        _ => None,
    }
}

fn workload(expr: &Expr) -> Option<Side> {
    match expr.expr_kind() {
        ExprKind::Var(Var::Principal) => Some(Side::Caller),
        ExprKind::Var(Var::Resource) => Some(Side::Callee),
        _ => None,
    }
}

/// The path of a namespace.
fn namespace(uid: &EntityUID) -> Option<&str> {
    (uid.entity_type().name().to_string() == schema::NAMESPACE_TYPE).then(|| uid.eid().as_ref())
}
