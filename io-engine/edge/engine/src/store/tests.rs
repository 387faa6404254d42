//! Reopening, crashing, damage and the lock.

use super::directory::{FILE, MARKER};
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
        let database = store.database.read().unwrap();
        let transaction = database.as_ref().unwrap().begin_write().unwrap();
        transaction
            .open_table(DEVICES)
            .unwrap()
            .insert("bad one", bytes)
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
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
    assert!(
        error.to_string().contains("state.redb: ") && error.to_string().contains("backup"),
        "{error}"
    );
}

#[test]
fn a_sector_lost_anywhere_is_refused_in_one_line_or_changes_nothing() {
    let dir = fresh();
    let store = Store::open(dir.path()).unwrap();
    for number in 0..40 {
        let changes = [
            put_device(&format!("d{number}")),
            put_subsystem(&format!("nqn.{number}"), "m"),
        ];
        store.commit(&changes).unwrap();
        store.save_reservation("nqn.a", number, &[7; 90]).unwrap();
    }
    let all = |store: &Store| {
        let reservation = |nsid| store.load_reservation("nqn.a", nsid);
        let reservations: Result<Vec<_>, _> = (0..40).map(reservation).collect();
        Ok::<_, StoreError>((store.load()?, store.reservation_nqns()?, reservations?))
    };
    let before = all(&store).unwrap();
    drop(store);
    let file = dir.path().join(FILE);
    let good = std::fs::read(&file).unwrap();
    let used = |at: &usize| good[*at..].iter().take(512).any(|byte| *byte != 0);
    let mut damages: Vec<(usize, usize, u8)> = Vec::new();
    for at in (0..good.len()).step_by(512).filter(used) {
        let content = good[at..].iter().take(512).position(|byte| *byte != 0);
        damages.push((at, 512, 0));
        damages.push((at + content.unwrap(), 1, 0x10));
    }
    // Header and commit slots, byte by byte.
    damages.extend((0..320).map(|at| (at, 1, 0x01)));
    let mut refused = 0;
    for (at, len, flip) in damages {
        let mut bytes = good.clone();
        for byte in &mut bytes[at..at + len] {
            *byte = if flip == 0 { 0 } else { *byte ^ flip };
        }
        std::fs::write(&file, &bytes).unwrap();
        let opened = Store::open(dir.path()).and_then(|store| all(&store));
        let error = match opened {
            Ok(contents) => {
                assert_eq!(contents, before, "{len} bytes at {at} forgot something");
                continue;
            }
            Err(error) => error,
        };
        refused += 1;
        let line = error.to_string();
        let start = format!("state store {}: ", file.display());
        assert!(line.starts_with(&start) && !line.contains('\n'), "{line}");
        assert!(
            line.contains("restore it from a backup, or remove"),
            "{line}"
        );
        let left = std::fs::read(&file).unwrap();
        assert!(
            left == bytes,
            "{len} bytes at {at}: the refused file changed"
        );
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn damage_that_appears_while_the_engine_runs_is_an_error_and_no_panic() {
    let store = Store::in_memory().unwrap();
    let result: Result<(), _> = store.run(|_| panic!("Invalid page type byte 0"));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("Invalid page type byte 0"), "{text}");
    assert!(text.contains("restore it from a backup"), "{text}");
    // What the database holds in memory is not believed any more.
    let again = store.commit(&[put_device("m")]).unwrap_err().to_string();
    assert_eq!(again, text);
    assert!(store.load().is_err());
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

/// Everything a start may leave behind, by name; `open` must have been called in `dir` before.
fn fresh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.commit(&[put_device("m")]).unwrap();
    dir
}

fn refused(dir: &Path) -> String {
    let text = Store::open(dir).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("state store {}: ", dir.join(FILE).display())),
        "{text}"
    );
    assert!(
        text.contains("restore it from a backup, or remove "),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_store_that_was_emptied_removed_or_exchanged_is_refused_with_the_way_on() {
    let other = fresh();
    let exchange = |dir: &Path| _ = std::fs::copy(other.path().join(FILE), dir.join(FILE)).unwrap();
    let empty = |dir: &Path| std::fs::write(dir.join(FILE), b"").unwrap();
    let remove = |dir: &Path| std::fs::remove_file(dir.join(FILE)).unwrap();
    let unmark = |dir: &Path| std::fs::write(dir.join(MARKER), b"gibberish").unwrap();
    let without_id = |dir: &Path| {
        std::fs::remove_file(dir.join(FILE)).unwrap();
        drop(Database::create(dir.join(FILE)).unwrap());
    };
    type Damage<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Damage, usize); 5] = [
        ("is not the one this directory had", &exchange, 1),
        ("is empty", &empty, 0),
        ("is missing", &remove, 0),
        ("is not the one this directory had", &unmark, 1),
        ("is not the one this directory had", &without_id, 0),
    ];
    for (problem, damage, devices) in cases {
        let dir = fresh();
        damage(dir.path());
        // Refusing must not be what makes the next start succeed.
        for _ in 0..2 {
            let text = refused(dir.path());
            assert!(text.contains(problem), "{text}");
        }
        // The way on works as the line says.
        let text = refused(dir.path());
        let named = text.split_once(", or remove ").unwrap().1;
        for file in named
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            std::fs::remove_file(file).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap().devices.len(), devices, "{problem}");
        drop(store);
        Store::open(dir.path()).unwrap();
    }
}

