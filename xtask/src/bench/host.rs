//! A host that connects and then does nothing but keep its connection alive, as Linux does with an unused disk.
//!
//! Decides: the few bytes this takes. It opens the admin queue and one I/O queue, enables the controller and sends
//! keep-alives; it is no initiator, and reads answers only for their status. Specs: NVMe/TCP 1.0c, NVMe Base 2.0c.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::contender::Target;
use super::error::Error;

/// Keep-alive timeout it asks for, in ms, and how often it then sends: Linux' default of 5 s, at half of it.
const KATO_MS: u32 = 5_000;
pub(crate) const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(2_500);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Length of an ICReq and an ICResp (NVMe/TCP 1.0c §3.6.2.2).
const INITIALISE_LEN: usize = 128;
/// Length of a command capsule without data: common header and submission queue entry.
const COMMAND_LEN: usize = 72;
/// Length of a response capsule: common header and completion queue entry.
const RESPONSE_LEN: usize = 24;
/// Length of the data of a Connect command (NVMe Base 2.0c §6.3).
const CONNECT_DATA_LEN: usize = 1024;
/// Slots of each queue, as the 0's based field of Connect has it.
const QUEUE_SLOTS_ZB: u16 = 31;
/// Name it goes by.
const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:6f5e0c4a-1f3d-4a57-9c0e-0b6e9c8f2d11";
const HOST_ID: [u8; 16] = *b"io-engine-bench!";

/// A connected host.
#[derive(Debug)]
pub(crate) struct IdleHost {
    admin: Queue,
    _io: Queue,
}

impl IdleHost {
    /// Connects to `target`: admin queue, controller enabled, one I/O queue.
    ///
    /// # Errors
    /// `Host` naming the step that failed.
    pub(crate) fn connect(target: &Target) -> Result<Self, Error> {
        let at = |step: &'static str| move |source| Error::Host { step, source };
        let mut admin = Queue::open(target).map_err(at("open its admin connection"))?;
        // NVMe Base 2.0c §6.3: FFFFh asks the controller to choose an id, which it returns in the completion.
        let controller = admin
            .exchange(&connect_command(0), &connect_data(target, u16::MAX))
            .map_err(at("connect its admin queue"))?;
        admin
            .exchange(&enable_command(), &[])
            .map_err(at("enable its controller"))?;
        let mut io = Queue::open(target).map_err(at("open its I/O connection"))?;
        // The low half of the completion's first word is the controller id (§6.3).
        let controller = (controller & 0xffff) as u16;
        io.exchange(&connect_command(1), &connect_data(target, controller))
            .map_err(at("connect its I/O queue"))?;
        Ok(Self { admin, _io: io })
    }

    /// Says that the host is still there.
    ///
    /// # Errors
    /// `Host` when the engine has dropped it.
    pub(crate) fn keep_alive(&mut self) -> Result<(), Error> {
        let mut command = [0; 64];
        command[0] = 0x18; // NVMe Base 2.0c §5.18
        let answered = self.admin.exchange(&command, &[]);
        answered.map(|_| ()).map_err(|source| Error::Host {
            step: "keep its connection alive",
            source,
        })
    }
}

/// One queue: a TCP connection that has exchanged ICReq and ICResp.
#[derive(Debug)]
struct Queue {
    stream: TcpStream,
}

impl Queue {
    fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target.address, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_nodelay(true)?;
        let mut queue = Self { stream };
        let mut request = [0; INITIALISE_LEN];
        // Type ICReq, no flags, header length, no data, PDU length; then version 0, no digests, one R2T at a time.
        request[2] = INITIALISE_LEN as u8;
        request[4..8].copy_from_slice(&(INITIALISE_LEN as u32).to_le_bytes());
        queue.stream.write_all(&request)?;
        let mut answer = [0; INITIALISE_LEN];
        queue.stream.read_exact(&mut answer)?;
        match answer[0] {
            0x01 => Ok(queue), // ICResp
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Sends one command with its in-capsule data; returns the first word of its completion.
    fn exchange(&mut self, command: &[u8; 64], data: &[u8]) -> io::Result<u32> {
        let mut capsule = Vec::with_capacity(COMMAND_LEN + data.len());
        let offset = if data.is_empty() {
            0
        } else {
            COMMAND_LEN as u8
        };
        let len = (COMMAND_LEN + data.len()) as u32;
        // NVMe/TCP 1.0c §3.6.2.4: CapsuleCmd, no flags, header length, data offset, PDU length.
        capsule.extend_from_slice(&[0x04, 0, COMMAND_LEN as u8, offset]);
        capsule.extend_from_slice(&len.to_le_bytes());
        capsule.extend_from_slice(command);
        capsule.extend_from_slice(data);
        self.stream.write_all(&capsule)?;
        let mut response = [0; RESPONSE_LEN];
        self.stream.read_exact(&mut response)?;
        completion(&response)
    }
}

/// First word of the completion in a response capsule, if it is one and tells of success.
fn completion(response: &[u8; RESPONSE_LEN]) -> io::Result<u32> {
    let (header, entry) = response.split_at(8);
    // The lowest bit of the status field is the phase tag, which NVMe-oF does not use.
    let status = u16::from_le_bytes([entry[14], entry[15]]) >> 1;
    if header[0] != 0x05 || status != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "answer of type {:#04x} with status {status:#06x}",
                header[0]
            ),
        ));
    }
    Ok(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]))
}

