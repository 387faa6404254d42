//! Reopening, crashing, damage and the lock.

use super::*;

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .commit(&[put_device("m"), put_subsystem("nqn.a", "m")])
        .unwrap();
    store.save_reservation("nqn.a", 1, b"first").unwrap();
    store.save_reservation("nqn.a", 1, b"second").unwrap();
    let before = store.load().unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), before);
    assert_eq!(before.devices["m"], device());
    assert_eq!(
        store.load_reservation("nqn.a", 1).unwrap().unwrap(),
        b"second"
    );
    assert_eq!(store.load_reservation("nqn.a", 2).unwrap(), None);
}

#[test]
fn a_crash_keeps_what_was_committed() {
    // The copy is what a crash leaves: the file as the last commit made it durable, never closed.
    let dir = tempfile::tempdir().unwrap();
    let after_crash = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .commit(&[put_device("m"), put_subsystem("nqn.a", "m")])
        .unwrap();
    store.save_reservation("nqn.a", 1, b"held").unwrap();
    std::fs::copy(dir.path().join(FILE), after_crash.path().join(FILE)).unwrap();
    let reopened = Store::open(after_crash.path()).unwrap();
    assert_eq!(reopened.load().unwrap(), store.load().unwrap());
    assert_eq!(
        reopened.load_reservation("nqn.a", 1).unwrap().unwrap(),
        b"held"
    );
}

#[test]
fn reservations_are_removed_by_namespace_or_by_subsystem() {
    let store = Store::in_memory().unwrap();
    for (nqn, nsid) in [("nqn.a", 1), ("nqn.a", 2), ("nqn.a", 3), ("nqn.ab", 1)] {
        store.save_reservation(nqn, nsid, b"x").unwrap();
    }
    store
        .commit(&[Change::RemoveReservations("nqn.a".into(), Some(2))])
        .unwrap();
    assert!(store.load_reservation("nqn.a", 1).unwrap().is_some());
    assert!(store.load_reservation("nqn.a", 2).unwrap().is_none());
    store
        .commit(&[Change::RemoveReservations("nqn.a".into(), None)])
        .unwrap();
    assert!(store.load_reservation("nqn.a", 3).unwrap().is_none());
    assert_eq!(store.reservation_nqns().unwrap(), ["nqn.ab"]);
}

#[test]
fn a_damaged_record_is_an_error_that_names_it() {
    for (bytes, problem) in [
        (&b""[..], "it is empty"),
        (b"\x07{}", "it has version 7, this engine knows 1"),
        (b"\x01{\"uri\":\"x\"}", "missing field `uuid`"),
        (
            b"\x01{\"uri\":\"x\",\"uuid\":\"00000000-0000-0000-0000-000000000001\",\"y\":1}",
            "unknown field `y`",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.commit(&[put_device("good")]).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction
            .open_table(DEVICES)
            .unwrap()
            .insert("bad one", bytes)
            .unwrap();
        transaction.commit().unwrap();
        let text = store.load().unwrap_err().to_string();
        let file = dir.path().join(FILE);
        let start = format!(
            "state store {}: record 'bad one' of table 'devices' is damaged ({problem}",
            file.display()
        );
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn a_file_that_is_no_database_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(FILE),
        b"not a database, but long enough to look at".repeat(200),
    )
    .unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    assert!(error.to_string().contains("state.redb"), "{error}");
}

#[test]
fn a_second_engine_is_refused_and_the_holder_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let text = Store::open(dir.path()).unwrap_err().to_string();
    let me = format!("is held by pid {} (", std::process::id());
    assert!(text.contains(&me) && text.contains("--state-dir"), "{text}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn the_holder_is_found_in_the_list_of_locks() {
    let locks = "1: POSIX  ADVISORY  WRITE 11 08:02:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 42 08:02:77 0 EOF\n";
    let dev = rustix::fs::makedev(8, 2);
    assert_eq!(holder_in(locks, dev, 77), Some(42));
    assert_eq!(holder_in(locks, dev, 78), None);
}

fn device() -> DeviceRecord {
    DeviceRecord {
        uri: "malloc:///m?size_mb=1".into(),
        uuid: Uuid::from_u128(1),
    }
}

fn put_device(name: &str) -> Change {
    Change::PutDevice(name.into(), device())
}

fn put_subsystem(nqn: &str, device: &str) -> Change {
    let uuid = Uuid::from_u128(1);
    let namespace = NamespaceRecord {
        nsid: 1,
        device: device.into(),
        uuid,
        nguid: uuid,
    };
    let record = SubsystemRecord {
        serial: "DCS".into(),
        allowed_hosts: None,
        namespaces: vec![namespace],
    };
    Change::PutSubsystem(nqn.into(), record)
}
