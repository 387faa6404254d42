//! What survives a restart of the reactors: data of files, identity, reservations.

use crate::support::{Rig, config, pattern};
use nvme_spec::reservation::{Keys, ReservationCommand};

const HOST_A: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-0000-0000-000000000001";
const HOST_B: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-0000-0000-000000000002";

/// Base 2.0c §7.3: action 0 registers; CPTPL 3 asks for persistence through power loss.
const REGISTER_PERSISTENT: ReservationCommand = ReservationCommand {
    action: 0,
    ignore_existing_key: false,
    rtype: 0,
    cptpl: 3,
};
/// Base 2.0c §7.2: action 0 acquires; type 1 is Write Exclusive.
const ACQUIRE_WRITE_EXCLUSIVE: ReservationCommand = ReservationCommand {
    action: 0,
    ignore_existing_key: false,
    rtype: 1,
    cptpl: 0,
};

#[test]
fn data_and_reservations_are_there_after_a_restart() {
    // NVMe Base 2.0c §8.19: with persist through power loss, registrations and reservations survive.
    let disk = std::env::temp_dir().join(format!("engine-restart-{}", uuid::Uuid::new_v4()));
    std::fs::File::create(&disk)
        .and_then(|file| file.set_len(16 << 20))
        .unwrap();
    let uri = format!("aio://{}", disk.display());
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &[&uri]);
    let mut a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    a.write(1, 0, &pattern(1, 4096)).unwrap();
    a.flush(1).unwrap();
    a.reservation_register(
        1,
        REGISTER_PERSISTENT,
        Keys {
            current: 0,
            other: 0xa,
        },
    )
    .unwrap();
    a.reservation_acquire(
        1,
        ACQUIRE_WRITE_EXCLUSIVE,
        Keys {
            current: 0xa,
            other: 0,
        },
    )
    .unwrap();
    let records = rig.stop();

    let mut rig = Rig::with(config(), records);
    let nqn = rig.serve("d", &[&uri]);
    let mut b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    assert!(b.read(1, 0, 8).unwrap() == pattern(1, 4096));
    let status = b
        .write(1, 0, &pattern(2, 4096))
        .unwrap_err()
        .status()
        .unwrap();
    assert_eq!(
        (status.sct(), status.sc()),
        (0, 0x83),
        "Reservation Conflict"
    );
    let mut a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    a.write(1, 0, &pattern(3, 4096)).unwrap();
    assert!(b.read(1, 0, 8).unwrap() == pattern(3, 4096));
    let _ = std::fs::remove_file(disk);
}
