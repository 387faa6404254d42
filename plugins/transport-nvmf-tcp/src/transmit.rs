//! Sending: digests on the core's order, then one gathered send after another until the socket takes no more.

use std::io::IoSlice;

use nvme_tcp::Chunk;
use sdk::buf::Payload;
use sdk::host::{Host, StreamError};
use smallvec::SmallVec;

use crate::connection::Connection;

/// Pieces of one gathered send; 128 commands with data at a time.
const PIECES_MAX: usize = 256;

/// What became of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// Everything queued is with the kernel.
    All,
    /// The socket takes no more for the moment.
    Blocked,
    /// The connection failed.
    Failed,
}

/// Sends what `connection` has queued.
pub(crate) fn send(connection: &mut Connection, host: &mut dyn Host) -> Sent {
    compute_digests(connection);
    while connection.core.has_transmit() {
        let sent = {
            let mut pieces: SmallVec<[IoSlice<'_>; PIECES_MAX]> = SmallVec::new();
            for chunk in connection.core.transmit() {
                match chunk {
                    Chunk::Bytes(bytes) => pieces.push(IoSlice::new(bytes)),
                    Chunk::Data { token, offset, len } => {
                        let Some(payload) = connection.sending.get(token.0 as usize) else {
                            return Sent::Failed;
                        };
                        for piece in range(payload, offset as usize, len as usize) {
                            pieces.push(IoSlice::new(piece));
                        }
                    }
                }
                if pieces.len() >= PIECES_MAX - 16 {
                    break;
                }
            }
            host.send(connection.stream, &pieces)
        };
        match sent {
            Ok(sent) => {
                let (sending, unsent) = (&mut connection.sending, &mut connection.unsent_bytes);
                connection.core.handle_sent(sent, |token| {
                    if let Some(payload) = sending.try_remove(token.0 as usize) {
                        *unsent -= payload.len();
                    }
                });
            }
            Err(StreamError::WouldBlock) => return Sent::Blocked,
            Err(StreamError::Closed | StreamError::Failed(_)) => return Sent::Failed,
        }
    }
    Sent::All
}

fn compute_digests(connection: &mut Connection) {
    while let Some(order) = connection.core.poll_digest_order() {
        let mut digest = nvme_tcp::Digest::new();
        if let Some(payload) = connection.sending.get(order.token.0 as usize) {
            for piece in range(payload, order.offset as usize, order.len as usize) {
                digest.update(piece);
            }
        }
        connection.core.handle_digest(order, digest.value());
    }
}

/// The pieces of `len` bytes of `payload` from `offset`.
fn range(payload: &Payload, offset: usize, len: usize) -> impl Iterator<Item = &[u8]> {
    let (mut skip, mut left) = (offset, len);
    payload.pieces().filter_map(move |piece| {
        let from = skip.min(piece.len());
        skip -= from;
        let take = left.min(piece.len() - from);
        left -= take;
        (take > 0).then(|| &piece[from..from + take])
    })
}
