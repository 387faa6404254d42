//! The rules of Base 2.0c §8.19, one host against another.

use nvme_spec::Status;
use nvme_spec::reservation::{self as spec, Keys, ReservationCommand};

use super::state::{HostId, Notice, Outcome, Reservations, Rtype};
use crate::limits;

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];
const C: HostId = [0xc; 16];
const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();
const INVALID: Status = Status::INVALID_FIELD.dnr();

fn command(action: u8, rtype: u8) -> ReservationCommand {
    ReservationCommand {
        action,
        ignore_existing_key: false,
        rtype,
        cptpl: 0,
    }
}

fn keys(current: u64, other: u64) -> Keys {
    Keys { current, other }
}

fn key(host: &HostId) -> u64 {
    u64::from(host[0])
}

/// A, B and C registered under their letters.
fn three() -> Reservations {
    let mut state = Reservations::default();
    for host in [A, B, C] {
        let outcome = state.register(&host, command(spec::REGISTER, 0), keys(0, key(&host)));
        state = outcome.unwrap().next;
    }
    state
}

fn held_by(host: &HostId, rtype: u8) -> Reservations {
    acquire(&three(), host, rtype).unwrap().next
}

fn acquire(state: &Reservations, host: &HostId, rtype: u8) -> Result<Outcome, Status> {
    state.acquire(host, command(spec::ACQUIRE, rtype), keys(key(host), 0))
}

fn preempt(state: &Reservations, host: &HostId, rtype: u8, prkey: u64) -> Result<Outcome, Status> {
    state.acquire(host, command(spec::PREEMPT, rtype), keys(key(host), prkey))
}

fn release(state: &Reservations, host: &HostId, rtype: u8) -> Result<Outcome, Status> {
    state.release(host, command(spec::RELEASE, rtype), keys(key(host), 0))
}

fn registered(state: &Reservations) -> Vec<HostId> {
    state.registrants.iter().map(|r| r.host).collect()
}

fn holders(state: &Reservations) -> Vec<HostId> {
    state
        .registrants
        .iter()
        .filter(|r| r.holder)
        .map(|r| r.host)
        .collect()
}

#[test]
fn who_may_read_and_write_under_each_type() {
    // Base 2.0c figure 421: columns are holder, registrant, stranger.
    let mut table = String::new();
    for rtype in Rtype::ALL {
        let mut state = held_by(&A, rtype.code());
        state.registrants.retain(|r| r.host != C);
        table += &format!("{rtype:?}:");
        for host in [A, B, C] {
            let access = state.access(&host);
            let right = |allowed, letter| if allowed { letter } else { '-' };
            table += &format!(" {}{}", right(access.read, 'r'), right(access.write, 'w'));
        }
        table += "\n";
    }
    assert_eq!(
        table,
        "WriteExclusive: rw r- r-\n\
         ExclusiveAccess: rw -- --\n\
         WriteExclusiveRegistrants: rw rw r-\n\
         ExclusiveAccessRegistrants: rw rw --\n\
         WriteExclusiveAll: rw rw r-\n\
         ExclusiveAccessAll: rw rw --\n"
    );
    let free = three().access(&C);
    assert!(free.read && free.write);
}

#[test]
fn who_may_do_what_with_a_reservation_command() {
    // Base 2.0c §8.19: rows are the commands, columns holder, registrant, stranger, of a write exclusive reservation.
    let mut state = held_by(&A, spec::WRITE_EXCLUSIVE);
    state.registrants.retain(|r| r.host != C);
    let mut table = String::new();
    type Attempt = fn(&Reservations, &HostId) -> Result<Outcome, Status>;
    let rows: [(&str, Attempt); 9] = [
        ("register same key", |s, h| {
            s.register(h, command(spec::REGISTER, 0), keys(0, key(h)))
        }),
        ("register other key", |s, h| {
            s.register(h, command(spec::REGISTER, 0), keys(0, 99))
        }),
        ("unregister", |s, h| {
            s.register(h, command(spec::UNREGISTER, 0), keys(key(h), 0))
        }),
        ("replace", |s, h| {
            s.register(h, command(spec::REPLACE, 0), keys(key(h), 99))
        }),
        ("acquire same type", |s, h| {
            acquire(s, h, spec::WRITE_EXCLUSIVE)
        }),
        ("acquire other type", |s, h| {
            acquire(s, h, spec::EXCLUSIVE_ACCESS)
        }),
        ("preempt holder", |s, h| {
            preempt(s, h, spec::WRITE_EXCLUSIVE, key(&A))
        }),
        ("release", |s, h| release(s, h, spec::WRITE_EXCLUSIVE)),
        ("clear", |s, h| {
            s.release(h, command(spec::CLEAR, 0), keys(key(h), 0))
        }),
    ];
    for (name, attempt) in rows {
        let cells: Vec<&str> = [A, B, C]
            .iter()
            .map(|host| match attempt(&state, host) {
                Ok(outcome) if outcome.next == state => "same",
                Ok(_) => "changed",
                Err(status) if status == CONFLICT => "conflict",
                Err(_) => "other",
            })
            .collect();
        table += &format!("{name}: {}\n", cells.join(" "));
    }
    assert_eq!(
        table,
        "register same key: same same changed\n\
         register other key: conflict conflict changed\n\
         unregister: changed changed conflict\n\
         replace: changed changed conflict\n\
         acquire same type: same conflict conflict\n\
         acquire other type: conflict conflict conflict\n\
         preempt holder: changed changed conflict\n\
         release: changed same conflict\n\
         clear: changed changed conflict\n"
    );
}

