//! The answering end of the pair.

use super::{
    AREA_LEN, COMMAND, DATA, HEADER_LEN, HELLO_LEN, Hello, Outgoing, R2T, RESPONSE, Splitter, flush,
};
use crate::socket;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// TCP congestion control, the system's where `None`.
    pub congestion: Option<String>,
    /// Sleep where there is nothing to do; spin otherwise.
    pub sleep: bool,
}

struct Peer {
    stream: TcpStream,
    hello: Option<Hello>,
    splitter: Splitter,
    outgoing: VecDeque<Outgoing>,
}

/// Serves connections of `listener` (nonblocking) until `is_over` says so.
///
/// # Errors
/// Those of the listener; a failed connection is dropped.
pub fn serve(
    listener: &TcpListener,
    options: &ServerOptions,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    let mut area = vec![0; AREA_LEN];
    // Touched once, so that reading it later costs cache misses and not page faults.
    for (index, byte) in area.iter_mut().enumerate().step_by(64) {
        *byte = index as u8;
    }
    let mut staging = vec![0; 256 * 1024];
    let mut peers: Vec<Peer> = Vec::new();
    let mut cursor = Cursor(1);
    let mut turns: u32 = 0;
    while !is_over() {
        turns = turns.wrapping_add(1);
        if peers.is_empty() || turns.is_multiple_of(1024) {
            accept(listener, options, &mut peers)?;
        }
        let mut is_idle = true;
        peers.retain_mut(|peer| {
            let received = peer.turn(&mut staging, &area, &mut cursor);
            is_idle &= !matches!(received, Ok(true));
            received.is_ok()
        });
        if is_idle && (options.sleep || peers.is_empty()) {
            let sockets = peers
                .iter()
                .map(|peer| &peer.stream as &dyn socket::AsFdDyn);
            let readable = sockets.chain(std::iter::once(listener as &dyn socket::AsFdDyn));
            let unsent = peers.iter().filter(|peer| !peer.outgoing.is_empty());
            let writable = unsent.map(|peer| &peer.stream as &dyn socket::AsFdDyn);
            socket::wait(readable, writable, Duration::from_millis(100))?;
        }
    }
    Ok(())
}

/// Chooses where in the area the next block lies: somewhere else each time.
struct Cursor(u64);

impl Cursor {
    fn next(&mut self, block_len: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let slots = (AREA_LEN / block_len) as u64;
        (self.0 % slots) as usize * block_len
    }
}

fn accept(
    listener: &TcpListener,
    options: &ServerOptions,
    peers: &mut Vec<Peer>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                socket::prepare(&stream, options.congestion.as_deref())?;
                peers.push(Peer {
                    stream,
                    hello: None,
                    splitter: Splitter::default(),
                    outgoing: VecDeque::new(),
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Peer {
    fn turn(&mut self, staging: &mut [u8], area: &[u8], cursor: &mut Cursor) -> io::Result<bool> {
        let Some(hello) = self.hello else {
            return self.greet();
        };
        let received = match self.stream.read(staging) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let outgoing = &mut self.outgoing;
        let known = self.splitter.take(
            &staging[..received],
            |kind| match kind {
                COMMAND => Some(hello.command_len()),
                DATA => Some(HEADER_LEN + hello.block_len),
                _ => None,
            },
            |kind| outgoing.push_back(answer(kind, hello, cursor)),
        );
        if !known {
            return Err(ErrorKind::InvalidData.into());
        }
        flush(&self.stream, &mut self.outgoing, area)?;
        Ok(received > 0)
    }

    fn greet(&mut self) -> io::Result<bool> {
        let mut raw = [0; HELLO_LEN];
        match self.stream.peek(&mut raw) {
            Ok(HELLO_LEN) => {
                self.stream.read_exact(&mut raw)?;
                self.hello = Some(Hello::parse(&raw).ok_or(ErrorKind::InvalidData)?);
                // The echo tells the client that the area is ready.
                self.stream.write_all(&raw)?;
                Ok(true)
            }
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn answer(kind: u8, hello: Hello, cursor: &mut Cursor) -> Outgoing {
    let (kind, block_len) = if !hello.is_write {
        (DATA, hello.block_len)
    } else if kind == COMMAND && hello.command_len() == super::COMMAND_LEN {
        (R2T, 0)
    } else {
        (RESPONSE, 0)
    };
    Outgoing {
        kind,
        head: HEADER_LEN,
        block_at: cursor.next(hello.block_len),
        block_len,
        sent: 0,
    }
}
