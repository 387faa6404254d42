//! Two engines reach the same disks: one holds them, the other is told which.

use pool_core::{
    Answer, Claimant, DeviceOp, Done, HostOp, Limits, Mutation, Pool, PoolError, Source, Status,
};
use world::disk::Disk;
use world::world::{LIMITS, new_disks};

fn claimant(host: u8, pid: u32) -> Claimant {
    Claimant {
        host: [host; 16],
        boot: [host ^ 0xFF; 16],
        pid,
        began_s: 1_700_000_000,
    }
}

fn open(disks: &[Disk], host: u8, pid: u32) -> Pool {
    let sizes: Vec<u64> = disks.iter().map(Disk::blocks).collect();
    let limits = Limits { ..LIMITS };
    Pool::open_claimed(&sizes, limits, Mutation::None, claimant(host, pid))
}

/// Carries out what a pool asks for, at once; answers how many requests that were.
fn serve(pool: &mut Pool, disks: &mut [Disk]) -> usize {
    let mut served = 0;
    while let Some(request) = pool.poll_request() {
        let disk = &mut disks[request.disk];
        let result = match request.op {
            DeviceOp::Read { block, count, .. } => {
                let blocks = (block..block + u64::from(count)).map(|block| disk.read(block));
                let bytes: Vec<u8> = blocks.flatten().flat_map(|bytes| bytes.to_vec()).collect();
                Ok(Done::Bytes(bytes))
            }
            DeviceOp::Write {
                block,
                source: Source::Core(bytes),
            } => {
                let ids = disk.submit(block, &bytes);
                disk.complete(&ids);
                Ok(Done::Nothing)
            }
            DeviceOp::Write { .. } => panic!("no host writes here"),
            DeviceOp::Discard { .. } | DeviceOp::Flush => Ok(Done::Nothing),
        };
        pool.handle_done(request.id, result);
        served += 1;
    }
    served
}

/// Lets time pass for several pools on the same disks, a quarter of a second at a time.
fn pass(pools: &mut [&mut Pool], disks: &mut [Disk], now_ms: &mut u64, ms: u64) {
    let until = *now_ms + ms;
    while *now_ms < until {
        *now_ms += 250;
        for pool in pools.iter_mut() {
            pool.handle_time(*now_ms);
            serve(pool, disks);
        }
    }
}

fn held_by(host: u8, pid: u32) -> Status {
    Status::Failed(PoolError::Held(pool_core::Holder {
        host: [host; 16],
        pid,
    }))
}

#[test]
fn a_pool_held_by_a_live_engine_is_refused_and_its_holder_named() {
    let mut disks = new_disks(&[900, 900], 4096, 48);
    let mut now_ms = 5_000_000;
    let mut first = open(&disks, 1, 100);
    pass(&mut [&mut first], &mut disks, &mut now_ms, 4000);
    assert_eq!(first.status(), Status::Ready);
    let mut second = open(&disks, 2, 200);
    pass(
        &mut [&mut first, &mut second],
        &mut disks,
        &mut now_ms,
        8000,
    );
    assert_eq!(second.status(), held_by(1, 100));
    assert_eq!(first.status(), Status::Ready, "the holder goes on");
    assert_eq!(
        PoolError::Held(pool_core::Holder {
            host: [0xAB; 16],
            pid: 7
        })
        .to_string(),
        "held by process 7 on host abababababababababababababababab"
    );
}

