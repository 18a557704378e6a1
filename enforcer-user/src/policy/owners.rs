//! Who may write where: Cedar policies about users and namespaces, asked of every file of the policy tree and of
//! everything that is put there over the control socket.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fmt;
use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet as CedarSet, Request, RestrictedExpression, Schema, ValidationMode,
    Validator,
};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::error::{PolicyError, PolicyErrors};
use super::nesting;
use super::parse::{at, located};
use super::schema;
use super::source::SourceFile;
use crate::identity::Namespace;

const SCHEMA: &str = r"
entity Group;
entity User in [Group] { name: String, uid: Long };
entity Namespace in [Namespace];
action write appliesTo { principal: User, resource: Namespace, context: {} };
";

static USER: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("User"));
static GROUP: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Group"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Action"));

/// Policies of the one action `write`.
#[derive(Debug)]
pub struct Owners {
    set: CedarSet,
    schema: Schema,
}

/// A user of this system, as the account database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    uid: u32,
    /// None for a user without an account.
    name: Option<String>,
    groups: Vec<String>,
}

impl Owners {
    /// Parses and validates all files, or tells every finding.
    pub fn parse(files: &[SourceFile]) -> Result<Self, PolicyErrors> {
        let (mut set, mut findings) = (CedarSet::new(), Vec::new());
        for (number, file) in files.iter().enumerate() {
            if let Err(found) = add(&mut set, number, file) {
                findings.extend(found);
            }
        }
        PolicyErrors::refuse_unless_empty(findings)?;
        let schema = Schema::from_str(SCHEMA).map_err(|e| PolicyError::general(e.to_string()))?;
        let owners = Self { set, schema };
        owners.validate(files)?;
        Ok(owners)
    }

    fn validate(&self, files: &[SourceFile]) -> Result<(), PolicyErrors> {
        let result =
            Validator::new(self.schema.clone()).validate(&self.set, ValidationMode::Strict);
        let of = |id: &PolicyId| {
            let (number, _) = AsRef::<str>::as_ref(id).split_once(' ')?;
            files.get(number.parse::<usize>().ok()?)
        };
        let errors = result.validation_errors().map(|e| Some(located(of(e.policy_id())?, e)));
        let warnings = result.validation_warnings().map(|w| Some(located(of(w.policy_id())?, w)));
        PolicyErrors::refuse_unless_empty(errors.chain(warnings).flatten().collect())?;
        if result.validation_passed_without_warnings() {
            return Ok(());
        }
        Err(PolicyError::general(result.to_string()).into())
    }

    /// The same as [`Owners::may_write`] for whoever has this user id; the error says who may not write where.
    pub fn check(&self, uid: u32, namespace: &Namespace) -> Result<(), String> {
        if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        self.check_writer(&Writer::of(uid)?, namespace)
    }

    /// The same for somebody who was looked up.
    pub fn check_writer(&self, writer: &Writer, namespace: &Namespace) -> Result<(), String> {
        if self.may_write(writer, namespace)? {
            return Ok(());
        }
        Err(format!("{writer} may not write in {namespace}, by policy.owners"))
    }

    /// Whether the user may write in the namespace. Root and this process's own user may everywhere.
    pub fn may_write(&self, writer: &Writer, namespace: &Namespace) -> Result<bool, String> {
        if writer.uid == 0 || writer.uid == nix::unistd::geteuid().as_raw() {
            return Ok(true);
        }
        let user = writer.entity()?;
        let (principal, resource) = (user.uid(), schema::namespace_uid(namespace));
        let action = entity_uid(&ACTION, "write");
        let request =
            Request::new(principal, action, resource, Context::empty(), Some(&self.schema))
                .map_err(|error| error.to_string())?;
        let namespaces = namespace.ancestors().map(|above| {
            let parent = above.ancestors().nth(1).map(|above| schema::namespace_uid(&above));
            Entity::new_no_attrs(schema::namespace_uid(&above), parent.into_iter().collect())
        });
        let groups = writer
            .groups
            .iter()
            .map(|name| Entity::new_no_attrs(entity_uid(&GROUP, name), HashSet::new()));
        let entities = Entities::from_entities(namespaces.chain(groups).chain([user]), None)
            .map_err(|error| error.to_string())?;
        let response = Authorizer::new().is_authorized(&request, &self.set, &entities);
        // Cedar leaves a forbid out that cannot be evaluated.
        let failed = response.diagnostics().errors().next().is_some();
        Ok(response.decision() == Decision::Allow && !failed)
    }
}

/// None also where the system has no list of users or groups, which some C libraries call an error (getpwnam(3)).
fn known<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(nix::Error::ENOENT | nix::Error::ESRCH) => Ok(None),
        other => other,
    }
}

impl Writer {
    /// Looks the user and its groups up.
    pub fn of(uid: u32) -> Result<Self, String> {
        let unknown = |error: nix::Error| format!("uid {uid} cannot be looked up: {error}");
        let Some(user) = known(User::from_uid(Uid::from_raw(uid))).map_err(unknown)? else {
            return Ok(Self { uid, name: None, groups: Vec::new() });
        };
        let name = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
        let gids = getgrouplist(&name, user.gid).map_err(unknown)?;
        let group = |gid: Gid| known(Group::from_gid(gid)).map_err(unknown);
        let groups: Vec<Option<Group>> = gids.into_iter().map(group).collect::<Result<_, _>>()?;
        let groups = groups.into_iter().flatten().map(|group| group.name).collect();
        Ok(Self { uid, name: Some(user.name), groups })
    }

