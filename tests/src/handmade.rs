//! Somebody who speaks the handshake by hand, with a node's keys: what a node that is not what it should be can say.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use enforcer_user::identity::envelope::{Envelope, Kind};
use enforcer_user::identity::files::{
    load_authority_certificate, load_node_certificate, load_psk, load_signing_key,
};
use enforcer_user::identity::payload::{Payload, PublicKey};
use enforcer_user::identity::{
    Identity, Issuer, Limits, LocalCredential, MAX_CREDENTIAL_BYTES, Trust, Verifier, pair_keys,
};

use crate::capture::{Capture, Direction, Flags, Segment};
use crate::keys::{NodeFiles, NodeKeys, Pki};
use crate::program::mac::Covered;
use crate::raw::Forged;

/// Bytes of a credential's handle, and of a nonce.
const HALF: usize = 8;
/// Bytes of the payload of S2 ahead of the credential: mac_B, address and port.
pub const PREFIX: usize = 34;
/// How long S2 may take.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a credential made here counts, in seconds.
const LIFETIME: u64 = 600;

/// The handle of a credential: the first 8 bytes of its hash.
#[must_use]
pub fn handle(credential: &[u8]) -> [u8; HALF] {
    first_bytes(&blake3::hash(credential))
}

fn first_bytes(of: &blake3::Hash) -> [u8; HALF] {
    std::array::from_fn(|n| of.as_bytes()[n])
}

/// The keys of a node, in the hands of somebody who uses them as he likes.
#[derive(Debug)]
pub struct Speaker {
    keys: NodeKeys,
    issuer: Issuer,
    verifier: Verifier,
}

impl Speaker {
    /// With the keys of a node.
    pub fn new(keys: &NodeKeys) -> Result<Self> {
        let (issuer, trust) = match &keys.files {
            NodeFiles::Pki { authorities, certificate, key } => {
                let trusted = authorities.iter().map(|file| load_authority_certificate(file));
                let issuer =
                    Issuer::node(load_signing_key(key)?, load_node_certificate(certificate)?)?;
                (issuer, Trust::pki(Pki::TRUST_DOMAIN, trusted.collect::<Result<_, _>>()?)?)
            }
            NodeFiles::Psk { psk_file } => {
                let issuer = Issuer::psk(load_psk(psk_file)?, Pki::TRUST_DOMAIN)?;
                (issuer, Trust::psk(Pki::TRUST_DOMAIN, load_psk(psk_file)?)?)
            }
        };
        Ok(Self { keys: keys.clone(), issuer, verifier: Verifier::new(trust) })
    }

    /// A credential as an honest node makes it, for a SPIFFE ID.
    pub fn issue(&self, id: &str) -> Result<LocalCredential> {
        let identity = Identity::from_spiffe_id(id, std::collections::BTreeMap::new())?;
        let limits = Limits { lifetime_seconds: LIFETIME, max_bytes: MAX_CREDENTIAL_BYTES };
        self.issuer.issue(&identity, now()?, limits).with_context(|| format!("credential of {id}"))
    }

    /// A credential that the node signs for a SPIFFE ID whatever its certificate says, for the time from now on.
    pub fn sign_anyway(&self, id: &str) -> Result<Vec<u8>> {
        let NodeFiles::Pki { certificate, key, .. } = &self.keys.files else {
            bail!("whoever has the pre-shared key may sign for everybody")
        };
        let mut bytes = claims(id)?.sign(&load_signing_key(key)?);
        bytes.extend(load_node_certificate(certificate)?.bytes());
        Ok(bytes)
    }

    /// The proof of a call under the label given, once S2 has come.
    pub fn proof(
        &self,
        call: &Call,
        credential: &LocalCredential,
        s2: &Segment,
        label: [u8; 4],
    ) -> Result<Forged> {
        let answer = s2.identity().context("S2 without the option")?;
        let theirs = s2.payload.get(PREFIX..).context("S2 without a credential")?;
        let (address, port) = (s2.payload[16..32].try_into()?, s2.payload[32..34].try_into()?);
        let peer = self.verifier.verify(theirs, now()?).context("the credential of S2")?;
        let covered = Covered {
            handles: [credential.handle(), peer.handle],
            nonces: [call.nonce, *answer.last_chunk().context("S2 without a nonce")?],
            address,
            port: u16::from_be_bytes(port),
        };
        let keys = pair_keys(credential, &peer)?;
        let [_, mac] = covered.macs(label, keys.as_initiator.as_bytes());
        Ok(call.acknowledge(s2).identity(&mac))
    }
}

/// The claims of a workload for the time from now on, with a key of nobody.
fn claims(id: &str) -> Result<Envelope> {
    let now = now()?;
    let payload = Payload {
        subject: Some(id.to_owned()),
        not_before: Some(now),
        expires: Some(now + LIFETIME),
        key: Some(PublicKey::X25519(*blake3::hash(id.as_bytes()).as_bytes())),
        ..Payload::default()
    };
    Ok(Envelope { kind: Kind::CredentialPki, key_id: None, payload })
}

/// Unix seconds.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

/// One call made by hand.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// From where.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// The caller's nonce.
    pub nonce: [u8; HALF],
}

impl Call {
    /// A call with a nonce that no other call from this address and port has.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let nonce = first_bytes(&blake3::hash(source.to_string().as_bytes()));
        Self { source, destination, nonce }
    }

    /// S1 with a credential under its own handle.
    #[must_use]
    pub fn hello(&self, credential: &[u8]) -> Forged {
        self.hello_as(handle(credential), credential)
    }

    /// S1 with a credential under any handle.
    #[must_use]
    pub fn hello_as(&self, handle: [u8; HALF], credential: &[u8]) -> Forged {
        let body = [handle, self.nonce].concat();
        Forged::syn(self.source, self.destination).identity(&body).payload(credential)
    }

    /// What the callee said to this call: its SYN-ACK, if one comes within the time that one takes.
    pub fn answer(&self, at_callee: &Capture) -> Result<Segment> {
        at_callee.wait_for("S2", ANSWER, |segment| {
            segment.direction == Direction::Out
                && segment.destination == self.source
                && segment.flags == Flags::SYN_ACK
        })
    }

    /// The ACK of a SYN-ACK, without options.
    #[must_use]
    pub fn acknowledge(&self, s2: &Segment) -> Forged {
        let first = Forged::syn(self.source, self.destination).sequence;
        Forged {
            sequence: first.wrapping_add(1),
            acknowledgement: s2.sequence.wrapping_add(1),
            ..Forged::new(self.source, self.destination, Flags::ACK)
        }
    }
}
