use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a host that owes nothing owes.
const NOTHING: Owed = Owed {
    begun: None,
    oldest: None,
    asked: 0,
    received: 0,
    sent: 0,
    queued: 0,
    is_open: true,
};

/// One R2T of 1 MiB outstanding, of which `received` bytes came.
fn r2t(received: u64) -> Owed {
    let (due, missing) = (1 << 20, (1 << 20) - received);
    Owed {
        oldest: Some(Oldest { due, missing }),
        asked: 1 << 20,
        received,
        ..NOTHING
    }
}

/// A connection looked at once a second.
struct Looked {
    watch: StallWatch,
    now: Instant,
}

impl Looked {
    fn new() -> Self {
        Self {
            watch: StallWatch::default(),
            now: Instant::now(),
        }
    }

    fn look(&mut self, owed: Owed) -> Result<(), FaultKind> {
        self.now += PROGRESS_LOOK;
        self.watch.look(self.now, TIMEOUT, &owed)
    }

    /// Looks until there is a fault: which, after how many looks; `None` if there is none in a long time.
    fn stalls(&mut self, mut owed: impl FnMut(u64) -> Owed) -> Option<(FaultKind, u64)> {
        (1..200).find_map(|look| Some((self.look(owed(look)).err()?, look)))
    }
}

#[test]
fn a_host_that_owes_nothing_never_stalls() {
    assert_eq!(Looked::new().stalls(|_| NOTHING), None);
}

#[test]
fn each_thing_owed_has_its_fault() {
    let begun = Owed {
        begun: Some(7),
        ..NOTHING
    };
    let unread = Owed {
        sent: 100,
        queued: 5,
        ..NOTHING
    };
    let stalled = |owed: Owed| Looked::new().stalls(|_| owed);
    assert_eq!(stalled(begun), Some((FaultKind::CapsuleStalled, 11)));
    assert_eq!(stalled(r2t(0)), Some((FaultKind::DataStalled, 11)));
    assert_eq!(stalled(unread), Some((FaultKind::ReaderStalled, 11)));
}

#[test]
fn a_part_of_a_pdu_a_look_is_progress() {
    let part = |look| Owed {
        begun: Some(look),
        ..NOTHING
    };
    assert_eq!(Looked::new().stalls(part), None);
}

#[test]
fn few_bytes_are_no_progress_and_enough_are() {
    let data = |bytes: u64| Looked::new().stalls(|look| r2t((look * bytes).min(1 << 19)));
    let goes_on = (1 << 19) / 8192;
    assert!(
        data(8192).is_some_and(|(kind, look)| kind == FaultKind::DataStalled && look > goes_on)
    );
    assert_eq!(data(1000), Some((FaultKind::DataStalled, 11)));
    let reading = |bytes: u64| {
        Looked::new().stalls(|look| Owed {
            sent: look * bytes,
            queued: 1 << 20,
            ..NOTHING
        })
    };
    assert_eq!(reading(8192), None);
    assert_eq!(reading(1000), Some((FaultKind::ReaderStalled, 11)));
}

#[test]
fn a_little_that_is_all_there_was_is_progress() {
    // A few bytes unread at every look, but other ones each time.
    let answers = |look| Owed {
        sent: look * 24,
        queued: 24,
        ..NOTHING
    };
    assert_eq!(Looked::new().stalls(answers), None);
    let small_r2ts = |look| Owed {
        oldest: Some(Oldest {
            due: look * 512,
            missing: 512,
        }),
        asked: look * 512,
        received: (look - 1) * 512,
        ..NOTHING
    };
    assert_eq!(Looked::new().stalls(small_r2ts), None);
}

#[test]
fn serving_every_r2t_but_one_is_a_stall_and_serving_them_in_turn_is_not() {
    // The oldest R2T asks for the first MiB. Others are answered and replaced all the time.
    let but_one = |look| Owed {
        asked: (look + 2) << 20,
        received: look << 20,
        ..r2t(0)
    };
    assert_eq!(
        Looked::new().stalls(but_one),
        Some((FaultKind::DataStalled, 11))
    );
    let in_turn = |look| Owed {
        oldest: Some(Oldest {
            due: 4 << 20,
            missing: (4 << 20) - look * 10_000,
        }),
        ..but_one(look)
    };
    assert_eq!(Looked::new().stalls(in_turn), None);
}

#[test]
fn data_is_not_owed_before_its_r2t_was_sent() {
    // 10 MiB are queued before it, which the host reads slowly.
    let behind = |look: u64| Owed {
        sent: look << 17,
        queued: (10 << 20) - (look << 17).min(10 << 20),
        ..r2t(0)
    };
    let sent_at = (10 << 20 >> 17) as u64;
    let (kind, look) = Looked::new().stalls(behind).expect("a stall in the end");
    assert_eq!(kind, FaultKind::DataStalled);
    assert!(look > sent_at + 8, "{look}");
}

#[test]
fn a_connection_that_is_not_received_from_owes_no_data() {
    let held = Owed {
        begun: Some(3),
        is_open: false,
        ..r2t(0)
    };
    let mut looked = Looked::new();
    assert_eq!(looked.stalls(|_| held), None);
    // Nor is it forgiven what it owed before.
    let open = Owed {
        is_open: true,
        ..held
    };
    for _ in 0..8 {
        assert_eq!(looked.look(open), Ok(()));
        assert_eq!(looked.look(held), Ok(()));
    }
    assert_eq!(looked.stalls(|_| open), Some((FaultKind::DataStalled, 3)));
}

#[test]
fn time_in_which_nobody_looked_does_not_count() {
    let mut looked = Looked::new();
    assert_eq!(looked.look(r2t(0)), Ok(()));
    looked.now += Duration::from_secs(3600);
    assert_eq!(looked.look(r2t(0)), Ok(()));
    assert_eq!(looked.stalls(|_| r2t(0)), Some((FaultKind::DataStalled, 8)));
}
