//! Clients that say anything: no panic, no lost request, no growth.

mod support;

use nbd_server::Failure;
use nbd_server::limits::{BYTES_IN_FLIGHT_MAX, TX_BYTES_HIGH};
use nbd_wire::{
    ClientFlags, Command, CommandFlags, ExportChoice, MetaQueries, OptionHeader, OptionKind,
    Request,
};
use support::{MIB, World, export};

/// Choices from the bytes of an input, 0 when it is used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(b, r)| (*b, r));
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

/// Runs one input: the client's bytes, the device's answers and what is sent are all drawn from it. Ready to be a fuzz
/// target.
///
/// # Panics
/// When an oracle is broken: more bytes held than the limits allow, an I/O that is never given out, a released token that
/// was not there, progress that stops while something is wanted and there.
fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let mut world = World::new(vec![export(1, "disk"), export(2, "b")]);
    world.sends = choices.byte() & 1 == 0;
    if choices.byte() > 10 {
        world.feed(&ClientFlags(u32::from(choices.byte() & 3)).to_bytes());
    }
    while !choices.0.is_empty() && world.fault.is_none() {
        match choices.byte() % 8 {
            0 => option(&mut world, &mut choices),
            1..=3 => request(&mut world, &mut choices),
            4 if !world.ios.is_empty() => {
                let at = usize::from(choices.byte()) % world.ios.len();
                world.ios.swap(0, at);
                if choices.byte() < 40 {
                    world.fail(Failure::Medium);
                } else {
                    world.execute();
                }
            }
            5 => world.send(choices.word() as usize % (2 * MIB)),
            6 => world.feed(&vec![choices.byte(); choices.word() as usize % 5000]),
            _ => world.turn(),
        }
        check(&world);
    }
    // The client reads on, the device answers all: nothing stays behind.
    if world.fault.is_none() {
        world.sends = true;
        world.turn();
        world.execute_all();
        assert!(world.sending.is_empty(), "data nobody sent");
        assert!(!world.core.has_transmit());
    }
}

fn check(world: &World) {
    let held: usize = world.sending.values().map(Vec::len).sum();
    let payload: usize = world.payloads.values().map(Vec::len).sum();
    assert!(held + payload <= BYTES_IN_FLIGHT_MAX + 2 * MIB);
    assert!(world.ios.len() <= 8);
    let unsent: usize = world
        .core
        .transmit()
        .map(|chunk| match chunk {
            nbd_server::Chunk::Bytes(bytes) => bytes.len(),
            nbd_server::Chunk::Data { .. } => 0,
        })
        .sum();
    // Above the mark only by what was in flight when it was passed.
    assert!(unsent <= TX_BYTES_HIGH + 8 * 20_000, "{unsent} unsent");
}

fn option(world: &mut World, choices: &mut Choices<'_>) {
    let option = OptionKind::from_number(u32::from(choices.byte() % 14));
    let name: &[u8] = match choices.byte() % 4 {
        0 => b"",
        1 => b"nothing",
        _ => b"disk",
    };
    let mut data = Vec::new();
    match choices.byte() % 5 {
        0 => ExportChoice::emit(name, &[], &mut data),
        1 => MetaQueries::emit(name, &[b"base:allocation", b"base:"], &mut data),
        2 => data.resize(usize::from(choices.byte()), 7),
        3 => data.extend_from_slice(name),
        _ => {}
    }
    let len = match choices.byte() {
        255 => choices.word(),
        _ => data.len() as u32,
    };
    world.input.extend(OptionHeader { option, len }.to_bytes());
    world.feed(&data);
}

fn request(world: &mut World, choices: &mut Choices<'_>) {
    let command = Command::from_number(u16::from(choices.byte() % 10));
    let flags = match choices.byte() {
        byte if byte < 128 => CommandFlags::NONE,
        byte => CommandFlags(1 << (byte % 7)),
    };
    let len = match choices.byte() % 4 {
        0 => choices.word(),
        1 => (choices.word() % 8192) << 9,
        _ => u32::from(choices.byte()) << 9,
    };
    let request = Request {
        flags,
        command,
        cookie: u64::from(choices.word()),
        offset: u64::from(choices.word() % (3 << 20)) << 9,
        len,
    };
    world.input.extend(request.to_bytes());
    let payload = if command == Command::Write { len } else { 0 };
    world.feed(&vec![3; (payload as usize).min(6 * MIB)]);
}

#[test]
fn a_hostile_client_breaks_nothing() {
    for seed in 0..600_u64 {
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)) as u8
        };
        // Half of the clients begin politely, so that requests are reached.
        let mut input: Vec<u8> = Vec::new();
        if seed % 2 == 0 {
            input.extend([0, 200, 3]);
            input.extend([0, 8, 2, 4, 0]);
            input.extend([0, 10, 2, 1, 0]);
            input.extend([0, 7, 2, 0, 0]);
        }
        input.extend((0..400).map(|_| random()));
        let result = std::panic::catch_unwind(|| run(&input));
        assert!(result.is_ok(), "seed {seed}");
    }
}
