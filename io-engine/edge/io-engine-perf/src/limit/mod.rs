//! The limit: a bare TCP pair that moves the same bytes in the same pieces as NVMe/TCP and does nothing else.
//!
//! Messages are told apart by their first byte and counted, not parsed. Reads: 72 bytes there, 24 plus the block back,
//! the block from a cold area of 256 MiB. Writes up to 8 KiB: 72 plus the block there, 24 back. Longer writes: 72 there,
//! 24 back (the R2T), 24 plus the block there, 24 back.

pub mod client;
pub mod server;

/// Bytes of a command capsule.
pub const COMMAND_LEN: usize = 72;
/// Bytes of a response capsule, an R2T, and a data header.
pub const HEADER_LEN: usize = 24;
/// Largest write whose data travels with its command.
pub const IN_CAPSULE_MAX: usize = 8192;
/// Bytes of the area that data is read from.
pub const AREA_LEN: usize = 256 << 20;

/// First byte of the client's first message.
const HELLO_LEN: usize = 16;
const COMMAND: u8 = 4;
const RESPONSE: u8 = 5;
const DATA: u8 = 6;
const R2T: u8 = 9;

/// What the client tells before its first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hello {
    block_len: usize,
    is_write: bool,
}

/// Largest block of the pair.
pub const BLOCK_LEN_MAX: usize = 1 << 20;

impl Hello {
    fn emit(self) -> [u8; HELLO_LEN] {
        let mut raw = [0; HELLO_LEN];
        raw[..8].copy_from_slice(&(self.block_len as u64).to_le_bytes());
        raw[8] = u8::from(self.is_write);
        raw
    }

    fn parse(raw: &[u8; HELLO_LEN]) -> Option<Self> {
        let mut word = [0; 8];
        word.copy_from_slice(&raw[..8]);
        let block_len = u64::from_le_bytes(word);
        ((1..=BLOCK_LEN_MAX as u64).contains(&block_len)).then_some(Self {
            block_len: block_len as usize,
            is_write: raw[8] != 0,
        })
    }

    /// Bytes the client sends with a command.
    fn command_len(self) -> usize {
        if self.is_write && self.block_len <= IN_CAPSULE_MAX {
            COMMAND_LEN + self.block_len
        } else {
            COMMAND_LEN
        }
    }
}

/// Counts messages in a byte stream whose first byte tells their length.
#[derive(Clone, Copy, Debug, Default)]
struct Splitter {
    /// Bytes missing from the message being received, and its first byte.
    missing: usize,
    kind: u8,
}

impl Splitter {
    /// Takes `bytes`; calls `whole` with the first byte of each message completed. False for an unknown first byte.
    fn take(
        &mut self,
        mut bytes: &[u8],
        len_of: impl Fn(u8) -> Option<usize>,
        mut whole: impl FnMut(u8),
    ) -> bool {
        while let Some(first) = bytes.first() {
            if self.missing == 0 {
                let Some(len) = len_of(*first) else {
                    return false;
                };
                self.missing = len;
                self.kind = *first;
            }
            let part = self.missing.min(bytes.len());
            self.missing -= part;
            bytes = &bytes[part..];
            if self.missing == 0 {
                whole(self.kind);
            }
        }
        true
    }
}

/// What is still to be sent: messages of a header and a block, both borrowed at the time of sending.
#[derive(Clone, Copy, Debug)]
struct Outgoing {
    kind: u8,
    /// Header bytes.
    head: usize,
    /// Offset and length of the block.
    block_at: usize,
    block_len: usize,
    /// Bytes of head and block already sent.
    sent: usize,
}

impl Outgoing {
    fn pieces<'a>(&self, head: &'a [u8], area: &'a [u8]) -> [&'a [u8]; 2] {
        let head = &head[self.sent.min(self.head)..self.head];
        let skip = self.sent.saturating_sub(self.head);
        let block = &area[self.block_at + skip..self.block_at + self.block_len];
        [head, block]
    }

    fn len(&self) -> usize {
        self.head + self.block_len
    }
}

/// Sends as much of `queue` as the socket takes in gathered sends; number of system calls.
fn flush(
    mut stream: &std::net::TcpStream,
    queue: &mut std::collections::VecDeque<Outgoing>,
    area: &[u8],
) -> std::io::Result<u64> {
    use std::io::{ErrorKind, IoSlice, Write};
    const GATHER_MAX: usize = 512;
    let heads: [[u8; COMMAND_LEN]; 10] = core::array::from_fn(|kind| {
        let mut head = [0; COMMAND_LEN];
        head[0] = kind as u8;
        head
    });
    let mut calls = 0;
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let mut count = 0;
        for message in queue.iter().take(GATHER_MAX / 2) {
            for piece in message.pieces(&heads[usize::from(message.kind)], area) {
                if !piece.is_empty() {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
        }
        calls += 1;
        let mut sent = match stream.write_vectored(&slices[..count]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(calls),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        while let Some(front) = queue.front_mut() {
            let left = front.len() - front.sent;
            if sent < left {
                front.sent += sent;
                break;
            }
            sent -= left;
            queue.pop_front();
        }
    }
    Ok(calls)
}
