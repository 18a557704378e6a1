//! The network rules that permit what was seen of peers without an identity, and as little else as few tables can say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;

use super::propose::when;
use super::record::{ADDRESSES_MAX, LearnedAddress, LearnedReport, network_of};
use crate::identity::Identity;
use crate::policy::Direction;
use crate::policy::network::MAX_CIDRS;

/// The most that is open at one address: the kernel's table has room for 16, of which rules that are there already need
/// some, and so does what remains when protocols are joined.
const ENTRIES_MAX: usize = 10;
/// The most that is open in a network: an address in it has what the network has, and needs no more than one of either
/// direction beside it. So nothing that one address does widens what is open to its neighbours.
const ENTRIES_MAX_NETWORK: usize = ENTRIES_MAX - 2;
/// Bytes of a rule's name.
const NAME_MAX: usize = 64;
/// Networks in one line.
const CIDRS_A_LINE: usize = 4;

/// What one rule is for: a direction and a protocol, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    direction: Direction,
    protocol: Option<&'a str>,
}

/// What is to be open at one network.
#[derive(Debug, Clone)]
struct Open<'a> {
    kind: Kind<'a>,
    prefix: IpNet,
    /// First and last; 0 of protocols without.
    ports: (u16, u16),
    seen: Vec<&'a LearnedAddress>,
}

impl Open<'_> {
    fn ports_used(&self) -> usize {
        self.seen.iter().map(|one| one.port).collect::<BTreeSet<u16>>().len()
    }
}

/// The text of `[[network_rule]]` tables; empty if nothing was seen that needs one.
///
/// Each is for one workload. They stand beside the rules in force: what those allow is not in them.
#[must_use]
pub fn network_rules(report: &LearnedReport) -> String {
    let mut of: BTreeMap<&str, Vec<&LearnedAddress>> = BTreeMap::new();
    for one in &report.addresses {
        of.entry(&one.workload).or_default().push(one);
    }
    let in_force = report.configured.iter().flat_map(|all| all.network_rules.iter().cloned());
    let (mut names, mut text): (BTreeSet<String>, _) = (in_force.collect(), String::new());
    if let Some(configured) = &report.configured {
        let gone = of.extract_if(.., |id, _| !configured.workloads.iter().any(|one| one == id));
        let gone: Vec<&str> = gone.map(|(id, _)| id).collect();
        if !gone.is_empty() {
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "# Left out, not in the configuration any more: {}\n",
                gone.join(", ")
            );
        }
    }
    for (workload, seen) in of {
        let Ok(identity) = Identity::from_spiffe_id(workload, BTreeMap::new()) else { continue };
        let below = namesakes(&identity, report);
        for (kind, rules) in rules(&fitted(widened(&seen))) {
            for rule in rules {
                write_rule(&mut text, &identity, &below, kind, &rule, &mut names);
            }
        }
    }
    text
}

/// Others that have the workload's name and lie below its namespace: a rule for it is for them too.
fn namesakes(own: &Identity, report: &LearnedReport) -> Vec<String> {
    let all: Vec<&String> = match &report.configured {
        Some(configured) => configured.workloads.iter().collect(),
        None => report.workloads.iter().map(|one| &one.spiffe_id).collect(),
    };
    let all = all.into_iter().filter_map(|id| Identity::from_spiffe_id(id, BTreeMap::new()).ok());
    let is_below = |other: &Identity| {
        other.name() == own.name()
            && other.namespace() != own.namespace()
            && own.namespace().contains(other.namespace())
    };
    all.filter(is_below).map(|other| other.spiffe_id()).collect()
}

