//! What the programs report.

use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use crate::place::{PATIENCE, WORKLOAD, WORKLOAD_ID, config, ip, isolated, pair, start};

#[test]
fn a_refused_packet_reaches_the_log_and_the_counters() {
    isolated(|root, runtime| {
        let config = config(root, WORKLOAD);
        pair();
        let (datapath, mut events) = start(&config);
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        setsockopt(&socket, BindToDevice, &"near".into()).unwrap();
        ip("neighbor add 192.0.2.9 lladdr 02:00:00:00:00:09 dev near");
        // The hook's refusal may be reported to the sender.
        let _ = socket.send_to(b"x", "192.0.2.9:53");
        let seen = runtime.block_on(async {
            loop {
                let next = tokio::time::timeout(PATIENCE, events.rejected.recv()).await;
                let record = next.expect("a sampled drop").unwrap();
                if record.key.protocol == 17 && record.key.remote_port == 53 {
                    return record;
                }
            }
        });
        assert_eq!((seen.from_workload, seen.key.workload), (1, WORKLOAD_ID));
        let counters = datapath.maps.counters.sums().unwrap();
        let counter = counters.get(&(WORKLOAD_ID, seen.reason));
        assert!(counter.is_some_and(|count| *count > 0), "{counters:?}");
    });
}
