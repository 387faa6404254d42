//! Shares, queues, and who is one host.

use std::net::Ipv4Addr;

use super::*;

fn address(last: u8) -> HostKey {
    HostKey::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

fn nqn(name: &str) -> HostKey {
    HostKey::Nqn(name.into())
}

fn step() -> Output {
    Output::Event(Box::new(nvme_target::ControllerEvent {
        kind: nvme_target::ControllerEventKind::Connected,
        subnqn: String::new(),
        hostnqn: String::new(),
        hostid: [0; 16],
        cntlid: 1,
    }))
}

#[test]
fn a_host_alone_leaves_a_reserve_and_beside_another_has_its_share() {
    let mut admission = Admission::new(1000);
    let greedy = admission.join(address(1));
    admission.charge(greedy, 800);
    assert!(admission.may_take(greedy, 75));
    assert!(!admission.may_take(greedy, 76));
    let other = admission.join(address(2));
    admission.charge(other, 1);
    assert!(!admission.may_take(greedy, 1));
    assert!(admission.may_take(other, 436));
    assert!(!admission.may_take(other, 437));
    admission.refund(other, 1);
    assert!(admission.may_take(greedy, 75));
}

#[test]
fn a_host_that_only_waits_has_its_share_kept_for_it() {
    let mut admission = Admission::new(1000);
    let (greedy, other) = (admission.join(nqn("g")), admission.join(nqn("o")));
    admission.charge(greedy, 500);
    admission.wait(other, 900, step());
    assert!(!admission.may_take(greedy, 1));
}

#[test]
fn connections_without_io_take_no_share_from_anybody() {
    let mut admission = Admission::new(1000);
    let busy = admission.join(nqn("busy"));
    admission.charge(busy, 100);
    for last in 0..250 {
        admission.join(address(last));
    }
    assert!(admission.may_take(busy, 775));
}

#[test]
fn a_host_that_holds_nothing_is_never_refused() {
    let mut admission = Admission::new(1000);
    let one = admission.join(address(1));
    admission.join(address(2));
    assert!(admission.may_take(one, 5000));
}

#[test]
fn one_nqn_is_one_host_and_two_are_two_whatever_their_addresses() {
    let mut admission = Admission::new(1000);
    // Two hosts behind one address are one until they say who they are.
    let strangers = [admission.join(address(1)), admission.join(address(1))];
    assert_eq!(strangers[0], strangers[1]);
    assert_eq!(admission.connections(&address(1)), 2);
    let (left, right) = (admission.join(nqn("left")), admission.join(nqn("right")));
    for stranger in strangers {
        admission.leave(stranger);
    }
    assert_eq!(admission.connections(&address(1)), 0);
    admission.charge(left, 400);
    admission.charge(right, 100);
    assert!(!admission.may_take(left, 38));
    assert!(admission.may_take(right, 337));
    // The same host from another address has no second share.
    let again = admission.join(nqn("left"));
    assert_eq!(again, left);
    assert!(!admission.may_take(again, 38));
    assert_eq!(admission.connections(&nqn("left")), 2);
}

#[test]
fn what_a_gone_host_gives_back_is_not_credited_to_the_next() {
    let mut admission = Admission::new(1000);
    let gone = admission.join(address(1));
    admission.charge(gone, 300);
    admission.wait(gone, 10, step());
    admission.leave(gone);
    let next = admission.join(address(2));
    assert_ne!(gone, next);
    admission.charge(next, 800);
    admission.refund(gone, 300);
    assert!(!admission.may_take(next, 100));
    // Its step still waits; once that is taken nothing is left of it.
    assert_eq!(admission.next_eligible().unwrap().peer, gone);
    assert!(admission.may_take(next, 75));
    assert_eq!(admission.join(address(3)), gone);
}

#[test]
fn waiting_is_served_in_order_passing_by_who_is_over_its_share() {
    let mut admission = Admission::new(1000);
    let (greedy, modest) = (admission.join(address(1)), admission.join(address(2)));
    admission.charge(greedy, 600);
    for (peer, len) in [(greedy, 10), (modest, 20), (greedy, 30), (modest, 40)] {
        admission.wait(peer, len, step());
    }
    assert_eq!(admission.waiting(), 4);
    let first = admission.next_eligible().unwrap();
    assert_eq!(first.len, 20);
    admission.put_back(first);
    for expected in [20, 40] {
        assert_eq!(admission.next_eligible().unwrap().len, expected);
        admission.charge(modest, expected);
    }
    assert!(admission.next_eligible().is_none());
    admission.refund(greedy, 600);
    for expected in [10, 30] {
        assert_eq!(admission.next_eligible().unwrap().len, expected);
    }
    assert_eq!((admission.waits(), admission.waiting()), (4, 0));
    assert!(!admission.is_waiting());
}

/// A device that finishes the oldest buffer first, and hosts that ask for the next as soon as one is done. Answers how
/// many each has done after `rounds`.
fn race(keys: [HostKey; 3], depths: [usize; 3], rounds: usize) -> [usize; 3] {
    const LEN: usize = 128 << 10;
    const ARENA: usize = 8 << 20;
    let mut admission = Admission::new(ARENA);
    let peers = keys.map(|key| admission.join(key));
    for (peer, depth) in peers.iter().zip(depths) {
        for _ in 0..depth {
            admission.wait(*peer, LEN, step());
        }
    }
    // One byte of tag says which connection asked, whoever it is charged to.
    let mut asked: Vec<VecDeque<usize>> = vec![VecDeque::new(); 3];
    for (at, depth) in depths.into_iter().enumerate() {
        let host = peers.iter().position(|peer| *peer == peers[at]).unwrap();
        asked[host].extend(std::iter::repeat_n(at, depth));
    }
    let (mut in_device, mut done) = (VecDeque::new(), [0; 3]);
    for _ in 0..rounds {
        while in_device.len() < ARENA / LEN
            && let Some(waiting) = admission.next_eligible()
        {
            admission.charge(waiting.peer, LEN);
            let host = peers.iter().position(|peer| *peer == waiting.peer).unwrap();
            in_device.push_back((host, asked[host].pop_front().unwrap()));
        }
        let (host, at) = in_device.pop_front().unwrap();
        admission.refund(peers[host], LEN);
        done[at] += 1;
        asked[host].push_back(at);
        admission.wait(peers[host], LEN, step());
    }
    done
}

#[test]
fn a_greedy_host_on_two_addresses_leaves_the_good_one_its_half() {
    // The greedy host asks for 800 buffers of an arena of 64, over two connections; the good one keeps 32 in flight. That
    // is its half: it does as many I/Os as the greedy one does on both connections.
    let depths = [400, 400, 32];
    let [a, b, good] = race([nqn("greedy"), nqn("greedy"), nqn("good")], depths, 20_000);
    assert!(good * 10 >= (a + b) * 9, "{good} beside {a} + {b}");
    // By address, the good one beside the greedy one's second connection, it would do a fraction of that.
    let [a, b, shared] = race([address(1), address(2), address(2)], depths, 20_000);
    assert!(shared * 5 < a + b, "{shared} beside {a} + {b}");
}
