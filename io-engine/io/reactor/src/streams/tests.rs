//! Which streams are offered, armed and left alone.

use std::os::unix::net::UnixStream;

use super::*;

fn socket() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

fn review(streams: &mut Streams, now: Instant, sleeping: bool) -> (Vec<StreamId>, Vec<StreamId>) {
    let (mut offered, mut armed) = (Vec::new(), Vec::new());
    streams.review(now, sleeping, |verdict| match verdict {
        Verdict::Offer(id) => offered.push(id),
        Verdict::Arm(id) => armed.push(id),
    });
    (offered, armed)
}

#[test]
fn a_stream_is_offered_until_it_has_been_empty_for_a_while() {
    let start = Instant::now();
    let mut streams = Streams::new(4);
    let id = streams.insert(socket(), start).unwrap();
    assert!(!streams.is_drained(), "nobody has tried it yet");
    for _ in 0..HOT_MISSES {
        assert_eq!(review(&mut streams, start, false), (vec![id], vec![]));
        streams.stream_mut(id).unwrap().note_nothing();
    }
    assert!(streams.is_drained());
    assert_eq!(review(&mut streams, start, false).0, [id], "too soon");
    assert_eq!(
        review(&mut streams, start + HOT_IDLE, false),
        (vec![], vec![id])
    );
    assert_eq!(
        review(&mut streams, start + HOT_IDLE, false),
        (vec![], vec![])
    );
    streams.heat(id);
    streams.heat(id);
    assert_eq!(
        review(&mut streams, start, false).0,
        [id],
        "once, however often it fires"
    );
}

#[test]
fn sleeping_arms_every_hot_stream() {
    let start = Instant::now();
    let mut streams = Streams::new(4);
    let ids = [0, 1].map(|_| streams.insert(socket(), start).unwrap());
    for id in ids {
        streams.stream_mut(id).unwrap().note_nothing();
    }
    let (offered, mut armed) = review(&mut streams, start, true);
    armed.sort();
    assert_eq!((offered, armed), (vec![], ids.to_vec()));
}

#[test]
fn paused_and_ended_streams_are_neither_offered_nor_armed() {
    let start = Instant::now();
    let mut streams = Streams::new(4);
    let paused = streams.insert(socket(), start).unwrap();
    let ended = streams.insert(socket(), start).unwrap();
    streams.stream_mut(paused).unwrap().paused = true;
    streams.stream_mut(ended).unwrap().ended = true;
    assert!(streams.is_drained());
    assert_eq!(review(&mut streams, start, true), (vec![], vec![]));
    streams.heat(ended);
    streams.heat(paused);
    assert_eq!(review(&mut streams, start, false), (vec![], vec![]));
}

#[test]
fn a_slot_has_one_tenant_at_a_time() {
    let start = Instant::now();
    let mut streams = Streams::new(1);
    let old = streams.insert(socket(), start).unwrap();
    assert!(streams.insert(socket(), start).is_none());
    assert!(streams.remove(old).is_some());
    assert!(streams.remove(old).is_none());
    let new = streams.insert(socket(), start).unwrap();
    assert_ne!(old, new);
    assert!(streams.stream_mut(old).is_none());
    streams.heat(old);
    assert_eq!(
        review(&mut streams, start, false).0,
        [new],
        "listed once, under its own id"
    );
    let generation = (old.0 >> 32) as u32;
    assert!(streams.by_token(0, generation, u32::MAX).is_none());
    assert_eq!(
        streams.by_token(0, (new.0 >> 32) as u32, u32::MAX),
        Some(new)
    );
}
