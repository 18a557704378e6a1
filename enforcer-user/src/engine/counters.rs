//! What the engine did, in numbers.

use std::collections::BTreeMap;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable word that commands and metrics print.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

words! {
    /// Why a held segment came to nothing.
    Refused {
        /// Not a segment of the handshake.
        Malformed = "malformed";
        /// Without our option.
        NoOption = "no_option";
        /// Its direction, tuple or offset is not what the kernel says of it.
        Inconsistent = "inconsistent";
        /// No credential, or more bytes than one may have.
        CredentialLength = "credential_length";
        /// The handle is not that of the credential.
        HandleMismatch = "handle_mismatch";
        /// Another live credential has the same handle.
        HandleCollision = "handle_collision";
        /// Another identity has the same id.
        IdentityCollision = "identity_collision";
        /// The same credential was refused a moment ago.
        Negative = "refused_before";
        /// The workload, or the secret of its credential, is not here.
        NoLocalCredential = "no_local_credential";
        /// The peer's credential is over.
        Expired = "expired";
        /// A proof of a peer that is not known.
        UnknownPeer = "unknown_peer";
        /// Too many verifications under way.
        JobLimit = "job_limit";
        /// Too many verifications under way for one source network.
        SourceLimit = "source_limit";
        /// Too many segments wait for one verification.
        WaiterLimit = "waiter_limit";
        /// The credential does not verify.
        Credential = "credential";
        /// The two credentials have no pair key.
        NoPairKey = "no_pair_key";
        /// The same segment came back too often.
        Loop = "reinjection_limit";
    }
}

words! {
    /// What else happened.
    Done {
        /// Segments handed over by the kernel.
        Held = "held";
        /// Segments that found another's verification under way.
        Coalesced = "coalesced";
        /// Verifications begun.
        Verifications = "verifications";
        /// Credentials accepted.
        Verified = "verified";
        /// Peers written.
        PeersInstalled = "peers_installed";
        /// Peers displaced by others of their node.
        PeersDisplaced = "peers_displaced";
        /// Verdicts written.
        VerdictsInstalled = "verdicts_installed";
        /// Verdicts displaced by others of their workload.
        VerdictsDisplaced = "verdicts_displaced";
        /// Verdicts whose deadline was put off while flows use them.
        Released = "verdicts_renewed";
        /// Segments re-injected.
        Reinjected = "reinjected";
        /// Credentials issued.
        Issued = "credentials_issued";
        /// Credentials that could not be issued.
        IssueFailed = "credential_issue_failed";
        /// Policies put in force.
        PolicyChanges = "policy_changes";
        /// Policies that could not be put in force.
        PolicyFailures = "policy_change_failed";
        /// Flows reset because they lost their rule or their peer.
        FlowsCut = "flows_cut";
        /// Verdicts that nobody could judge anew, so they ended.
        Unjudged = "verdicts_unjudged";
        /// Questions to name servers.
        NamesAsked = "names_asked";
        /// Answers of name servers.
        NamesAnswered = "names_answered";
        /// Of those, the ones to a question that was not asked.
        NamesUnasked = "names_unasked";
        /// Addresses of hosts that were opened because a network rule names the host.
        HostsOpened = "hosts_opened";
        /// Addresses of such hosts that were not, because there are too many.
        HostsRefused = "hosts_refused";
    }
}

/// All counters. They start at zero with the daemon.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    refused: BTreeMap<Refused, u64>,
    done: BTreeMap<Done, u64>,
    credentials: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Counts a refused segment.
    pub fn refuse(&mut self, why: Refused) {
        *self.refused.entry(why).or_default() += 1;
    }

    /// Counts a refused credential by the verifier's word.
    pub fn refuse_credential(&mut self, reason: &'static str) {
        *self.credentials.entry(reason).or_default() += 1;
    }

    /// Counts `times` of what happened.
    pub fn add(&mut self, what: Done, times: usize) {
        *self.done.entry(what).or_default() += times as u64;
    }

    /// How many segments were refused for this reason.
    #[must_use]
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused.get(&why).copied().unwrap_or_default()
    }

    /// How often this happened.
    #[must_use]
    pub fn done(&self, what: Done) -> u64 {
        self.done.get(&what).copied().unwrap_or_default()
    }

    /// Every counter by its name: `engine_…`, `engine_refused_…`, `credential_refused_…`.
    pub fn all(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let done =
            Done::ALL.iter().map(|what| (format!("engine_{}", what.name()), self.done(*what)));
        let refused = Refused::ALL
            .iter()
            .map(|why| (format!("engine_refused_{}", why.name()), self.refused(*why)));
        let credentials = self
            .credentials
            .iter()
            .map(|(reason, count)| (format!("credential_refused_{reason}"), *count));
        done.chain(refused).chain(credentials)
    }
}