/// Each address that no rule allows by itself, or its network, if many of it were seen at one port.
fn widened<'a>(seen: &[&'a LearnedAddress]) -> Vec<Open<'a>> {
    let mut by_network: BTreeMap<(Kind<'a>, u16, IpNet), Vec<&'a LearnedAddress>> = BTreeMap::new();
    for one in seen {
        let kind = Kind { direction: one.direction, protocol: Some(&one.protocol) };
        by_network.entry((kind, one.port, network_of(one.address))).or_default().push(one);
    }
    let mut all = Vec::new();
    for ((kind, port, network), seen) in by_network {
        let open = |prefix, seen| Open { kind, prefix, ports: (port, port), seen };
        let is_whole = seen.len() > ADDRESSES_MAX;
        let needed: Vec<_> = seen.into_iter().filter(|one| !one.allowed).collect();
        if is_whole && !needed.is_empty() {
            all.push(open(network, needed));
        } else {
            all.extend(needed.into_iter().map(|one| open(one.address.into(), vec![one])));
        }
    }
    all
}

/// The same, with so much joined that every address has room for what is open there.
fn fitted(all: Vec<Open<'_>>) -> Vec<Open<'_>> {
    let mut by_network: BTreeMap<IpNet, Vec<Open<'_>>> = BTreeMap::new();
    for open in all {
        by_network.entry(network_of(open.prefix.addr())).or_default().push(open);
    }
    for opens in by_network.values_mut() {
        // A network stands before the addresses in it, which have what is open in it too and take the room that is left.
        let prefixes: BTreeSet<IpNet> = opens.iter().map(|open| open.prefix).collect();
        for prefix in prefixes {
            fit(opens, prefix);
        }
    }
    by_network.into_values().flatten().collect()
}

/// Joins what is open at exactly this prefix until there is room for it.
fn fit(opens: &mut Vec<Open<'_>>, prefix: IpNet) {
    opens.sort_unstable_by_key(|open| (open.prefix, open.kind, open.ports));
    let is_network = prefix.prefix_len() < prefix.max_prefix_len();
    let max = if is_network { ENTRIES_MAX_NETWORK } else { ENTRIES_MAX };
    while opens.iter().filter(|open| open.prefix.contains(&prefix)).count() > max {
        let pairs = opens.windows(2).enumerate().filter_map(|(place, pair)| {
            let [one, next] = pair else { return None };
            let is_pair =
                one.prefix == prefix && (one.kind, one.prefix) == (next.kind, next.prefix);
            is_pair.then(|| (next.ports.0.abs_diff(one.ports.1), place))
        });
        match pairs.min() {
            Some((_, place)) => join(opens, place),
            None => return join_protocols(opens, prefix),
        }
    }
}

/// The ports of two that stand beside each other become one span.
fn join(opens: &mut Vec<Open<'_>>, place: usize) {
    let next = opens.remove(place + 1);
    if let Some(one) = opens.get_mut(place) {
        one.ports.1 = next.ports.1;
        one.seen.extend(next.seen);
    }
}

/// Everything that is open at exactly this prefix becomes open by any protocol and at any port.
fn join_protocols(opens: &mut Vec<Open<'_>>, prefix: IpNet) {
    let mut joined: Vec<Open<'_>> = Vec::new();
    let mut kept = Vec::new();
    for open in opens.drain(..) {
        if open.prefix != prefix {
            kept.push(open);
            continue;
        }
        let kind = Kind { protocol: None, ..open.kind };
        match joined.iter_mut().find(|one| one.kind == kind) {
            Some(one) => one.seen.extend(open.seen),
            None => joined.push(Open { kind, ports: (0, 0), ..open }),
        }
    }
    opens.extend(kept.into_iter().chain(joined));
    opens.sort_unstable_by_key(|open| (open.prefix, open.kind, open.ports));
}

/// What becomes one table: all ports that the same networks are open at.
#[derive(Debug, Default)]
struct Rule<'a> {
    prefixes: Vec<IpNet>,
    /// Ascending.
    spans: Vec<Span<'a>>,
}

/// Ports that follow each other, or that were joined.
#[derive(Debug)]
struct Span<'a> {
    ports: (u16, u16),
    /// How many of them were seen, at the network where it was fewest.
    used: usize,
    seen: Vec<&'a LearnedAddress>,
}

type Spans<'o, 'a> = BTreeMap<(u16, u16), Vec<&'o Open<'a>>>;

