//! Sending: one gathered send after another until the socket takes no more.

use std::io::IoSlice;

use nbd_server::Chunk;
use sdk::buf::Payload;
use sdk::host::{Host, StreamError};
use smallvec::SmallVec;

use crate::client::Client;

/// Pieces of one gathered send; 128 answers with data at a time.
const PIECES_MAX: usize = 256;
/// Room left for the pieces of one payload beyond the first that would be too many.
const PIECES_SPARE: usize = 16;

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

/// Sends what `client` has queued.
pub(crate) fn send(client: &mut Client, host: &mut dyn Host) -> Sent {
    while client.core.has_transmit() {
        let sent = {
            let mut pieces: SmallVec<[IoSlice<'_>; PIECES_MAX]> = SmallVec::new();
            'gather: for chunk in client.core.transmit() {
                match chunk {
                    Chunk::Bytes(bytes) => pieces.push(IoSlice::new(bytes)),
                    Chunk::Data { token, offset, len } => {
                        let Some(payload) = client.sending.get(token.0 as usize) else {
                            return Sent::Failed;
                        };
                        for piece in range(payload, offset as usize, len as usize) {
                            pieces.push(IoSlice::new(piece));
                            // A device may lend a read in any number of pieces.
                            if pieces.len() == PIECES_MAX {
                                break 'gather;
                            }
                        }
                    }
                }
                if pieces.len() >= PIECES_MAX - PIECES_SPARE {
                    break;
                }
            }
            host.send(client.stream, &pieces)
        };
        match sent {
            Ok(sent) => {
                let sending = &mut client.sending;
                client.core.handle_sent(host.now(), sent, |token| {
                    sending.try_remove(token.0 as usize);
                });
            }
            Err(StreamError::WouldBlock) => return Sent::Blocked,
            Err(StreamError::Closed | StreamError::Failed(_)) => return Sent::Failed,
        }
    }
    Sent::All
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
