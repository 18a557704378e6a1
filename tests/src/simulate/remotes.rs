//! The workloads of other nodes: who has a place at a time, with what credential and address.

use std::collections::HashMap;

use anyhow::Result;
use enforcer_common::abi::Handle;
use enforcer_user::identity::{
    Authority, Identity, Issuer, Limits, NodeRequest, SigningKey, Trust,
};

use super::options::Options;
use super::random::{source, wait};

/// The trust domain of the cluster.
pub const TRUST_DOMAIN: &str = "example.org";
/// When the simulation begins, Unix seconds.
pub const START: u64 = 1_800_000_000;
/// As the daemon's defaults are: an hour, and so many bytes.
pub const LIMITS: Limits = Limits { lifetime_seconds: 3600, max_bytes: 1024 };

const DAY: u64 = 86_400;
/// How old a workload is at most when nothing is ever replaced, seconds.
const OLD: u64 = 30 * DAY;
/// Addresses of a node, out of a /24 of its own (RFC 1918); nothing is ever sent to them.
const ADDRESSES: u32 = 250;

mod purpose {
    pub const LIFE: u64 = 11;
    pub const CERTIFICATE: u64 = 12;
}

/// Who signs, for whom and how long.
#[derive(Debug)]
pub struct Authorities {
    seed: u64,
    authority: Authority,
    lifetime: u64,
    nodes: HashMap<u32, (u64, Issuer)>,
}

impl Authorities {
    /// An authority that has signed nothing yet.
    pub fn new(options: &Options) -> Result<Self> {
        let authority = Authority::init(TRUST_DOMAIN, START - 800 * DAY, 2000 * DAY)?;
        let lifetime = u64::from(options.certificate_days) * DAY;
        Ok(Self { seed: options.seed, authority, lifetime, nodes: HashMap::new() })
    }

    /// Whom every node trusts.
    pub fn trust(&self) -> Result<Trust> {
        Ok(Trust::pki(TRUST_DOMAIN, vec![self.authority.certificate().clone()])?)
    }

    /// A certificate of a node that counts from `from` (Unix seconds).
    pub fn issuer(&self, node: u32, from: u64) -> Result<Issuer> {
        let key = SigningKey::generate()?;
        let request = NodeRequest::new(&format!("node-{node}"), &key)?;
        let namespaces = ["/acme".parse()?];
        let certificate = self.authority.issue_node(&request, &namespaces, from, self.lifetime)?;
        Ok(Issuer::node(key, certificate)?)
    }

    /// When the certificate was issued that a node has at `now`: each is renewed after half of its life, each
    /// node at a time of its own.
    fn renewed(&self, node: u32, now: u64) -> u64 {
        let period = self.lifetime / 2;
        let phase = source(self.seed, purpose::CERTIFICATE, node.into()).u64(..period);
        now - (now + phase) % period
    }

    /// A credential of a workload of this node, issued at `at`.
    fn credential(&mut self, node: u32, identity: &Identity, at: u64) -> Result<Vec<u8>> {
        let from = self.renewed(node, at);
        if self.nodes.get(&node).is_none_or(|(known, _)| *known != from) {
            self.nodes.insert(node, (from, self.issuer(node, from)?));
        }
        let issued = self.nodes.get(&node).map(|(_, issuer)| issuer.issue(identity, at, LIMITS));
        Ok(issued.transpose()?.map(|local| local.bytes().to_vec()).unwrap_or_default())
    }
}

/// Who has a place, from when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupant {
    /// How many had it before.
    pub serial: u32,
    /// Unix second from which it is there.
    pub born: u64,
    /// Unix second at which another takes its place.
    pub gone: u64,
}

impl Occupant {
    /// Who has a place when the simulation begins: for as long already as one that may end at any time.
    pub fn first(options: &Options, place: u32) -> Self {
        let mut random = life(options, place, 0);
        let age = wait(&mut random, deaths(options)).unwrap_or_else(|| random.u64(..OLD)).min(OLD);
        let gone = wait(&mut random, deaths(options)).map_or(u64::MAX, |left| START + left);
        Self { serial: 0, born: START - age, gone }
    }

    /// Who takes the place.
    pub fn next(self, options: &Options, place: u32) -> Self {
        let serial = self.serial + 1;
        let life = wait(&mut life(options, place, serial), deaths(options));
        Self { serial, born: self.gone, gone: life.map_or(u64::MAX, |life| self.gone + life) }
    }
}

fn life(options: &Options, place: u32, serial: u32) -> fastrand::Rng {
    source(options.seed, purpose::LIFE, u64::from(place) << 32 | u64::from(serial))
}

