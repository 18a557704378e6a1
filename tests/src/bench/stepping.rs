//! A program that makes each run of a test run meet another flow: it writes the next far end into the frame and calls
//! the program that is measured. Of a test run without it all runs would meet one.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};
use aya_obj::generated::{bpf_insn, bpf_map_type, bpf_prog_type};

use super::bpf::{insn, load, make_map, write_entry};
use crate::host::Family;

/// Flows of one far address; the further ones are those of the next.
const OF_ONE_ADDRESS: u32 = 1 << PORT_BITS;
const PORT_BITS: u32 = 15;
/// The far address' last byte, of the first flow.
const FIRST_ADDRESS: u8 = 100;
/// The most flows that can be told apart: by the far address' last byte and port.
pub(super) const FLOWS_MAX: u32 = (u8::MAX - FIRST_ADDRESS) as u32 * OF_ONE_ADDRESS;

/// The far end of a flow, by its number.
pub(super) fn far_end(flow: u32, base: IpAddr) -> (IpAddr, u16) {
    let of_address = u8::try_from(flow >> PORT_BITS).unwrap_or(u8::MAX);
    let last = FIRST_ADDRESS.saturating_add(of_address);
    let port = (1 << PORT_BITS) | (flow % OF_ONE_ADDRESS) as u16;
    let address = match base {
        IpAddr::V4(base) => {
            let [a, b, c, _] = base.octets();
            IpAddr::from([a, b, c, last])
        }
        IpAddr::V6(base) => {
            let mut octets = base.octets();
            octets[15] = last;
            IpAddr::from(octets)
        }
    };
    (address, port)
}

/// Where in a frame of TCP stands what is stepped over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// Last byte of the far address.
    address: i16,
    /// The far port.
    port: i16,
    /// Four bytes of the payload, in which the generator has its state.
    state: i16,
}

impl Places {
    /// Of a frame without IP options, at whose end there are four bytes for the generator.
    pub(super) fn of(family: Family, from_workload: bool, length: usize) -> Result<Self> {
        let (addresses, each, ports) = match family {
            Family::V4 => (14 + 12, 4, 14 + 20),
            Family::V6 => (14 + 8, 16, 14 + 40),
        };
        let far = i16::from(from_workload);
        Ok(Self {
            address: addresses + (far + 1) * each - 1,
            port: ports + far * 2,
            state: i16::try_from(length)? - 4,
        })
    }
}

/// The flows that are met.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// How many.
    pub(super) flows: u32,
    /// Numbers from one to the next.
    pub(super) apart: u32,
}

/// The program, ready to be run.
#[derive(Debug)]
pub(super) struct Stepping {
    program: OwnedFd,
    _called: OwnedFd,
}

impl Stepping {
    /// Steps over the flows in random order and calls `program` on each.
    pub(super) fn over(reach: Reach, places: Places, program: BorrowedFd<'_>) -> Result<Self> {
        let last = reach.flows.saturating_mul(reach.apart);
        ensure!((1..=FLOWS_MAX).contains(&last), "{last} flows, 1 to {FLOWS_MAX} can be told");
        let called = make_map(bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY, [4, 4], 1)?;
        let number = u32::try_from(program.as_raw_fd())?;
        write_entry(called.as_fd(), &0u32.to_ne_bytes(), &number.to_ne_bytes())?;
        let text = text(reach, places, called.as_raw_fd());
        let program = load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &text)?;
        Ok(Self { program, _called: called })
    }
}

impl AsFd for Stepping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// A linear congruential generator of full period (Numerical Recipes, 7.1) chooses the flow by its upper 24 bits.
fn text(reach: Reach, places: Places, called: i32) -> Vec<bpf_insn> {
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    let end = i32::from(places.state) + 4;
    vec![
        insn(0xbf, 6, 1, 0, 0),                                // r6 = context
        insn(0x61, 2, 1, DATA, 0),                             // r2 = data
        insn(0x61, 3, 1, DATA_END, 0),                         // r3 = data_end
        insn(0xbf, 4, 2, 0, 0),                                // r4 = r2
        insn(0x07, 4, 0, 0, end),                              // r4 += end
        insn(0x2d, 4, 3, 20, 0),                               // if r4 > r3 leave
        insn(0x61, 5, 2, places.state, 0),                     // w5 = state
        insn(0x24, 5, 0, 0, 1_664_525),                        // w5 *= factor
        insn(0x04, 5, 0, 0, 1_013_904_223),                    // w5 += increment
        insn(0x63, 2, 5, places.state, 0),                     // state = w5
        insn(0x74, 5, 0, 0, 8),                                // w5 >>= 8
        insn(0x94, 5, 0, 0, reach.flows.cast_signed()),        // w5 %= flows
        insn(0x24, 5, 0, 0, reach.apart.cast_signed()),        // w5 *= apart
        insn(0xbc, 0, 5, 0, 0),                                // w0 = w5
        insn(0x54, 5, 0, 0, OF_ONE_ADDRESS.cast_signed() - 1), // w5 &= mask
        insn(0x44, 5, 0, 0, OF_ONE_ADDRESS.cast_signed()),     // w5 |= 0x8000
        insn(0xdc, 5, 0, 0, 16),                               // r5 = be16(r5)
        insn(0x6b, 2, 5, places.port, 0),                      // port = r5
        insn(0x74, 0, 0, 0, PORT_BITS.cast_signed()),          // w0 >>= bits
        insn(0x04, 0, 0, 0, i32::from(FIRST_ADDRESS)),         // w0 += first
        insn(0x73, 2, 0, places.address, 0),                   // address = w0
        insn(0xbf, 1, 6, 0, 0),                                // r1 = context
        insn(0x18, 2, 1, 0, called),                           // r2 = array (a map's descriptor)
        insn(0, 0, 0, 0, 0),                                   //      upper half
        insn(0xb7, 3, 0, 0, 0),                                // r3 = 0
        insn(0x85, 0, 0, 0, 12),                               // tail_call
        insn(0xb7, 0, 0, 0, 2),                                // r0 = TC_ACT_SHOT
        insn(0x95, 0, 0, 0, 0),                                // exit
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_a_far_end_of_its_own() {
        let base = IpAddr::from([198, 51, 100, 0]);
        assert_eq!(far_end(0, base), (IpAddr::from([198, 51, 100, 100]), 32768));
        assert_eq!(far_end(32_767, base), (IpAddr::from([198, 51, 100, 100]), 65535));
        assert_eq!(far_end(32_768, base), (IpAddr::from([198, 51, 100, 101]), 32768));
        let last = far_end(FLOWS_MAX - 1, base);
        assert_eq!(last, (IpAddr::from([198, 51, 100, 254]), 65535));
    }
}