#[test]
fn a_wrong_key_is_a_conflict_and_a_wrong_field_is_invalid() {
    // Base 2.0c §7.2, §7.3, §7.5.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE);
    let wrong = keys(99, 0);
    for result in [
        state.register(&A, command(spec::UNREGISTER, 0), wrong),
        state.register(&A, command(spec::REPLACE, 0), wrong),
        state.acquire(&A, command(spec::ACQUIRE, 1), wrong),
        state.release(&A, command(spec::RELEASE, 1), wrong),
        state.release(&A, command(spec::CLEAR, 1), wrong),
    ] {
        assert_eq!(result, Err(CONFLICT));
    }
    let ignore = |action, rtype| ReservationCommand {
        ignore_existing_key: true,
        ..command(action, rtype)
    };
    let right = keys(key(&A), 0);
    for result in [
        state.register(&A, command(3, 0), right),
        state.register(
            &A,
            ReservationCommand {
                cptpl: 1,
                ..command(spec::REGISTER, 0)
            },
            right,
        ),
        state.acquire(&A, command(3, 1), right),
        state.acquire(&A, command(spec::ACQUIRE, 0), right),
        state.acquire(&A, command(spec::ACQUIRE, 7), right),
        state.acquire(&A, ignore(spec::ACQUIRE, 1), right),
        state.release(&A, command(2, 1), right),
        state.release(&A, ignore(spec::RELEASE, 1), right),
        release(&state, &A, spec::EXCLUSIVE_ACCESS),
        preempt(&state, &A, spec::WRITE_EXCLUSIVE, 0),
    ] {
        assert_eq!(result, Err(INVALID));
    }
}

#[test]
fn ignoring_the_existing_key_replaces_or_registers() {
    // Base 2.0c §7.3: IEKEY.
    let ignore = ReservationCommand {
        ignore_existing_key: true,
        ..command(spec::REPLACE, 0)
    };
    let fresh = Reservations::default()
        .register(&A, ignore, keys(99, 1))
        .unwrap()
        .next;
    assert_eq!(registered(&fresh), [A]);
    let replaced = three().register(&A, ignore, keys(99, 1)).unwrap().next;
    assert_eq!((replaced.registrants[0].key, replaced.generation), (1, 4));
}

#[test]
fn a_holder_that_unregisters_releases() {
    // Base 2.0c §8.19.4: notifications for the types registrants share.
    for rtype in Rtype::ALL {
        let state = held_by(&A, rtype.code());
        let outcome = state
            .register(&A, command(spec::UNREGISTER, 0), keys(key(&A), 0))
            .unwrap();
        let all = matches!(rtype, Rtype::WriteExclusiveAll | Rtype::ExclusiveAccessAll);
        let single = matches!(rtype, Rtype::WriteExclusive | Rtype::ExclusiveAccess);
        assert_eq!(outcome.next.rtype.is_some(), all, "{rtype:?}");
        let told = if single || all { 0 } else { 2 };
        assert_eq!(outcome.notices.len(), told, "{rtype:?}");
    }
    // With an all-registrants type the last one to go releases.
    let mut state = held_by(&A, spec::WRITE_EXCLUSIVE_ALL);
    assert_eq!(holders(&state), [A, B, C]);
    for host in [A, B, C] {
        assert!(state.rtype.is_some());
        let leave = state.register(&host, command(spec::UNREGISTER, 0), keys(key(&host), 0));
        state = leave.unwrap().next;
    }
    assert_eq!((state.rtype, state.registrants.len()), (None, 0));
}

#[test]
fn a_late_registrant_of_an_all_registrants_reservation_holds_too() {
    let mut state = held_by(&A, spec::EXCLUSIVE_ACCESS_ALL);
    let d = [0xd; 16];
    state = state
        .register(&d, command(spec::REGISTER, 0), keys(0, 0xd))
        .unwrap()
        .next;
    assert!(state.access(&d).write);
    assert_eq!(holders(&state).len(), 4);
}

#[test]
fn preempting_the_holder_takes_the_reservation_over() {
    // Base 2.0c §8.19.7.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE_REGISTRANTS);
    let outcome = preempt(&state, &B, spec::EXCLUSIVE_ACCESS, key(&A)).unwrap();
    assert_eq!(registered(&outcome.next), [B, C]);
    assert_eq!(
        (outcome.next.rtype, holders(&outcome.next)),
        (Some(Rtype::ExclusiveAccess), vec![B])
    );
    assert_eq!(
        outcome.notices,
        [
            (A, Notice::RegistrationPreempted),
            (C, Notice::ReservationReleased)
        ]
    );
    assert!(outcome.abort.is_empty(), "plain preempt aborts nothing");
    assert_eq!(outcome.next.generation, state.generation + 1);
    let aborting = state
        .acquire(
            &B,
            command(spec::PREEMPT_AND_ABORT, 1),
            keys(key(&B), key(&A)),
        )
        .unwrap();
    assert_eq!(aborting.abort, [A]);
}

