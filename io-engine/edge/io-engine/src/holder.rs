//! Who listens on a port: for the one line that says it is in use.

use std::fs;
use std::net::SocketAddr;

/// The process that listens on `address`'s port (`pid 12 (nvmf_tgt)`), if it can be found. Processes of other users are
/// only visible to root.
pub(crate) fn of(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let holds = descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| {
                inodes
                    .iter()
                    .any(|inode| target.as_os_str() == inode.as_str())
            });
        if holds {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid} ({})", comm.trim()));
        }
    }
    None
}

/// Inodes of the sockets in state LISTEN (0A) on `port`: `sl local rem st .. inode`, addresses in hexadecimal.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let lines = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let local = words.get(1)?.rsplit_once(':')?.1;
        let listens = *words.get(3)? == "0A" && u16::from_str_radix(local, 16) == Ok(port);
        listens.then(|| words.get(9)?.parse().ok()).flatten()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = of(address).unwrap();
        assert!(
            text.starts_with(&format!("pid {} (", std::process::id())),
            "{text}"
        );
        drop(listener);
        assert_eq!(of(address), None);
    }
}
