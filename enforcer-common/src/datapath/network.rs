//! Which network rule speaks for a packet.

use crate::abi::{NETWORK_ENTRIES, NetworkEntry, NetworkValue};

/// `protocol` of an entry that speaks for every protocol.
pub const ANY_PROTOCOL: u8 = 255;

/// The number of the first rule that allows a connection of this direction (from the workload's
/// side), protocol and server port.
#[must_use]
#[inline(always)]
pub fn allowing_rule(
    value: &NetworkValue,
    direction: u8,
    protocol: u8,
    server_port: u16,
) -> Option<u16> {
    let mut i = 0;
    while i < NETWORK_ENTRIES {
        let entry = &value.entries[i];
        if entry.direction == 0 {
            return None;
        }
        if speaks_for(entry, direction, protocol, server_port) {
            return Some(entry.rule);
        }
        i += 1;
    }
    None
}

#[inline(always)]
fn speaks_for(entry: &NetworkEntry, direction: u8, protocol: u8, server_port: u16) -> bool {
    entry.direction == direction
        && (entry.protocol == ANY_PROTOCOL || entry.protocol == protocol)
        && entry.port_low <= server_port
        && server_port <= entry.port_high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::direction::{EGRESS, INGRESS};

    #[test]
    fn direction_protocol_and_port_must_all_fit() {
        let mut value = NetworkValue::default();
        value.entries[0] =
            NetworkEntry { protocol: 17, direction: EGRESS, port_low: 53, port_high: 53, rule: 3 };
        value.entries[1] = NetworkEntry {
            protocol: ANY_PROTOCOL,
            direction: INGRESS,
            port_low: 80,
            port_high: 90,
            rule: 4,
        };
        assert_eq!(allowing_rule(&value, EGRESS, 17, 53), Some(3));
        assert_eq!(allowing_rule(&value, EGRESS, 6, 53), None);
        assert_eq!(allowing_rule(&value, INGRESS, 17, 53), None);
        assert_eq!(allowing_rule(&value, INGRESS, 6, 90), Some(4));
        assert_eq!(allowing_rule(&value, INGRESS, 6, 91), None);
        assert_eq!(allowing_rule(&NetworkValue::default(), INGRESS, 6, 0), None);
    }
}