fn rules<'a>(opens: &[Open<'a>]) -> BTreeMap<Kind<'a>, Vec<Rule<'a>>> {
    let mut kinds: BTreeMap<Kind<'a>, Spans<'_, 'a>> = BTreeMap::new();
    for open in opens {
        let at = kinds.entry(open.kind).or_default().entry(open.ports).or_default();
        at.push(open);
    }
    kinds.into_iter().map(|(kind, spans)| (kind, joined(spans))).collect()
}

fn joined<'a>(spans: Spans<'_, 'a>) -> Vec<Rule<'a>> {
    let mut all: BTreeMap<Vec<IpNet>, Rule<'a>> = BTreeMap::new();
    for (ports, opens) in spans {
        let seen: Vec<&LearnedAddress> = opens.iter().flat_map(|open| open.seen.clone()).collect();
        let used = opens.iter().map(|open| open.ports_used()).min().unwrap_or_default();
        // No network of a rule may hold another.
        let mut prefixes: Vec<IpNet> = Vec::new();
        let sorted: BTreeSet<IpNet> = opens.iter().map(|open| open.prefix).collect();
        for prefix in sorted {
            if prefixes.last().is_none_or(|last| !last.contains(&prefix)) {
                prefixes.push(prefix);
            }
        }
        for part in prefixes.chunks(MAX_CIDRS) {
            let inside = |one: &&LearnedAddress| part.iter().any(|net| net.contains(&one.address));
            let rule = all.entry(part.to_vec()).or_default();
            rule.prefixes = part.to_vec();
            let seen = seen.iter().copied().filter(inside).collect();
            rule.spans.push(Span { ports, used, seen });
        }
    }
    let mut rules: Vec<Rule<'a>> = all.into_values().collect();
    rules.sort_by_key(|rule| rule.spans.first().map(|span| span.ports));
    rules
}

fn write_rule(
    text: &mut String,
    workload: &Identity,
    below: &[String],
    kind: Kind<'_>,
    rule: &Rule<'_>,
    names: &mut BTreeSet<String>,
) {
    let seen = || rule.spans.iter().flat_map(|span| &span.seen);
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!("# {}", when(seen().map(|one| &one.when))));
    if !below.is_empty() {
        line(&format!("# Wider than seen: also for {}", below.join(", ")));
    }
    for net in rule.prefixes.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
        line(&format!("# Wider than seen: more than {ADDRESSES_MAX} addresses of {net} were seen"));
    }
    for Span { ports: (first, last), used, .. } in &rule.spans {
        if *used <= usize::from(last - first) {
            line(&format!("# Wider than seen: {used} ports of {first}-{last} were used"));
        }
    }
    if kind.protocol.is_none() {
        let used: BTreeSet<&str> = seen().map(|one| one.protocol.as_str()).collect();
        line(&format!("# Wider than seen: {} protocols were used", used.len()));
    }
    line("[[network_rule]]");
    line(&format!("name = {:?}", name(workload, kind, rule, names)));
    line(&format!("namespace = {:?}", workload.namespace().as_str()));
    line(&format!("workload = {:?}", workload.name()));
    line(&format!("direction = \"{}\"", kind.direction));
    line(&format!("cidr = {}", list(&rule.prefixes)));
    line(&format!("protocol = {}", protocol(kind)));
    let ports = ports(rule);
    if !ports.is_empty() {
        line(&format!("ports = {ports:?}"));
    }
    line("");
}

/// Unique among those of the report and those in force: what it is for, shortened, with a number if there are more of it.
fn name(
    workload: &Identity,
    kind: Kind<'_>,
    rule: &Rule<'_>,
    names: &mut BTreeSet<String>,
) -> String {
    let mut told = format!("-{}-{}", kind.direction, kind.protocol.unwrap_or("any"));
    if let Some((first, _)) = rule.spans.first().map(|span| span.ports).filter(|ports| ports.0 > 0)
    {
        // Writing to a text cannot fail.
        let _ = write!(told, "-{first}");
    }
    let mut number = 1_u32;
    loop {
        let suffix = if number == 1 { told.clone() } else { format!("{told}-{number}") };
        let room = NAME_MAX.saturating_sub("learned-".len() + suffix.len());
        // Names of workloads are of letters, digits, '.', '-' and '_', as those of rules.
        let own: String = workload.name().chars().take(room).collect();
        let name = format!("learned-{own}{suffix}");
        if names.insert(name.clone()) {
            return name;
        }
        number += 1;
    }
}

