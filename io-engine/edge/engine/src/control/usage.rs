//! Resource counters of the process, from `/proc/self` (proc(5)).

/// Counters since start. Those Linux does not keep (swaps, messages, signals) do not appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    /// Minor page faults.
    pub soft_faults: i64,
    /// Major page faults.
    pub hard_faults: i64,
    /// Input from block devices, in units of 512 bytes.
    pub in_block_ops: i64,
    /// Output to block devices, in units of 512 bytes.
    pub out_block_ops: i64,
    /// Voluntary context switches of the threads there are.
    pub vol_csw: i64,
    /// Involuntary context switches of the threads there are.
    pub invol_csw: i64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// Reads the counters of this process; what cannot be read is 0.
pub fn read() -> ResourceUsage {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (soft_faults, hard_faults) = faults(&text("/proc/self/stat"));
    let io = text("/proc/self/io");
    let mut usage = ResourceUsage {
        soft_faults,
        hard_faults,
        in_block_ops: keyed(&io, "read_bytes:") / 512,
        out_block_ops: keyed(&io, "write_bytes:") / 512,
        resident_bytes: keyed(&text("/proc/self/status"), "VmRSS:").max(0) as u64 * 1024,
        ..ResourceUsage::default()
    };
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        usage.vol_csw += keyed(&status, "voluntary_ctxt_switches:");
        usage.invol_csw += keyed(&status, "nonvoluntary_ctxt_switches:");
    }
    usage
}

/// Minor and major faults: fields 10 and 12, counted behind the name in parentheses, which may contain anything.
fn faults(stat: &str) -> (i64, i64) {
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split(' ').collect();
    // The first field behind the name is number 3.
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    (field(10), field(12))
}

/// The number behind `key` at the start of a line.
fn keyed(text: &str, key: &str) -> i64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_spaces() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1234 55 66 77 8 9";
        assert_eq!(faults(stat), (1234, 66));
        assert_eq!(faults(""), (0, 0));
    }

    #[test]
    fn this_process_has_faulted_pages_in() {
        let usage = read();
        assert!(
            usage.soft_faults > 0 && usage.resident_bytes > 100_000,
            "{usage:?}"
        );
    }
}