/// A file system of its own, which can be filled.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`, and a line that says why, where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        let output = mount.arg(dir.path()).output().unwrap();
        if output.status.success() {
            return Some(Self(dir));
        }
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // Past the test harness, which keeps what a passing test prints.
        let line = format!("\nskipped: {test}: no file system of its own: {reason}\n");
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A failure would hide the one that ends the test.
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_file_system_refuses_changes_until_there_is_space_and_loses_none() {
    let Some(small) = Small::mount() else {
        return;
    };
    let dir = small.0.path();
    let store = Store::open(&dir.join("state")).unwrap();
    store.commit(&[put_device("before")]).unwrap();
    let fill = dir.join("fill");
    let _ = std::fs::write(&fill, vec![0; 1 << 20]);
    let put = |number: u32| store.commit(&[put_device(&format!("{number:0500}"))]);
    let mut kept = 0;
    let refused = loop {
        match put(kept) {
            Ok(()) => kept += 1,
            Err(error) => {
                assert!(error.is_full(), "{error}");
                break error.to_string();
            }
        }
    };
    assert!(
        refused.ends_with("free some space on its file system"),
        "{refused}"
    );
    let again = put(kept).unwrap_err().to_string();
    assert!(
        again.ends_with("free some space on its file system"),
        "{again}"
    );
    std::fs::remove_file(&fill).unwrap();
    put(kept).unwrap();
    assert_eq!(store.load().unwrap().devices.len() as u32, kept + 2);
    drop(store);
    let store = Store::open(&dir.join("state")).unwrap();
    assert_eq!(store.load().unwrap().devices.len() as u32, kept + 2);
}

#[test]
fn a_backup_of_the_same_store_is_taken() {
    let dir = fresh();
    let backup = dir.path().join("backup");
    std::fs::copy(dir.path().join(FILE), &backup).unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.commit(&[put_device("later")]).unwrap();
    drop(store);
    std::fs::rename(&backup, dir.path().join(FILE)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap().devices.len(), 1);
}

#[test]
fn a_first_start_cut_off_anywhere_is_followed_by_one_that_succeeds() {
    let whole = fresh();
    let read = |name: &str| std::fs::read(whole.path().join(name)).unwrap();
    let (database, marker) = (read(FILE), read(MARKER));
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let new = |name: &str| format!("{name}.new");
    // The states of the module documentation, each with the file being written whole, cut and empty.
    let states: [Vec<(String, Vec<u8>)>; 8] = [
        vec![],
        vec![(new(FILE), vec![])],
        vec![(new(FILE), half(&database))],
        vec![(new(FILE), database.clone())],
        vec![(FILE.to_owned(), database.clone())],
        vec![(FILE.to_owned(), database.clone()), (new(MARKER), vec![])],
        vec![
            (FILE.to_owned(), database.clone()),
            (new(MARKER), half(&marker)),
        ],
        vec![
            (FILE.to_owned(), database.clone()),
            (MARKER.to_owned(), marker.clone()),
        ],
    ];
    for files in states {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        let has_store = files.iter().any(|(name, _)| name == FILE);
        assert_eq!(store.load().unwrap().devices.len(), usize::from(has_store));
        store.commit(&[put_device("n")]).unwrap();
        drop(store);
        // From here on the directory has its store.
        assert!(!dir.path().join(new(FILE)).exists() && !dir.path().join(new(MARKER)).exists());
        std::fs::write(dir.path().join(FILE), b"").unwrap();
        refused(dir.path());
    }
}

#[test]
fn a_directory_that_is_none_is_an_error_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let text = Store::open(&dir).unwrap_err().to_string();
        assert!(
            text.contains("not a directory") && text.contains("--state-dir"),
            "{text}"
        );
    }
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
        read_only: false,
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