/// Connect for queue `qid` (NVMe Base 2.0c §6.3), its data in the capsule.
fn connect_command(qid: u16) -> [u8; 64] {
    let mut command = [0; 64];
    command[0] = 0x7f;
    command[1] = 0x40; // SGL
    command[4] = 0x01; // Connect
    command[32..36].copy_from_slice(&(CONNECT_DATA_LEN as u32).to_le_bytes());
    command[39] = 0x01; // data block descriptor, address is an offset into the capsule
    command[42..44].copy_from_slice(&qid.to_le_bytes());
    command[44..46].copy_from_slice(&QUEUE_SLOTS_ZB.to_le_bytes());
    // Keep-alive belongs to the admin queue only.
    let kato_ms = if qid == 0 { KATO_MS } else { 0 };
    command[48..52].copy_from_slice(&kato_ms.to_le_bytes());
    command
}

fn connect_data(target: &Target, controller: u16) -> [u8; CONNECT_DATA_LEN] {
    let mut data = [0; CONNECT_DATA_LEN];
    data[..16].copy_from_slice(&HOST_ID);
    data[16..18].copy_from_slice(&controller.to_le_bytes());
    data[256..][..target.nqn.len()].copy_from_slice(target.nqn.as_bytes());
    data[512..][..HOST_NQN.len()].copy_from_slice(HOST_NQN.as_bytes());
    data
}

/// Property Set of CC: enable, 64-byte submission and 16-byte completion entries (NVMe Base 2.0c §3.1.3.5, §6.6).
fn enable_command() -> [u8; 64] {
    let mut command = [0; 64];
    command[0] = 0x7f;
    command[1] = 0x40;
    command[44..48].copy_from_slice(&0x14_u32.to_le_bytes());
    command[48..56].copy_from_slice(&0x0046_0001_u64.to_le_bytes());
    command
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    /// A controller that takes two queues and answers every command with success, the first with controller id 7.
    fn controller(listener: &TcpListener) -> io::Result<Vec<Vec<u8>>> {
        let mut connects = Vec::new();
        let mut streams = Vec::new();
        for commands in [2, 1] {
            let (mut stream, _) = listener.accept()?;
            let mut initialise = [0; INITIALISE_LEN];
            stream.read_exact(&mut initialise)?;
            initialise[0] = 0x01;
            stream.write_all(&initialise)?;
            for _ in 0..commands {
                let mut header = [0; 8];
                stream.read_exact(&mut header)?;
                let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
                let mut rest = vec![0; len as usize - header.len()];
                stream.read_exact(&mut rest)?;
                if rest.len() > COMMAND_LEN {
                    connects.push(rest);
                }
                let mut response = [0; RESPONSE_LEN];
                response[0] = 0x05;
                response[8] = 7;
                stream.write_all(&response)?;
            }
            streams.push(stream);
        }
        Ok(connects)
    }

    #[test]
    fn connects_two_queues_to_the_controller_it_was_given() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target {
            address: listener.local_addr().unwrap(),
            nqn: "nqn.2019-05.io.openebs:disk".to_owned(),
        };
        let answering = thread::spawn(move || controller(&listener).unwrap());
        IdleHost::connect(&target).unwrap();
        let connects = answering.join().unwrap();
        let controller_id =
            |connect: &[u8]| u16::from_le_bytes([connect[64 + 16], connect[64 + 17]]);
        let qid = |connect: &[u8]| u16::from_le_bytes([connect[42], connect[43]]);
        assert_eq!(connects.len(), 2);
        assert_eq!(
            (qid(&connects[0]), controller_id(&connects[0])),
            (0, u16::MAX)
        );
        assert_eq!((qid(&connects[1]), controller_id(&connects[1])), (1, 7));
        assert!(connects[1][64 + 256..].starts_with(target.nqn.as_bytes()));
    }

    #[test]
    fn a_status_but_success_is_an_error() {
        let mut response = [0; RESPONSE_LEN];
        response[0] = 0x05;
        assert_eq!(completion(&response).unwrap(), 0);
        response[8 + 14] = 0x02;
        assert!(completion(&response).is_err());
        response[8 + 14] = 0;
        response[0] = 0x07;
        assert!(completion(&response).is_err());
    }
}