#[test]
fn preempting_others_leaves_the_reservation_alone() {
    // Base 2.0c §8.19.7.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE);
    let outcome = preempt(&state, &B, spec::EXCLUSIVE_ACCESS, key(&C)).unwrap();
    assert_eq!(registered(&outcome.next), [A, B]);
    assert_eq!(
        (outcome.next.rtype, holders(&outcome.next)),
        (Some(Rtype::WriteExclusive), vec![A])
    );
    assert_eq!(
        preempt(&state, &B, spec::WRITE_EXCLUSIVE, 0x77),
        Err(CONFLICT)
    );
    // Without a reservation, preempt only unregisters.
    let outcome = preempt(&three(), &B, spec::WRITE_EXCLUSIVE, key(&C)).unwrap();
    assert_eq!(
        (outcome.next.rtype, registered(&outcome.next)),
        (None, vec![A, B])
    );
}

#[test]
fn a_holder_may_preempt_itself_to_change_the_type() {
    // Base 2.0c §8.19.7.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE);
    let outcome = preempt(&state, &A, spec::EXCLUSIVE_ACCESS, key(&A)).unwrap();
    assert_eq!(registered(&outcome.next), [A, B, C]);
    assert_eq!(
        (outcome.next.rtype, holders(&outcome.next)),
        (Some(Rtype::ExclusiveAccess), vec![A])
    );
    assert!(outcome.notices.is_empty());
}

#[test]
fn preempting_all_registrants_takes_key_zero() {
    // Base 2.0c §8.19.7.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE_ALL);
    let some = preempt(&state, &B, spec::WRITE_EXCLUSIVE, key(&A)).unwrap();
    assert_eq!(
        (some.next.rtype, registered(&some.next)),
        (Some(Rtype::WriteExclusiveAll), vec![B, C])
    );
    let all = preempt(&state, &B, spec::WRITE_EXCLUSIVE, 0).unwrap();
    assert_eq!(
        (all.next.rtype, registered(&all.next)),
        (Some(Rtype::WriteExclusive), vec![B])
    );
    assert_eq!(all.notices.len(), 2);
}

#[test]
fn clear_removes_everything_and_tells_the_others() {
    // Base 2.0c §8.19.8.
    let state = held_by(&A, spec::WRITE_EXCLUSIVE);
    let outcome = state
        .release(&B, command(spec::CLEAR, 0), keys(key(&B), 0))
        .unwrap();
    assert_eq!(
        (outcome.next.rtype, registered(&outcome.next)),
        (None, vec![])
    );
    assert_eq!(
        outcome.notices,
        [
            (A, Notice::ReservationPreempted),
            (C, Notice::ReservationPreempted)
        ]
    );
    assert_eq!(outcome.next.generation, state.generation + 1);
}

#[test]
fn release_tells_registrants_of_shared_types() {
    // Base 2.0c §8.19.6.
    for rtype in Rtype::ALL {
        let outcome = release(&held_by(&A, rtype.code()), &A, rtype.code()).unwrap();
        assert_eq!((outcome.next.rtype, holders(&outcome.next)), (None, vec![]));
        let single = matches!(rtype, Rtype::WriteExclusive | Rtype::ExclusiveAccess);
        assert_eq!(outcome.notices.len(), if single { 0 } else { 2 });
    }
}

#[test]
fn registrants_are_bounded() {
    let mut state = Reservations::default();
    for n in 0..limits::REGISTRANTS_MAX as u64 {
        let mut host = [1; 16];
        host[..8].copy_from_slice(&n.to_le_bytes());
        state = state
            .register(&host, command(spec::REGISTER, 0), keys(0, n))
            .unwrap()
            .next;
    }
    let refused = state.register(&A, command(spec::REGISTER, 0), keys(0, 1));
    assert_eq!(refused, Err(Status::RESERVATION_CONFLICT));
    assert_eq!(state.generation as usize, limits::REGISTRANTS_MAX);
}

#[test]
fn what_is_stored_is_restored_and_contradictions_lose_the_reservation() {
    for rtype in Rtype::ALL {
        let mut state = held_by(&B, rtype.code());
        assert!(state.record().is_empty(), "without PTPL");
        state.ptpl = true;
        assert_eq!(Reservations::restore(Some(&state.record())), state);
        let mut broken = state.record();
        broken.registrants.iter_mut().for_each(|r| r.holder = false);
        let restored = Reservations::restore(Some(&broken));
        assert_eq!((restored.rtype, restored.registrants.len()), (None, 3));
    }
    let mut two = held_by(&B, spec::WRITE_EXCLUSIVE);
    two.ptpl = true;
    let mut record = two.record();
    record.registrants.iter_mut().for_each(|r| r.holder = true);
    assert_eq!(Reservations::restore(Some(&record)).rtype, None);
}
