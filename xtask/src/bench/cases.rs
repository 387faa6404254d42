//! What is measured, and what it was expected to cost before it was measured.
//!
//! Decides: the points, their names and the predictions printed beside the results. Holds no result.

use std::fmt;

/// Direction of a point's I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
}

/// One workload: random I/O of one size at one depth over one queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) operation: Operation,
    pub(crate) size_kib: u32,
    pub(crate) depth: u32,
}

impl Point {
    /// Size of one I/O in bytes.
    pub(crate) const fn size_bytes(self) -> u32 {
        self.size_kib * 1024
    }
}

/// The name of a point as options and tables give it, such as `4k-read-d8`.
impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
        };
        write!(out, "{}k-{operation}-d{}", self.size_kib, self.depth)
    }
}

const fn read(size_kib: u32, depth: u32) -> Point {
    Point {
        operation: Operation::Read,
        size_kib,
        depth,
    }
}

const fn write(size_kib: u32, depth: u32) -> Point {
    Point {
        operation: Operation::Write,
        size_kib,
        depth,
    }
}

/// Expected cost of one I/O at the engine, and the rate that follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prediction {
    /// Processor time of the engine for one I/O, in µs. At depth 1 this is a whole round trip, because the reactor spins
    /// while the initiator has its turn.
    pub(crate) cpu_us: f64,
    /// System calls of the engine for one I/O that find work. The empty receives of a spinning reactor come on top.
    pub(crate) syscalls: f64,
    /// Thousands of I/Os a second with our initiator.
    pub(crate) kiops: f64,
}

/// Points on a RAM disk, each with what it was expected to cost.
///
/// Derivation, with costs of one core of the two-core machine of the design note:
///
/// - A *turn* is one receive and one gathered send, with the kernel's loopback path inside the send: 4.0 µs. It follows
///   from a bare pair at depth 1, which makes 110 k round trips a second: 9.1 µs for a turn on each side plus one copy.
/// - Turns are shared by a batch. Two stages on two cores split the depth, so the batch is `depth / 2`, at least 1.
/// - Sending 4 KiB out of a cold 256 MiB area: 0.45 µs (9 GB/s, and one page taken for the socket buffer). Receiving
///   4 KiB into staging that stays in the cache: 0.35 µs. Copying it from there into the cold disk: 0.50 µs.
/// - Parsing, dispatch, device and completion: 0.25 µs, no allocation.
/// - The initiator pays the same turn and 0.45 µs for each I/O, 4.7 µs alone.
///
/// Read, 4 KiB: `4.0 / batch + 0.45 + 0.25`; depth 1, 8, 32, 128 give 4.7, 1.7, 0.95, 0.76 µs. Write, in-capsule:
/// `4.0 / batch + 0.35 + 0.50 + 0.25`; 5.1, 2.1, 1.35, 1.16 µs. At depth 1 the round trip adds the initiator's 4.7 µs.
/// From depth 8 the rate is that of the slower side with a tenth lost to waiting on each other.
///
/// 128 KiB read at depth 16: copying 14.5 µs, 32 pages taken and returned 2 µs, two 64 KiB segments through loopback 6 µs,
/// turn and dispatch 1.5 µs: 24 µs, two system calls a small batch of two. Write: received straight into its buffer
/// 14.5 µs, copied to the disk 13 µs, R2T and its own turn 2 µs, segments 4.5 µs: 34 µs, three system calls for two I/Os
/// (the payload is longer than one receive finds in the socket).
pub(crate) const MALLOC: [(Point, Prediction); 10] = [
    (read(4, 1), prediction(9.4, 2.0, 106.0)),
    (read(4, 8), prediction(1.7, 0.5, 530.0)),
    (read(4, 32), prediction(0.95, 0.13, 950.0)),
    (read(4, 128), prediction(0.76, 0.03, 1180.0)),
    (write(4, 1), prediction(9.8, 2.0, 102.0)),
    (write(4, 8), prediction(2.1, 0.5, 430.0)),
    (write(4, 32), prediction(1.35, 0.13, 670.0)),
    (write(4, 128), prediction(1.16, 0.03, 780.0)),
    (read(128, 16), prediction(24.0, 1.0, 38.0)),
    (write(128, 16), prediction(34.0, 1.5, 27.0)),
];

const fn prediction(cpu_us: f64, syscalls: f64, kiops: f64) -> Prediction {
    Prediction {
        cpu_us,
        syscalls,
        kiops,
    }
}

/// Points on a file, measured against `fio` on the same file.
pub(crate) const FILE: [Point; 6] = [
    read(4, 1),
    read(4, 8),
    read(4, 32),
    write(4, 1),
    write(4, 8),
    write(4, 32),
];

/// Points over NBD, measured against other servers with `fio` as the client.
pub(crate) const NBD: [Point; 8] = [
    read(4, 1),
    read(4, 32),
    write(4, 1),
    write(4, 32),
    read(128, 1),
    read(128, 32),
    write(128, 1),
    write(128, 32),
];

/// Expected latency that serving a file over TCP adds to one I/O at depth 1, in µs.
///
/// One bare round trip on loopback (9.1 µs), one ring submission (1 µs), parsing and dispatch (0.5 µs). The wake after the
/// disk has finished is not added: `fio` pays one too.
pub(crate) const FILE_ADDED_US: f64 = 11.0;

/// Expected share of one core, in percent, of an engine with one connected and idle host: a keep-alive every few
/// seconds at two wakes (30 µs each) and the reactor's own timers.
pub(crate) const IDLE_CPU_PERCENT: f64 = 0.1;

/// Expected resident memory in MiB with a RAM disk of 256 MiB left out: the buffer arena, the binary, its stacks.
pub(crate) const IDLE_RESIDENT_MIB: f64 = 120.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_readable() {
        let names: Vec<String> = MALLOC.iter().map(|(point, _)| point.to_string()).collect();
        assert_eq!(names[1], "4k-read-d8");
        assert_eq!(names[9], "128k-write-d16");
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} appears twice");
        }
    }

    #[test]
    fn predictions_follow_from_the_derivation() {
        for (point, prediction) in MALLOC.iter().filter(|(point, _)| point.size_kib == 4) {
            let batch = f64::from((point.depth / 2).max(1));
            let payload = match point.operation {
                Operation::Read => 0.45,
                Operation::Write => 0.35 + 0.50,
            };
            let initiator = if point.depth == 1 { 4.7 } else { 0.0 };
            let expected = 4.0 / batch + payload + 0.25 + initiator;
            let off = (prediction.cpu_us - expected).abs();
            assert!(
                off < 0.06,
                "{point}: {} against {expected}",
                prediction.cpu_us
            );
        }
    }
}