/// The chance of a workload to be replaced, a second.
fn deaths(options: &Options) -> f64 {
    options.churn / 100.0 / 60.0
}

/// The identity of who has a place.
pub fn identity(service: u16, place: u32, serial: u32) -> Result<Identity> {
    let labels = [("tier", "prod"), ("app", &format!("svc{service}"))]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let namespace = format!("/acme/svc{service}").parse()?;
    let name = format!("svc{service}-{place:x}-{serial}");
    Ok(Identity::new(TRUST_DOMAIN, namespace, &name, labels.into())?)
}

/// The address of who has a place: the next of its node's with each replacement.
pub fn address(node: u32, number: u32, serial: u32) -> [u8; 4] {
    let [_, _, high, low] = node.to_be_bytes();
    let [_, _, _, host] = (1 + (number + serial) % ADDRESSES).to_be_bytes();
    [10, high, low, host]
}

/// A workload of another node.
#[derive(Debug)]
pub struct Remote {
    /// Its place.
    pub place: u32,
    /// The place's node.
    pub node: u32,
    /// The place's service.
    pub service: u16,
    /// Who has the place.
    pub occupant: Occupant,
    shown: Option<Shown>,
}

/// What a workload shows.
#[derive(Debug, Clone)]
struct Shown {
    issued: u64,
    handle: Handle,
    bytes: Vec<u8>,
}

impl Remote {
    /// Whoever has the place first.
    pub fn new(options: &Options, place: u32, node: u32, service: u16) -> Self {
        Self { place, node, service, occupant: Occupant::first(options, place), shown: None }
    }

    /// Another takes the place.
    pub fn replace(&mut self, options: &Options) {
        self.occupant = self.occupant.next(options, self.place);
        self.shown = None;
    }

    /// Who it is.
    pub fn identity(&self) -> Result<Identity> {
        identity(self.service, self.place, self.occupant.serial)
    }

    /// Handle and bytes of the credential that it shows at `now` (Unix seconds): issued when it began or its
    /// node's certificate was renewed, and anew after each half of a credential's life.
    pub fn show(&mut self, authorities: &mut Authorities, now: u64) -> Result<(Handle, &[u8])> {
        let begun = self.occupant.born.max(authorities.renewed(self.node, now));
        let half = LIMITS.lifetime_seconds / 2;
        let issued = now - now.saturating_sub(begun) % half;
        let shown = if let Some(shown) = self.shown.take().filter(|shown| shown.issued == issued) {
            shown
        } else {
            let bytes = authorities.credential(self.node, &self.identity()?, issued)?;
            let hash = blake3::hash(&bytes);
            let handle = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            Shown { issued, handle, bytes }
        };
        let shown = self.shown.insert(shown);
        Ok((shown.handle, &shown.bytes))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use enforcer_user::identity::Verifier;

    use super::*;

    #[test]
    fn credentials_verify_are_kept_and_replaced_in_time() {
        let options = Options::parse_from(["simulate", "--churn", "0", "--certificate-days", "1"]);
        let mut authorities = Authorities::new(&options).unwrap();
        let verifier = Verifier::new(authorities.trust().unwrap());
        let mut remote = Remote::new(&options, 5, 0, 7);
        let mut handles: Vec<Handle> = Vec::new();
        for now in (START..START + DAY).step_by(60) {
            let (handle, bytes) = remote.show(&mut authorities, now).unwrap();
            assert_eq!(verifier.verify(bytes, now).unwrap().handle, handle);
            if handles.last() != Some(&handle) {
                assert!(!handles.contains(&handle), "a handle came back");
                handles.push(handle);
            }
        }
        // One each half hour, and one at each of two renewals of the certificate, if not at the same time.
        assert!((48..=51).contains(&handles.len()), "{}", handles.len());
        assert_eq!(remote.occupant.gone, u64::MAX);
    }

    #[test]
    fn places_change_hands_as_often_as_asked() {
        let options = Options::parse_from(["simulate", "--churn", "20"]);
        let mut replaced = 0;
        for place in 0..200 {
            let mut occupant = Occupant::first(&options, place);
            assert!(occupant.born <= START && occupant.gone > START);
            while occupant.gone < START + 3600 {
                let next = occupant.next(&options, place);
                assert_eq!((next.born, next.serial), (occupant.gone, occupant.serial + 1));
                occupant = next;
                replaced += 1;
            }
        }
        // 200 places, 20 percent of them a minute, 60 minutes.
        assert!((2200..2600).contains(&replaced), "{replaced}");
    }
}
