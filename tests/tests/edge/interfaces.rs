//! Which interfaces programs find: by a slot, or by the table where another has it.

use enforcer_common::abi::{INTERFACE_SLOTS, InterfaceSlot, InterfaceValue};
use enforcer_user::datapath::Datapath;

use crate::place::{config, isolated, read_slot, when_free};

#[test]
fn interfaces_that_share_a_slot_are_all_known_and_the_last_one_has_it() {
    isolated(|root, _| {
        let config = config(root, "");
        let (mut datapath, _events) = when_free(|| Datapath::open(&config));
        let interfaces = &mut datapath.maps.interfaces;
        let value = |workload| InterfaceValue { workload, ..InterfaceValue::default() };
        let slot =
            |ifindex, workload| InterfaceSlot { ifindex, value: value(workload), zero: [0; 4] };
        let (first, second) = (77, 77 + INTERFACE_SLOTS);

        interfaces.insert(first, &value(1)).unwrap();
        assert_eq!(read_slot(&config, first), slot(first, 1));
        interfaces.insert(second, &value(2)).unwrap();
        assert_eq!(read_slot(&config, first), slot(second, 2));
        assert_eq!(interfaces.lookup(first).unwrap(), Some(value(1)));
        assert_eq!(interfaces.lookup(second).unwrap(), Some(value(2)));

        interfaces.remove(first).unwrap();
        assert_eq!(read_slot(&config, first), slot(second, 2));
        assert_eq!(interfaces.lookup(first).unwrap(), None);
        interfaces.remove(second).unwrap();
        assert_eq!(read_slot(&config, first), InterfaceSlot::default());
        assert_eq!(interfaces.lookup(second).unwrap(), None);
    });
}