fn list(prefixes: &[IpNet]) -> String {
    let quoted: Vec<String> = prefixes.iter().map(|net| format!("\"{net}\"")).collect();
    if quoted.len() <= CIDRS_A_LINE {
        return format!("[{}]", quoted.join(", "));
    }
    let lines: Vec<String> =
        quoted.chunks(CIDRS_A_LINE).map(|line| format!("    {},\n", line.join(", "))).collect();
    format!("[\n{}]", lines.concat())
}

/// As the configuration takes it: a word, or a number that has none.
fn protocol(kind: Kind<'_>) -> String {
    let word = kind.protocol.unwrap_or("any");
    if word.parse::<u8>().is_ok() { word.to_owned() } else { format!("\"{word}\"") }
}

/// Ports and spans; none of protocols without.
fn ports(rule: &Rule<'_>) -> Vec<String> {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for (first, last) in rule.spans.iter().map(|span| span.ports).filter(|ports| ports.0 > 0) {
        match spans.last_mut() {
            Some(before) if u32::from(before.1) + 1 == u32::from(first) => before.1 = last,
            _ => spans.push((first, last)),
        }
    }
    let text = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    spans.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::config::Config;
    use crate::learn::{Configured, Learned};
    use crate::materials;
    use crate::policy::Protocol;
    use crate::policy::network::{NetworkTable, check_rules, compile};

    const WORKLOADS: [(&str, &str); 3] = [("/a", "web"), ("/a", "db"), ("/b", "web")];

    fn workload(place: usize) -> Identity {
        let (namespace, name) = WORKLOADS[place];
        Identity::new("example.org", namespace.parse().unwrap(), name, BTreeMap::new()).unwrap()
    }

    /// What the daemon makes of a configuration with these rules, for each workload.
    fn tables(rules: &str) -> Vec<NetworkTable> {
        let mut text = String::from("trust_domain = \"example.org\"\n");
        text.push_str("[identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n");
        for (number, (namespace, name)) in WORKLOADS.iter().enumerate() {
            let _ = writeln!(
                text,
                "[[workload]]\nname = {name:?}\nnamespace = {namespace:?}\ninterface = \"eth{number}\""
            );
        }
        text.push_str(rules);
        let config = Config::parse(&text, Path::new("e.toml"), Path::new("/"))
            .unwrap_or_else(|error| panic!("{error}\n{rules}"));
        let rules = materials::network_rules(&config).unwrap();
        check_rules(&rules).unwrap();
        let table = |place| compile(&rules, &workload(place), Vec::new()).unwrap();
        (0..WORKLOADS.len()).map(table).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn host(number: u16) -> IpAddr {
        ip(&format!("203.0.113.{number}"))
    }

    #[test]
    fn few_tables_say_what_was_seen() {
        let mut learned = Learned::default();
        let web = workload(0);
        for (address, port) in [(1, 443), (2, 443), (1, 8443), (2, 8443), (1, 8444), (2, 8444)] {
            let far = (Direction::Egress, host(address));
            learned.note_address(&web, far, (port, Protocol::TCP), 3600);
        }
        let name_server = (Direction::Egress, ip("2001:db8::53"));
        learned.note_address(&web, name_server, (53, Protocol::UDP), 7200);
        let caller = (Direction::Ingress, host(9));
        learned.note_address(&web, caller, (0, Protocol::from_number(47)), 7200);
        let expected = r#"# Seen from 1970-01-01 01:00 UTC to 1970-01-01 01:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-egress-tcp-443"
namespace = "/a"
workload = "web"
direction = "egress"
cidr = ["203.0.113.1/32", "203.0.113.2/32"]
protocol = "tcp"
ports = ["443", "8443-8444"]

# Seen from 1970-01-01 02:00 UTC to 1970-01-01 02:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-egress-udp-53"
namespace = "/a"
workload = "web"
direction = "egress"
cidr = ["2001:db8::53/128"]
protocol = "udp"
ports = ["53"]

# Seen from 1970-01-01 02:00 UTC to 1970-01-01 02:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-ingress-47"
namespace = "/a"
workload = "web"
direction = "ingress"
cidr = ["203.0.113.9/32"]
protocol = 47

"#;
        assert_eq!(network_rules(&learned.report()), expected);
        tables(expected);
        assert_eq!(network_rules(&LearnedReport::default()), "");
    }

    #[test]
    fn many_addresses_become_their_network_and_say_so() {
        let mut learned = Learned::default();
        for number in 0..18 {
            let far = (Direction::Ingress, host(number));
            learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
            if number < 16 {
                learned.note_address(&workload(0), far, (81, Protocol::TCP), 0);
            }
        }
        let text = network_rules(&learned.report());
        assert!(
            text.contains(
                "# Wider than seen: more than 16 addresses of 203.0.113.0/24 were seen\n"
            ),
            "{text}"
        );
        let table = &tables(&text)[0];
        let passes = |number, port| {
            table.lookup(Direction::Ingress, host(number), Protocol::TCP, port).is_some()
        };
        assert!(passes(200, 80) && passes(15, 81) && !passes(16, 81) && !passes(200, 81), "{text}");
    }

    #[test]
    fn many_ports_become_spans_by_the_smallest_gaps() {
        let mut learned = Learned::default();
        let far = (Direction::Egress, host(1));
        for port in (0..20).map(|number| 1000 + 2 * number).chain([22, 443]) {
            learned.note_address(&workload(0), far, (port, Protocol::TCP), 0);
        }
        let text = network_rules(&learned.report());
        assert!(text.contains("# Wider than seen: "), "{text}");
        let table = &tables(&text)[0];
        let passes = |port| table.lookup(Direction::Egress, far.1, Protocol::TCP, port).is_some();
        assert!(passes(22) && passes(443) && passes(1000) && passes(1038), "{text}");
        assert!(!passes(23) && !passes(444) && !passes(999) && !passes(1039), "{text}");
    }

    #[test]
    fn many_protocols_become_any_and_say_so() {
        let mut learned = Learned::default();
        for number in 100..120 {
            let far = (Direction::Egress, host(1));
            learned.note_address(&workload(0), far, (0, Protocol::from_number(number)), 0);
        }
        let text = network_rules(&learned.report());
        assert!(text.contains("# Wider than seen: 20 protocols were used\n"), "{text}");
        let table = &tables(&text)[0];
        assert!(table.lookup(Direction::Egress, host(1), Protocol::TCP, 1).is_some());
        assert!(table.lookup(Direction::Ingress, host(1), Protocol::TCP, 1).is_none());
    }

    #[test]
    fn a_name_that_others_have_below_is_told() {
        let mut learned = Learned::default();
        learned.watch([&workload(0)].into_iter(), 0);
        let far = (Direction::Egress, host(1));
        learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
        let ids = ["/a/web", "/a/b/web", "/a/b/db", "/b/web"];
        let text = network_rules(&configured(&learned, &ids, &[]));
        let told = "# Wider than seen: also for spiffe://example.org/a/b/web\n";
        assert!(text.contains(told), "it does not learn, but the rule is for it: {text}");
    }

    fn configured(learned: &Learned, paths: &[&str], rules: &[&str]) -> LearnedReport {
        let workloads = paths.iter().map(|path| format!("spiffe://example.org{path}")).collect();
        let network_rules = rules.iter().map(|name| (*name).to_owned()).collect();
        LearnedReport {
            configured: Some(Configured { workloads, network_rules }),
            ..learned.report()
        }
    }

    #[test]
    fn workloads_that_are_gone_are_left_out_and_said_to_be() {
        let mut learned = Learned::default();
        let far = (Direction::Egress, host(1));
        for own in [workload(0), workload(1)] {
            learned.note_address(&own, far, (80, Protocol::TCP), 0);
        }
        let text = network_rules(&configured(&learned, &["/a/web"], &[]));
        let told = "# Left out, not in the configuration any more: spiffe://example.org/a/db\n\n";
        assert!(text.starts_with(told) && !text.contains("\"db\""), "{text}");
        assert!(tables(&text)[0].lookup(far.0, far.1, Protocol::TCP, 80).is_some(), "{text}");
    }

    #[test]
    fn rules_in_force_keep_their_names_and_are_not_proposed_again() {
        let mut learned = Learned::default();
        for port in [80, 81] {
            learned.note_address(
                &workload(0),
                (Direction::Egress, host(1)),
                (port, Protocol::TCP),
                0,
            );
        }
        let names = ["learned-web-egress-tcp-81", "learned-web-egress-tcp-81-2"];
        let mut report = configured(&learned, &["/a/web"], &names);
        report.addresses[0].allowed = true;
        let text = network_rules(&report);
        assert!(text.contains("name = \"learned-web-egress-tcp-81-3\""), "{text}");
        assert!(text.contains("ports = [\"81\"]"), "{text}");
        report.addresses[1].allowed = true;
        assert_eq!(network_rules(&report), "");
    }

    #[test]
    fn what_one_address_does_opens_nothing_to_its_neighbours() {
        let mut learned = Learned::default();
        for number in 1..19 {
            let far = (Direction::Ingress, host(number));
            learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            for (port, protocol) in [(443, 6), (53, 17), (0, 1), (0, 47), (0, 50), (0, 51)] {
                let service = (port, Protocol::from_number(protocol));
                learned.note_address(&workload(0), (direction, host(5)), service, 0);
            }
        }
        let text = network_rules(&learned.report());
        let table = &tables(&text)[0];
        let passes = |direction, number, protocol, port| {
            let protocol = Protocol::from_number(protocol);
            table.lookup(direction, host(number), protocol, port).is_some()
        };
        assert!(passes(Direction::Ingress, 200, 6, 80), "{text}");
        for (direction, protocol, port) in
            [(Direction::Ingress, 6, 443), (Direction::Ingress, 47, 0), (Direction::Egress, 6, 80)]
        {
            assert!(!passes(direction, 200, protocol, port), "{protocol} {port}\n{text}");
        }
        assert!(passes(Direction::Ingress, 5, 51, 0) && passes(Direction::Egress, 5, 17, 53));
    }

    #[test]
    fn ports_of_one_address_join_none_of_its_network() {
        let mut learned = Learned::default();
        let mut note = |number, port| {
            let far = (Direction::Ingress, host(number));
            learned.note_address(&workload(0), far, (port, Protocol::TCP), 0);
        };
        for number in 1..19 {
            note(number, 80);
            note(number, 443);
        }
        (1..10).for_each(|port| note(5, 1000 * port));
        let text = network_rules(&learned.report());
        let table = &tables(&text)[0];
        let passes = |number, port| {
            table.lookup(Direction::Ingress, host(number), Protocol::TCP, port).is_some()
        };
        assert!(passes(200, 80) && passes(200, 443) && !passes(200, 81), "{text}");
        assert!((1..10).all(|port| passes(5, 1000 * port)) && !passes(5, 444), "{text}");
    }

    #[test]
    fn names_are_unique_and_short_enough() {
        let long = "w".repeat(63);
        let own = Identity::new("example.org", "/a".parse().unwrap(), &long, BTreeMap::new());
        let own = own.unwrap();
        let mut names = BTreeSet::new();
        let kind = Kind { direction: Direction::Ingress, protocol: Some("icmpv6") };
        for _ in 0..12 {
            name(&own, kind, &Rule::default(), &mut names);
        }
        assert_eq!(names.len(), 12);
        assert!(names.iter().all(|name| name.len() <= NAME_MAX), "{names:?}");
    }

    /// Workload, whether it called, address, port, protocol.
    type Deed = (usize, bool, IpAddr, u16, u8);

    fn deed() -> impl Strategy<Value = Deed> {
        let addresses =
            ["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::1", "2001:db8::2"];
        let mut addresses: Vec<IpAddr> = addresses.map(ip).to_vec();
        addresses.extend((0..18).map(host));
        let ports: Vec<u16> = vec![1, 22, 80, 81, 443, u16::MAX];
        (
            0..WORKLOADS.len(),
            any::<bool>(),
            select(addresses),
            select(ports),
            select(vec![1, 6, 17, 47, 58]),
        )
    }

    proptest! {
        /// Whatever was seen passes. Of addresses of networks that are not named as a whole, and with few enough ports,
        /// nothing else does.
        #[test]
        fn what_was_seen_passes_and_nothing_else(
            seen in prop::collection::vec(deed(), 0..120),
            others in prop::collection::vec(deed(), 40),
        ) {
            let mut learned = Learned::default();
            for (own, called, address, port, protocol) in &seen {
                let direction = if *called { Direction::Egress } else { Direction::Ingress };
                let service = (*port, Protocol::from_number(*protocol));
                learned.note_address(&workload(*own), (direction, *address), service, 0);
            }
            let report = learned.report();
            let text = network_rules(&report);
            let tables = tables(&text);
            let passes = |(own, called, address, port, protocol): &Deed| {
                let direction = if *called { Direction::Egress } else { Direction::Ingress };
                let protocol = Protocol::from_number(*protocol);
                tables[*own].lookup(direction, *address, protocol, *port).is_some()
            };
            // Of the same port where there are ports.
            let alike = |one: &Deed, other: &Deed| {
                let has_ports = Protocol::from_number(one.4).has_ports();
                (one.0, one.1, one.2, one.4) == (other.0, other.1, other.2, other.4)
                    && (!has_ports || one.3 == other.3)
            };
            let can_be_said = |one: &Deed| match one.4 {
                1 => one.2.is_ipv4(),
                58 => one.2.is_ipv6(),
                _ => true,
            };
            for one in &seen {
                prop_assert!(passes(one) || !can_be_said(one), "{one:?}\n{text}");
            }
            if text.contains("Wider than seen") {
                return Ok(());
            }
            for one in others.iter().filter(|one| can_be_said(one)) {
                let was_seen = seen.iter().any(|deed| alike(deed, one));
                prop_assert_eq!(passes(one), was_seen, "{:?}\n{}", one, text);
            }
        }

        /// However much it is, the configuration takes it, and nothing passes that is in no network that was seen.
        #[test]
        fn much_of_anything_is_taken(
            seen in prop::collection::vec((0_u16..40, 1_u16..200, select(vec![6_u8, 17, 132, 47, 50, 51, 100, 101]), any::<bool>()), 0..600),
        ) {
            let mut learned = Learned::default();
            for (number, port, protocol, called) in &seen {
                let direction = if *called { Direction::Egress } else { Direction::Ingress };
                let service = (*port, Protocol::from_number(*protocol));
                learned.note_address(&workload(0), (direction, host(*number)), service, 0);
            }
            let text = network_rules(&learned.report());
            let tables = tables(&text);
            for (number, port, protocol, called) in &seen {
                let direction = if *called { Direction::Egress } else { Direction::Ingress };
                let protocol = Protocol::from_number(*protocol);
                let port = if protocol.has_ports() { *port } else { 0 };
                prop_assert!(tables[0].lookup(direction, host(*number), protocol, port).is_some(), "{}", text);
            }
            prop_assert!(tables[0].lookup(Direction::Egress, ip("192.0.2.1"), Protocol::TCP, 80).is_none());
            let any = text.contains("protocols were used");
            for number in 0..40 {
                // Behind every port that was seen.
                let beyond = tables[0].lookup(Direction::Egress, host(number), Protocol::TCP, 200);
                prop_assert!(any || beyond.is_none(), "{}", text);
            }
            let room = tables[0].prefixes().iter().all(|found| found.entries.len() <= ENTRIES_MAX);
            prop_assert!(room, "{}", text);
            prop_assert!(tables[1].prefixes().is_empty() && tables[2].prefixes().is_empty());
        }
    }
}
