//! A client that says exactly what it is told to.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nbd_wire::{
    ChunkHeader, ChunkKind, ClientFlags, Command, CommandFlags, ErrorChunk, ErrorCode,
    ExportChoice, ExportReply, Greeting, Info, InfoKind, MetaQueries, OptionHeader, OptionKind,
    OptionReply, ReplyKind, Request, SimpleReply, TransmissionFlags,
};

/// An answer to a request, put together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Done(u64),
    Data(u64, u64, Vec<u8>),
    Status(u64, Vec<(u32, u32)>),
    Failed(u64, ErrorCode, String),
}

/// See the module documentation.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    pub(crate) flags: TransmissionFlags,
    pub(crate) size: u64,
    next: u64,
}

impl Raw {
    /// Connects and exchanges flags.
    pub(crate) fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).expect("a server");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut greeting = [0; Greeting::LEN];
        stream.read_exact(&mut greeting).expect("a greeting");
        Greeting::parse(&greeting).expect("a greeting");
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        stream.write_all(&flags.to_bytes()).expect("sent");
        Self {
            stream,
            flags: TransmissionFlags::NONE,
            size: 0,
            next: 0,
        }
    }

    /// Connects with structured replies, block status and `name`.
    pub(crate) fn open(path: &Path, name: &str) -> Self {
        let mut raw = Self::connect(path);
        assert_eq!(
            raw.option(OptionKind::StructuredReply, &[]),
            [(ReplyKind::Ack, vec![])]
        );
        let mut query = Vec::new();
        MetaQueries::emit(name.as_bytes(), &[b"base:allocation"], &mut query);
        let replies = raw.option(OptionKind::SetMetaContext, &query);
        assert_eq!(replies[0].0, ReplyKind::MetaContext);
        raw.go(name);
        raw
    }

    /// Connects with simple replies.
    pub(crate) fn open_simple(path: &Path, name: &str) -> Self {
        let mut raw = Self::connect(path);
        raw.go(name);
        raw
    }

    /// Sends an option and gives every answer to it.
    pub(crate) fn option(&mut self, option: OptionKind, data: &[u8]) -> Vec<(ReplyKind, Vec<u8>)> {
        let len = data.len() as u32;
        let header = OptionHeader { option, len };
        self.send(&[&header.to_bytes()[..], data].concat());
        let mut replies = Vec::new();
        loop {
            let reply: [u8; OptionReply::LEN] = self.read();
            let reply = OptionReply::parse(&reply).expect("a reply");
            assert_eq!(reply.option, option);
            let data = self.read_vec(reply.len as usize);
            replies.push((reply.kind, data));
            if reply.kind == ReplyKind::Ack || reply.kind.is_error() {
                return replies;
            }
        }
    }

    /// `NBD_OPT_GO`, which must be granted.
    pub(crate) fn go(&mut self, name: &str) {
        let mut data = Vec::new();
        ExportChoice::emit(name.as_bytes(), &[InfoKind::BlockSize], &mut data);
        let replies = self.option(OptionKind::Go, &data);
        assert_eq!(replies.last().expect("an answer").0, ReplyKind::Ack);
        for (kind, data) in &replies {
            if *kind == ReplyKind::Info
                && let Ok(Info::Export(info)) = Info::parse(data)
            {
                (self.size, self.flags) = (info.size, info.flags);
            }
        }
        assert!(self.flags.has(TransmissionFlags::HAS_FLAGS));
    }

    /// `NBD_OPT_EXPORT_NAME`.
    pub(crate) fn export_name(&mut self, name: &str) -> std::io::Result<ExportReply> {
        let header = OptionHeader {
            option: OptionKind::ExportName,
            len: name.len() as u32,
        };
        self.send(&[&header.to_bytes()[..], name.as_bytes()].concat());
        let mut reply = [0; ExportReply::LEN];
        self.stream.read_exact(&mut reply)?;
        Ok(ExportReply::parse(&reply).expect("long enough"))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// The bytes of a request with the next cookie.
    pub(crate) fn request(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u32,
    ) -> (u64, [u8; Request::LEN]) {
        self.next += 1;
        let request = Request {
            flags,
            command,
            cookie: self.next,
            offset,
            len,
        };
        (self.next, request.to_bytes())
    }

    /// Sends a request, and `data` behind it; gives its cookie.
    pub(crate) fn submit(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> u64 {
        let (cookie, request) = self.request(command, flags, offset, len);
        self.send(&[&request[..], data].concat());
        cookie
    }

    /// A request and its answers, to the last one.
    pub(crate) fn call(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Vec<Answer> {
        self.submit(command, flags, offset, len, data);
        let mut answers = Vec::new();
        loop {
            let (answer, is_last) = self.answer();
            answers.push(answer);
            if is_last {
                return answers;
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let len = data.len() as u32;
        let answers = self.call(Command::Write, CommandFlags::NONE, offset, len, data);
        assert!(matches!(answers[..], [Answer::Done(_)]), "{answers:?}");
    }

    pub(crate) fn read_at(&mut self, offset: u64, len: u32) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        for answer in self.call(Command::Read, CommandFlags::NONE, offset, len, &[]) {
            let Answer::Data(_, at, bytes) = answer else {
                panic!("{answer:?}")
            };
            let at = (at - offset) as usize;
            data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        data
    }

    /// The error a request must end in.
    pub(crate) fn fails(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> ErrorCode {
        let answers = self.call(command, flags, offset, len, data);
        match answers.last() {
            Some(Answer::Failed(_, error, _)) => *error,
            other => panic!("{other:?}"),
        }
    }

    /// The next answer or chunk, and whether it is the last of its request.
    pub(crate) fn answer(&mut self) -> (Answer, bool) {
        let start: [u8; SimpleReply::LEN] = self.read();
        if let Ok(reply) = SimpleReply::parse(&start) {
            let cookie = reply.cookie;
            return match reply.error {
                ErrorCode::OK => (Answer::Done(cookie), true),
                error => (Answer::Failed(cookie, error, String::new()), true),
            };
        }
        let rest: [u8; 4] = self.read();
        let header = ChunkHeader::parse(&[&start[..], &rest].concat()).expect("a chunk");
        let (cookie, data) = (header.cookie, self.read_vec(header.len as usize));
        let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
        let answer = match header.kind {
            ChunkKind::None => Answer::Done(cookie),
            ChunkKind::OffsetData => {
                let offset = u64::from_be_bytes(data[..8].try_into().unwrap());
                Answer::Data(cookie, offset, data[8..].to_vec())
            }
            ChunkKind::BlockStatus => {
                let extents = (4..data.len()).step_by(8);
                Answer::Status(cookie, extents.map(|at| (word(at), word(at + 4))).collect())
            }
            ChunkKind::Error => {
                let (error, _) = ErrorChunk::parse(&data).expect("an error");
                let text = String::from_utf8_lossy(error.message).into_owned();
                Answer::Failed(cookie, error.error, text)
            }
            other => panic!("a chunk of {other:?}"),
        };
        (answer, header.done)
    }

    /// A simple answer to a read of `len` bytes.
    pub(crate) fn simple_data(&mut self, len: usize) -> Vec<u8> {
        let reply: [u8; SimpleReply::LEN] = self.read();
        let reply = SimpleReply::parse(&reply).expect("a reply");
        assert_eq!(reply.error, ErrorCode::OK);
        self.read_vec(len)
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    pub(crate) fn read_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
