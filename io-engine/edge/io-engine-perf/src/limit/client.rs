//! The asking end of the pair, with the load generator's figures.

use super::{
    BLOCK_LEN_MAX, COMMAND, COMMAND_LEN, DATA, HEADER_LEN, HELLO_LEN, Hello, Outgoing, R2T,
    RESPONSE, Splitter, flush,
};
use crate::report::{Interval, Report};
use crate::socket;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The server.
    pub address: SocketAddr,
    /// Writes; reads otherwise.
    pub is_write: bool,
    /// Bytes per block, up to 1 MiB.
    pub block_len: u32,
    /// Requests outstanding.
    pub depth: u32,
    /// Measured time.
    pub time: Duration,
    /// Time before it that is not measured.
    pub warmup: Duration,
    /// TCP congestion control, the system's where `None`.
    pub congestion: Option<String>,
    /// Sleep where there is nothing to do; spin otherwise.
    pub sleep: bool,
}

struct Client {
    stream: TcpStream,
    hello: Hello,
    splitter: Splitter,
    outgoing: VecDeque<Outgoing>,
    /// When each outstanding request was made; answers come in order.
    started: VecDeque<Instant>,
    block: Vec<u8>,
    staging: Vec<u8>,
    interval: Interval,
    system_calls: u64,
}

/// Runs the pair's load to its end.
///
/// # Errors
/// Those of the socket; `InvalidInput` for a block size out of range.
pub fn run(options: &ClientOptions) -> io::Result<Report> {
    if !(1..=BLOCK_LEN_MAX).contains(&(options.block_len as usize)) || options.depth == 0 {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut client = Client::connect(options)?;
    let began = Instant::now();
    for _ in 0..options.depth {
        client.request(began);
    }
    client.send()?;
    let warm = began + options.warmup;
    let mut measured: Option<(Instant, u64, u64)> = None;
    loop {
        let received = client.receive()?;
        let now = Instant::now();
        client.take(received, now)?;
        client.send()?;
        if received == 0 && options.sleep {
            let stream = || std::iter::once(&client.stream as &dyn socket::AsFdDyn);
            let unsent = usize::from(!client.outgoing.is_empty());
            socket::wait(stream(), stream().take(unsent), Duration::from_millis(100))?;
        }
        match measured {
            None if now >= warm => {
                client.interval = Interval::default();
                measured = Some((now, socket::process_cpu_ns(), client.system_calls));
            }
            Some((began, cpu_ns, calls)) if now - began >= options.time => {
                let interval = &mut client.interval;
                interval.length = now - began;
                interval.cpu_ns = socket::process_cpu_ns() - cpu_ns;
                interval.system_calls = client.system_calls - calls;
                break;
            }
            None | Some(_) => {}
        }
    }
    let workload = if options.is_write {
        "limit, write"
    } else {
        "limit, read"
    };
    let len = options.block_len.into();
    Ok(Report::new(
        workload.to_owned(),
        len,
        options.depth,
        1,
        &client.interval,
    ))
}

impl Client {
    fn connect(options: &ClientOptions) -> io::Result<Self> {
        let congestion = options.congestion.as_deref();
        let mut stream = socket::connect(&[options.address], congestion, Duration::from_secs(10))?;
        let hello = Hello {
            block_len: options.block_len as usize,
            is_write: options.is_write,
        };
        stream.write_all(&hello.emit())?;
        let mut echo = [0; HELLO_LEN];
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.read_exact(&mut echo)?;
        stream.set_nonblocking(true)?;
        let depth = options.depth as usize;
        Ok(Self {
            stream,
            hello,
            splitter: Splitter::default(),
            outgoing: VecDeque::with_capacity(depth * 2),
            started: VecDeque::with_capacity(depth),
            block: vec![0x5a; hello.block_len],
            staging: vec![0; 256 * 1024],
            interval: Interval::default(),
            system_calls: 0,
        })
    }

    fn request(&mut self, now: Instant) {
        self.started.push_back(now);
        self.outgoing.push_back(Outgoing {
            kind: COMMAND,
            head: COMMAND_LEN,
            block_at: 0,
            block_len: self.hello.command_len() - COMMAND_LEN,
            sent: 0,
        });
    }

    fn send(&mut self) -> io::Result<()> {
        self.system_calls += flush(&self.stream, &mut self.outgoing, &self.block)?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        self.system_calls += 1;
        match self.stream.read(&mut self.staging) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, received: usize, now: Instant) -> io::Result<()> {
        let (mut done, mut asked) = (0, 0);
        let block_len = self.hello.block_len;
        let known = self.splitter.take(
            &self.staging[..received],
            |kind| match kind {
                DATA => Some(HEADER_LEN + block_len),
                RESPONSE | R2T => Some(HEADER_LEN),
                _ => None,
            },
            |kind| {
                if kind == R2T {
                    asked += 1;
                } else {
                    done += 1;
                }
            },
        );
        if !known {
            return Err(ErrorKind::InvalidData.into());
        }
        for _ in 0..asked {
            self.outgoing.push_back(Outgoing {
                kind: DATA,
                head: HEADER_LEN,
                block_at: 0,
                block_len,
                sent: 0,
            });
        }
        for _ in 0..done {
            if let Some(started) = self.started.pop_front() {
                self.interval.latency.record(now - started);
            }
            self.interval.reads += u64::from(!self.hello.is_write);
            self.interval.writes += u64::from(self.hello.is_write);
            self.request(now);
        }
        Ok(())
    }
}
