//! `policy prove` with the real solver, which `CVC5` names: `cargo xtask test unit` installs one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use enforcer_user::identity::{Identity, Namespace};
use enforcer_user::policy::prove::{Answer, Question, Sides, Solver, Witness, prove};
use enforcer_user::policy::{Action, Policy, Protocol, Request, SourceFile};

/// Monday, 2026-11-23T12:00:00Z.
const NOON: i64 = 1_795_435_200;
const PATIENCE: Duration = Duration::from_mins(1);

fn solver() -> Solver {
    assert!(
        std::env::var_os("CVC5").is_some(),
        "CVC5 names no solver: `cargo xtask test unit` installs one and sets it"
    );
    Solver::new(PATIENCE)
}

/// Files by the namespaces that they belong to.
fn policy(files: &[(&str, &str)]) -> Policy {
    let file = |(number, (scope, text)): (usize, &(&str, &str))| SourceFile {
        name: format!("{number}.cedar"),
        text: (*text).to_owned(),
        scope: scope.parse::<Namespace>().unwrap(),
    };
    Policy::from_sources(&files.iter().enumerate().map(file).collect::<Vec<_>>(), Vec::new())
        .unwrap()
}

fn anybody() -> Question {
    Question { from: "*".parse().unwrap(), to: "*".parse().unwrap(), port: None, when: None }
}

fn ask_both(connect: &Policy, accept: &Policy, from: &str, to: &str, when: Option<&str>) -> Answer {
    let question = Question {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        port: None,
        when: when.map(str::to_owned),
    };
    prove(Sides { connect, accept }, &question, &solver(), NOON).unwrap()
}

fn ask(policy: &Policy, from: &str, to: &str) -> Answer {
    ask_both(policy, policy, from, to, None)
}