    fn entity(&self) -> Result<Entity, String> {
        let name = self.name.clone().unwrap_or_default();
        let attributes = HashMap::from([
            ("name".to_owned(), RestrictedExpression::new_string(name)),
            ("uid".to_owned(), RestrictedExpression::new_long(self.uid.into())),
        ]);
        let groups = self.groups.iter().map(|name| entity_uid(&GROUP, name)).collect();
        Entity::new(entity_uid(&USER, &self.id()), attributes, groups)
            .map_err(|error| error.to_string())
    }

    /// What policies call it: `#` stands in no name of an account.
    fn id(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("#{}", self.uid))
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "user {name} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// Adds the policies of a file under names that say which it was.
fn add(set: &mut CedarSet, number: usize, file: &SourceFile) -> Result<(), Vec<PolicyError>> {
    let told = |error: &dyn miette::Diagnostic| vec![located(file, error)];
    nesting::check(file).map_err(|error| vec![error])?;
    let parsed: CedarSet = file.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|error| located(file, error)).collect::<Vec<_>>()
    })?;
    if parsed.templates().next().is_some() {
        let message = "a policy template (?principal, ?resource) is never filled in here";
        return Err(vec![PolicyError { file: file.name.clone(), ..PolicyError::general(message) }]);
    }
    for (place, policy) in parsed.policies().enumerate() {
        if let Some(problem) = problem(policy) {
            let line = policy.as_ref().loc().map_or(0, |loc| loc.span.offset());
            return Err(vec![at(file, line, problem, None)]);
        }
        let named: Policy = policy.new_id(PolicyId::new(format!("{number} {place}")));
        set.add(named).map_err(|error| told(&error))?;
    }
    Ok(())
}

/// A name that no namespace can have would never match, and a `forbid` never bite.
fn problem(policy: &Policy) -> Option<String> {
    let known = ["id", "reason"];
    if let Some((key, _)) = policy.annotations().find(|(key, _)| !known.contains(key)) {
        return Some(format!("annotation @{key} has no meaning here"));
    }
    policy.entity_literals().into_iter().filter(schema::is_namespace).find_map(|literal| {
        let error = literal.id().unescaped().parse::<Namespace>().err()?;
        Some(format!("{literal} never matches: {error}"))
    })
}

fn entity_uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}

#[allow(clippy::expect_used, reason = "the names are our own constants")]
fn type_name(name: &str) -> EntityTypeName {
    EntityTypeName::from_str(name).expect("a plain identifier is an entity type name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(text: &str) -> Owners {
        Owners::parse(&[SourceFile::new("owners.cedar", text)]).unwrap()
    }

    fn writer(name: &str, groups: &[&str]) -> Writer {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Writer { uid: 1001, name: Some(name.to_owned()), groups }
    }

    #[test]
    fn users_and_groups_write_where_they_are_permitted() {
        let owners = owners(
            r#"
            permit(principal in Group::"shop", action == Action::"write", resource in Namespace::"/acme/shop");
            permit(principal == User::"alice", action, resource == Namespace::"/acme");
            forbid(principal, action, resource in Namespace::"/acme/shop/vault");
            "#,
        );
        let may =
            |writer: &Writer, path: &str| owners.may_write(writer, &path.parse().unwrap()).unwrap();
        let (alice, bob) = (writer("alice", &[]), writer("bob", &["users", "shop"]));
        assert!(may(&alice, "/acme") && !may(&alice, "/acme/shop") && !may(&alice, "/"));
        assert!(may(&bob, "/acme/shop") && may(&bob, "/acme/shop/eu") && !may(&bob, "/acme"));
        assert!(!may(&bob, "/acme/shop/vault") && !may(&bob, "/acme/shopping"));
        let root = Writer { uid: 0, ..writer("root", &[]) };
        assert!(may(&root, "/acme/shop/vault"));
    }

    #[test]
    fn a_user_without_an_account_has_no_name_to_be_called_by() {
        let owners = owners("permit(principal == User::\"#4711\", action, resource);");
        let nobody = Writer { uid: 4711, name: None, groups: Vec::new() };
        let place = "/a".parse().unwrap();
        assert!(owners.may_write(&nobody, &place).unwrap());
        let other = Writer { uid: 4712, ..nobody };
        assert!(!owners.may_write(&other, &place).unwrap());
        assert_eq!(other.to_string(), "uid 4712");
    }

    #[test]
    fn the_account_database_is_asked() {
        let root = Writer::of(0).unwrap();
        assert_eq!((root.name.as_deref(), root.uid), (Some("root"), 0));
        assert!(root.groups.contains(&"root".to_owned()), "{:?}", root.groups);
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_place() {
        for (text, found) in [
            ("permit(principal, action, resource)", "owners.cedar:1"),
            ("\npermit(principal in Workload::\"x\", action, resource);", "owners.cedar:2"),
            ("permit(principal, action == Action::\"connect\", resource);", "connect"),
            ("permit(principal, action, resource) when { principal.gid == 1 };", "gid"),
            ("forbid(principal, action, resource in Namespace::\"acme/\");", "never matches"),
            ("@active(\"daily UTC\") permit(principal, action, resource);", "@active"),
            ("permit(principal == ?principal, action, resource);", "template"),
        ] {
            let told = Owners::parse(&[SourceFile::new("owners.cedar", text)]).unwrap_err();
            assert!(told.to_string().contains(found), "{text}: {told}");
        }
    }
}