#[test]
fn a_stale_claim_is_taken_over_after_a_while_and_the_old_holder_stops() {
    let mut disks = new_disks(&[900], 4096, 48);
    let mut now_ms = 1000;
    let mut first = open(&disks, 1, 100);
    pass(&mut [&mut first], &mut disks, &mut now_ms, 4000);
    assert_eq!(first.status(), Status::Ready);
    // The first engine hangs.
    let mut second = open(&disks, 2, 200);
    let began = now_ms;
    while second.status() == Status::Opening && now_ms < began + 60_000 {
        pass(&mut [&mut second], &mut disks, &mut now_ms, 250);
    }
    assert_eq!(second.status(), Status::Ready);
    assert!(now_ms - began >= 7000, "taken after {} ms", now_ms - began);
    // It wakes up: nothing is handed out before it knows, and then it stops.
    first.submit(1, HostOp::Checkpoint);
    first.handle_time(now_ms);
    while let Some(request) = first.poll_request() {
        let is_claim = matches!(
            request.op,
            DeviceOp::Read {
                block: 1,
                count: 1,
                ..
            }
        );
        let before_time = matches!(first.status(), Status::Ready);
        assert!(before_time);
        if is_claim {
            let bytes = disks[0].read(1).expect("readable").to_vec();
            first.handle_done(request.id, Ok(Done::Bytes(bytes)));
        }
    }
    assert_eq!(first.status(), held_by(2, 200));
    assert_eq!(serve(&mut first, &mut disks), 0, "not one request more");
    assert_eq!(second.status(), Status::Ready);
}

#[test]
fn the_same_host_and_one_that_was_given_back_need_no_watch() {
    let mut disks = new_disks(&[900], 4096, 48);
    let mut now_ms = 0;
    let mut first = open(&disks, 1, 100);
    pass(&mut [&mut first], &mut disks, &mut now_ms, 4000);
    assert_eq!(first.status(), Status::Ready);
    // Killed, and started again: the driver's lock on the disks says that nobody holds them.
    let mut again = open(&disks, 1, 101);
    serve(&mut again, &mut disks);
    assert_eq!(again.status(), Status::Ready, "at once");
    again.submit(9, HostOp::Release);
    serve(&mut again, &mut disks);
    assert_eq!(again.poll_answer(), Some((9, Ok(Answer::Done))));
    assert_eq!(again.status(), Status::Failed(PoolError::Released));
    let mut other = open(&disks, 2, 200);
    let began = now_ms;
    while other.status() == Status::Opening && now_ms < began + 60_000 {
        pass(&mut [&mut other], &mut disks, &mut now_ms, 250);
    }
    assert_eq!(other.status(), Status::Ready);
    assert!(now_ms - began < 4000, "{} ms", now_ms - began);
}

/// Both see disks that nobody holds, and write their claims: one of them serves.
#[test]
fn two_that_come_at_once_do_not_both_serve() {
    for late in 0..12 {
        let mut disks = new_disks(&[900, 900], 4096, 48);
        let mut now_ms = 0;
        let mut first = open(&disks, 1, 100);
        let mut second = open(&disks, 2, 200);
        for turn in 0..60 {
            now_ms += 250;
            let mut pools = [(&mut first, 0), (&mut second, late)];
            for (pool, from) in &mut pools {
                if turn < *from {
                    continue;
                }
                pool.handle_time(now_ms);
                serve(pool, &mut disks);
            }
            let is_ready = |pool: &Pool| pool.status() == Status::Ready;
            assert!(
                !(is_ready(&first) && is_ready(&second)),
                "both serve, the second {late} turns late"
            );
        }
        let serving = [&first, &second]
            .iter()
            .filter(|pool| pool.status() == Status::Ready)
            .count();
        assert_eq!(serving, 1, "the second {late} turns late");
    }
}

/// A claim that rots or cannot be read costs nothing.
#[test]
fn a_bad_claim_costs_nothing() {
    let mut disks = new_disks(&[900], 4096, 48);
    let mut now_ms = 0;
    let mut pool = open(&disks, 1, 100);
    pass(&mut [&mut pool], &mut disks, &mut now_ms, 4000);
    disks[0].replace(1, &[0xEE; 4096]);
    pass(&mut [&mut pool], &mut disks, &mut now_ms, 4000);
    assert_eq!(pool.status(), Status::Ready);
    let bytes = disks[0].read(1).expect("readable");
    let claim = pool_format::Claim::parse(&bytes, &[0xAB; 16]).expect("written again");
    assert_eq!((claim.host, claim.pid), ([1; 16], 100));
    assert!(claim.time_s >= 1_700_000_000);
}