#[track_caller]
fn never(answer: Answer) {
    match answer {
        Answer::Never => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn reaches(answer: Answer) -> Witness {
    match answer {
        Answer::Reaches(witness) => *witness,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_reaches_where_nothing_permits() {
    never(ask(&policy(&[("/", "")]), "*", "*"));
}

#[test]
fn dev_reaches_prod_by_a_permit_on_labels_until_a_forbid_says_never() {
    const PERMIT: &str = "permit(principal, action, resource) when { principal.labels.tier == resource.labels.tier };";
    let open = policy(&[("/", PERMIT)]);
    let found = reaches(ask(&open, "/dev", "/prod"));
    assert!("/dev".parse::<Namespace>().unwrap().contains(found.caller.namespace()));
    assert!("/prod".parse::<Namespace>().unwrap().contains(found.callee.namespace()));
    assert_eq!(found.caller.labels().get("tier"), found.callee.labels().get("tier"));
    assert!(found.why.connect.allow && found.why.accept.allow);

    let forbid =
        "forbid(principal in Namespace::\"/dev\", action, resource in Namespace::\"/prod\");";
    let closed = policy(&[("/", PERMIT), ("/", forbid)]);
    never(ask(&closed, "/dev", "/prod"));
    reaches(ask(&closed, "/prod", "/dev"));
    reaches(ask(&closed, "/test", "/prod"));
}

#[test]
fn both_ends_must_permit() {
    let caller = policy(&[("/", "permit(principal, action == Action::\"connect\", resource);")]);
    let callee = policy(&[("/", "permit(principal, action == Action::\"accept\", resource);")]);
    reaches(ask_both(&caller, &callee, "/a", "/b", None));
    never(ask_both(&callee, &caller, "/a", "/b", None));
    never(ask_both(&caller, &caller, "/a", "/b", None));
    let by_condition =
        "permit(principal, action, resource) when { action == Action::\"connect\" };";
    never(ask(&policy(&[("/", by_condition)]), "/a", "/b"));
}

#[test]
fn a_label_that_is_missing_is_thought_of() {
    // Whoever lacks the label passes: `has` is the way around it.
    let guarded =
        "permit(principal, action, resource) unless { principal.labels has quarantined };";
    let found = reaches(ask(&policy(&[("/", guarded)]), "/a", "/b"));
    assert!(!found.caller.labels().contains_key("quarantined"));
    let marked = "permit(principal, action, resource) when { resource.labels has open };";
    let found = reaches(ask(&policy(&[("/", marked)]), "/a", "/b"));
    assert!(found.callee.labels().contains_key("open"));
    // Here it is not: a forbid that fails denies.
    let text = "permit(principal, action, resource) unless { principal.labels has quarantined };
                forbid(principal, action, resource) unless { principal.labels.quarantined == \"no\" };";
    let both = policy(&[("/", text)]);
    never(ask(&both, "/a", "/b"));
    // A label of no importance is not in the way of a proof.
    let text = "permit(principal, action, resource) when { principal.labels.a == \"1\" };
                forbid(principal, action, resource) when { principal.labels.a == \"1\" };";
    never(ask(&policy(&[("/", text)]), "/a", "/b"));
}

#[test]
fn what_a_workload_runs_and_where_is_thought_of() {
    let text = "permit(principal, action, resource)
                when { principal.user == \"shop\" && resource.node.zone == \"north\" };";
    let open = policy(&[("/", text)]);
    let found = reaches(ask(&open, "/dev", "/prod"));
    assert_eq!(found.caller.description(), [("user".to_owned(), "shop".to_owned())].into());
    assert_eq!(found.callee.description(), [("node.zone".to_owned(), "north".to_owned())].into());
    for lacking in
        ["!(principal has user)", "!(resource.node has zone)", "!(resource has node.zone)"]
    {
        let closed = format!("{text} forbid(principal, action, resource) unless {{ {lacking} }};");
        never(ask(&policy(&[("/", &closed)]), "/dev", "/prod"));
        never(ask_both(&open, &open, "/dev", "/prod", Some(lacking)));
    }
    for impossible in [
        "resource.executable like \"md5:*\"",
        "resource.executable like \"md5:*\" && !(resource.executable like \"blake3:*\")",
    ] {
        never(ask_both(&open, &open, "/dev", "/prod", Some(impossible)));
    }
    for possible in [
        "principal.image != \"a\"",
        "principal.image != resource.image && !(principal.image like \"a*\")",
        "resource.executable != principal.executable",
        "resource.executable like \"sha256:*\" && principal.executable like \"blake3:*\"",
        // Neither the context nor a namespace has what workloads may have.
        "context has image || principal.namespace has user || resource.name == \"db\"",
        "{\"image\": 1} has image",
    ] {
        reaches(ask_both(&open, &open, "/dev", "/prod", Some(possible)));
    }
    // A label of this name is none of the node's.
    let text = format!(
        "{text} forbid(principal, action, resource) unless {{ resource.labels has zone }};"
    );
    let found = reaches(ask(&policy(&[("/", &text)]), "/dev", "/prod"));
    assert!(found.callee.labels().contains_key("zone"), "{found:?}");
}

#[test]
fn who_calls_itself_has_the_same_labels_twice() {
    let text = "permit(principal, action, resource)
                when { principal == resource && principal.labels.tier == \"a\" };";
    let found = reaches(ask(&policy(&[("/", text)]), "/dev", "/dev"));
    assert_eq!(found.caller, found.callee);
}

#[test]
fn files_speak_for_their_namespaces_and_within_bounds() {
    const ALL: &str = "permit(principal, action, resource);";
    let shop = policy(&[("/shop", ALL)]);
    reaches(ask(&shop, "/shop/a", "/shop/b"));
    never(ask(&shop, "/shop", "/bank"));
    never(ask(&shop, "/bank", "/shop"));
    let bounds = "@bounds(\"/shop\") permit(principal in Namespace::\"/shop\", action, resource in Namespace::\"/shop\")
                  when { context.port == 443 };";
    let bound = policy(&[("/shop", ALL), ("/", bounds)]);
    assert_eq!(reaches(ask(&bound, "/shop", "/shop")).port, 443);
    let other = policy(&[
        ("/shop", "permit(principal, action, resource) when { context.port == 80 };"),
        ("/", bounds),
    ]);
    never(ask(&other, "/shop", "/shop"));
}

#[test]
fn hours_are_found_and_closed_ones_prove_nothing() {
    let open = "@active(\"Sun 03:00-04:00 UTC\") permit(principal, action, resource);";
    let found = reaches(ask(&policy(&[("/", open)]), "/a", "/b"));
    assert_ne!(found.unix_seconds, NOON);
    let text = "permit(principal, action, resource);
                @active(\"Mon-Fri 08:00-18:00 UTC\") forbid(principal, action, resource);";
    reaches(ask(&policy(&[("/", text)]), "/a", "/b"));
    let tried = "permit(principal, action, resource);
                 @mode(\"observe\") forbid(principal, action, resource);";
    reaches(ask(&policy(&[("/", tried)]), "/a", "/b"));
    let read =
        "permit(principal, action, resource) when { context.time >= datetime(\"2030-01-01\") };";
    assert!(reaches(ask(&policy(&[("/", read)]), "/a", "/b")).unix_seconds > NOON);
}

#[test]
fn what_must_be_encrypted_reaches_nobody() {
    let secret =
        "@encrypt permit(principal, action, resource) when { resource.labels.app == \"db\" };";
    never(ask(&policy(&[("/", secret)]), "*", "*"));
    let beside = format!("{secret} permit(principal, action, resource);");
    let found = reaches(ask(&policy(&[("/", &beside)]), "*", "*"));
    assert_ne!(found.callee.labels().get("app").map(String::as_str), Some("db"));
}

#[test]
fn a_path_that_is_asked_for_is_thought_of() {
    for text in [
        "permit(principal, action, resource);
         forbid(principal, action, resource) when { principal has labels.quarantine };",
        "permit(principal, action, resource) unless { principal has labels.tier };",
    ] {
        let found = reaches(ask(&policy(&[("/", text)]), "/dev", "/prod"));
        assert!(found.caller.labels().is_empty(), "{found:?}");
    }
    let open = policy(&[("/", "permit(principal, action, resource);")]);
    reaches(ask_both(&open, &open, "/dev", "/prod", Some("!(principal has labels.tier)")));
}

#[test]
fn what_closes_does_not_where_a_label_is_missing_or_a_bound_is_not_in_force() {
    let text = "permit(principal, action, resource);
                @encrypt permit(principal in Namespace::\"/dev\", action, resource) when { principal.labels.tier == \"db\" };
                @encrypt permit(principal in Namespace::\"/dev\", action, resource) when { principal.labels.tier != \"db\" };";
    let found = reaches(ask(&policy(&[("/", text)]), "/dev", "/prod"));
    assert!(!found.caller.labels().contains_key("tier"));
    let root = "permit(principal, action, resource);
                @bounds(\"/shop\") @active(\"Mon 08:00-09:00 UTC\") permit(principal, action, resource);";
    let shop = "@encrypt permit(principal, action, resource);";
    reaches(ask(&policy(&[("/", root), ("/shop", shop)]), "/shop", "/shop"));
    let always = root.replace("@active(\"Mon 08:00-09:00 UTC\") ", "");
    never(ask(&policy(&[("/", &always), ("/shop", shop)]), "/shop", "/shop"));
}

#[test]
fn names_are_what_they_say() {
    const TILL: &str = "spiffe://example.org/shop/till";
    let text =
        "permit(principal == Workload::\"spiffe://example.org/shop/till\", action, resource);";
    let one = policy(&[("/", text)]);
    let found = reaches(ask(&one, "/shop", "*"));
    assert_eq!((found.caller.name(), found.caller.spiffe_id().as_str()), ("till", TILL));
    never(ask(&one, "/bank", "*"));
    reaches(ask(&one, TILL, "/bank"));
    never(ask(&one, "spiffe://example.org/shop/other", "/bank"));
    // Another's name in the trust domain, told by its parts.
    let text = "permit(principal, action, resource) when { principal.name == \"till\" && \
                principal.namespace == Namespace::\"/shop\" };
                forbid(principal == Workload::\"spiffe://example.org/shop/till\", action, resource);";
    never(ask_both(
        &policy(&[("/", text)]),
        &policy(&[("/", text)]),
        "*",
        "*",
        Some("principal.trust_domain == \"example.org\""),
    ));
    let below =
        policy(&[("/", "permit(principal in Namespace::\"/shop/front\", action, resource);")]);
    reaches(ask(&below, "/shop", "*"));
    reaches(ask(&below, "/shop/front/a", "*"));
    never(ask(&below, "/shop/frontal", "*"));
}

#[test]
fn a_question_may_have_a_condition_and_a_port() {
    let text = "permit(principal, action, resource) when { resource.labels.app == \"db\" && context.port == 5432 };";
    let db = policy(&[("/", text)]);
    let when = |condition| ask_both(&db, &db, "*", "*", Some(condition));
    never(when("resource.labels.app == \"web\""));
    never(when("context.port < 1024"));
    let found = reaches(when("resource.labels.app == \"db\" && principal.labels.app == \"web\""));
    assert_eq!(found.caller.labels().get("app").map(String::as_str), Some("web"));
    for (wrong, said) in [
        ("true }; permit(principal, action, resource) unless { true", "condition"),
        ("true } when { true", "condition"),
        ("1 +", "condition"),
        ("1", "expected Bool"),
        ("principal.nothing == 1", "nothing"),
        ("Workload::\"a\" in Space::\"/\"", "Space"),
    ] {
        let question = Question { when: Some(wrong.to_owned()), ..anybody() };
        let answer = prove(Sides { connect: &db, accept: &db }, &question, &solver(), NOON);
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn without_a_solver_nothing_is_proved() {
    let question = anybody();
    let policy = policy(&[(
        "/",
        "permit(principal, action, resource) when { principal.labels.a == \"1\" };",
    )]);
    let sides = Sides { connect: &policy, accept: &policy };
    for program in ["/nonexistent/cvc5", "/bin/true", "/bin/cat"] {
        let solver = Solver::new(Duration::from_secs(1)).program(program);
        let answer = prove(sides, &question, &solver, NOON).unwrap();
        assert!(matches!(answer, Answer::Undecided(_)), "{program}: {answer:?}");
    }
}

/// A condition of a few labels, ports and places, so that many are alike.
fn random_condition(random: &mut fastrand::Rng, depth: u32) -> String {
    let side = random.choice(["principal", "resource"]).unwrap();
    let label = random.choice(["a", "b"]).unwrap();
    let value = random.choice(["1", "2"]).unwrap();
    if depth > 0 && random.bool() {
        let operator = random.choice(["&&", "||"]).unwrap();
        let (left, right) =
            (random_condition(random, depth - 1), random_condition(random, depth - 1));
        return format!("({left} {operator} {right})");
    }
    match random.u8(..13) {
        0 | 1 => format!("{side}.labels.{label} == \"{value}\""),
        2 => format!("{side}.labels.{label} != \"{value}\""),
        3 => format!("{side}.labels has {label}"),
        4 => format!("!({side} has labels.{label})"),
        5 => format!("principal.labels.{label} == resource.labels.{label}"),
        6 => "context.port == 80".to_owned(),
        7 => format!("{side} in Namespace::\"/x\""),
        8 => format!("{side}.node.{label} == \"{value}\""),
        9 => format!("!({side}.node has {label})"),
        10 => format!("{side}.user != \"{value}\""),
        11 => format!("{side} has user"),
        _ => "principal.namespace == resource.namespace".to_owned(),
    }
}

fn random_policy(random: &mut fastrand::Rng) -> String {
    let effect =
        random.choice(["permit", "permit", "permit", "@encrypt permit", "forbid"]).unwrap();
    let action = random.choice(["action", "action", "action == Action::\"connect\""]).unwrap();
    let caller = random.choice(["principal", "principal in Namespace::\"/x\""]).unwrap();
    let clause = random.choice(["when", "unless"]).unwrap();
    let condition = random_condition(random, 2);
    format!("{effect}({caller}, {action}, resource) {clause} {{ {condition} }};\n")
}

/// Every workload that has a part in the policies above, one for each way to differ in its labels, and some of the
/// ways to differ in the rest.
fn everybody() -> Vec<Identity> {
    let labels = [None, Some("1"), Some("2")];
    let mut all = Vec::new();
    for (namespace, a, b) in ["/x", "/x/y", "/z"].into_iter().flat_map(|namespace| {
        labels.into_iter().flat_map(move |a| labels.into_iter().map(move |b| (namespace, a, b)))
    }) {
        for (user, on_a) in [(None, None), (Some("1"), Some("2")), (Some("2"), None), (None, a)] {
            let carried = |texts: [(&str, Option<&str>); 2]| {
                let texts = texts.into_iter();
                texts.filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect()
            };
            let name = format!("w{}", all.len());
            let labels = carried([("a", a), ("b", b)]);
            let plain =
                Identity::new("example.org", namespace.parse().unwrap(), &name, labels).unwrap();
            all.push(plain.described(&carried([("user", user), ("node.a", on_a)])).unwrap());
        }
    }
    all
}

#[test]
fn what_is_proved_holds_of_everybody() {
    const CASES: u32 = 40;
    let mut random = fastrand::Rng::with_seed(0x9e37);
    let everybody = everybody();
    let (mut proved, mut reached) = (0, 0);
    for case in 0..CASES {
        let text: String = (0..random.u8(1..5)).map(|_| random_policy(&mut random)).collect();
        let policy = policy(&[("/", &text)]);
        let (from, to) =
            (random.choice(["/x", "*"]).unwrap(), random.choice(["/z", "/x", "*"]).unwrap());
        let question =
            Question { from: from.parse().unwrap(), to: to.parse().unwrap(), ..anybody() };
        let allowed = |caller: &Identity, callee: &Identity, port| {
            let allows = |action| {
                let request = Request {
                    action,
                    caller,
                    callee,
                    port,
                    protocol: Protocol::TCP,
                    unix_seconds: NOON,
                };
                policy.decide(&request).allow
            };
            allows(Action::Connect) && allows(Action::Accept)
        };
        let pairs = everybody
            .iter()
            .flat_map(|caller| everybody.iter().map(move |callee| (caller, callee)));
        let mut pairs =
            pairs.filter(|(caller, callee)| question.from.is(caller) && question.to.is(callee));
        let reaches = pairs.find(|(caller, callee)| {
            [80, 81].into_iter().any(|port| allowed(caller, callee, port))
        });
        let answer =
            prove(Sides { connect: &policy, accept: &policy }, &question, &solver(), NOON).unwrap();
        match answer {
            Answer::Never => {
                assert!(reaches.is_none(), "case {case}, {from} to {to}: {reaches:?} in\n{text}");
                proved += 1;
            }
            Answer::Reaches(_) => reached += 1,
            Answer::Undecided(why) => panic!("case {case}, {from} to {to}: {why} in\n{text}"),
        }
    }
    assert!(proved > 5 && reached > 5, "{proved} proved, {reached} reached");
}

/// The built binary's exit status and what it says.
fn run(folder: &Path, solver: Option<&str>, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    command.args(["policy", "prove"]).args(arguments).current_dir(folder);
    if let Some(solver) = solver {
        command.env("CVC5", solver);
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), said.concat())
}

#[test]
fn the_command_tells_by_its_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let permit = "permit(principal, action, resource) when { resource.labels.app == \"db\" };";
    let forbid =
        "forbid(principal in Namespace::\"/dev\", action, resource in Namespace::\"/prod\");";
    write("a.cedar", permit);
    write("b.cedar", forbid);
    let ask = |arguments: &[&str]| run(folder.path(), None, arguments);
    let (status, said) = ask(&["-f", "a.cedar", "--from", "/dev", "--to", "/prod"]);
    assert_eq!(status, 3, "{said}");
    assert!(
        said.starts_with("reaches: spiffe://")
            && said.contains("app=\"db\"")
            && said.contains("a.cedar:1"),
        "{said}"
    );
    let (status, said) = ask(&["-f", "a.cedar", "b.cedar", "--from", "/dev", "--to", "/prod"]);
    assert_eq!(
        (status, said.as_str()),
        (0, "never: nobody in /dev reaches anybody in /prod on any port\n")
    );
    let (status, said) = ask(&["-f", "a.cedar", "--from", "/dev", "--to", "*", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (status, &report["answer"], &report["to"]["labels"]["app"]),
        (3, &"reaches".into(), &"db".into())
    );
    let (status, said) = run(
        folder.path(),
        Some("/nonexistent/cvc5"),
        &["-f", "a.cedar", "--from", "*", "--to", "*"],
    );
    assert_eq!(status, 4, "{said}");
    assert!(
        said.starts_with("undecided: there is no solver") && said.contains("install cvc5"),
        "{said}"
    );
    let (status, said) = ask(&["-f", "a.cedar", "--from", "dev", "--to", "*"]);
    assert_eq!(status, 2, "{said}");
    let (status, said) = ask(&["-f", "missing.cedar", "--from", "*", "--to", "*"]);
    assert!(status == 1 && said.contains("missing.cedar"), "{said}");
}

#[test]
fn two_nodes_are_asked_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    for (node, rule) in
        [("a", "action == Action::\"connect\""), ("b", "action == Action::\"accept\"")]
    {
        let policy = format!("permit(principal, {rule}, resource);");
        std::fs::write(folder.path().join(format!("{node}.cedar")), policy).unwrap();
        let config = format!(
            "trust_domain = \"example.org\"\n[identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n\
             [policy]\nfiles = [\"{node}.cedar\"]\n"
        );
        std::fs::write(folder.path().join(format!("{node}.toml")), config).unwrap();
    }
    let ask = |files: &[&str]| {
        let arguments = [&["-f"], files, &["--from", "/x", "--to", "/y"]].concat();
        run(folder.path(), None, &arguments)
    };
    assert_eq!(ask(&["a.toml"]).0, 0);
    let (status, said) = ask(&["a.toml", "b.toml"]);
    assert!(
        status == 3 && said.contains("source (a.toml)") && said.contains("destination (b.toml)"),
        "{said}"
    );
}

/// docs/POLICY.md says what is true.
#[test]
fn the_documented_proofs_are_found() {
    let document = include_str!("../../docs/POLICY.md");
    let blocks = document.split("```").skip(1).step_by(2);
    let (mut rules, mut tried) = ("", 0);
    for (language, text) in blocks.filter_map(|block| block.split_once('\n')) {
        match language {
            "cedar" => rules = text,
            "prove" => {
                let policy = policy(&[("/", rules)]);
                for line in text.lines() {
                    let (question, expected) = line.rsplit_once(": ").unwrap();
                    let (who, when) = question
                        .split_once(" where ")
                        .map_or((question, None), |(who, when)| (who, Some(when)));
                    let (from, to) = who.split_once(" to ").unwrap();
                    let found = match ask_both(&policy, &policy, from, to, when) {
                        Answer::Never => "never",
                        Answer::Reaches(_) => "reaches",
                        Answer::Undecided(_) => "undecided",
                    };
                    assert_eq!(found, expected, "{line}");
                    tried += 1;
                }
            }
            _ => {}
        }
    }
    assert!(tried >= 4, "{tried}");
}
