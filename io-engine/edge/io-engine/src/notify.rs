//! Telling systemd (sd_notify(3)): one datagram, no answer.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state` (`READY=1`, `STOPPING=1`) to `socket`, the value of `NOTIFY_SOCKET`, if there is one.
///
/// A manager that cannot be told is worth a line in the log only: the engine works without one.
pub(crate) fn notify(socket: Option<&str>, state: &str) {
    let Some(socket) = socket else { return };
    if let Err(error) = send(socket, state) {
        tracing::warn!(%socket, %state, %error, "the service manager could not be told");
    }
}

fn send(socket: &str, state: &str) -> std::io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    // A leading '@' stands for the zero byte of an abstract address.
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    datagram
        .send_to_addr(state.as_bytes(), &address)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_gets_the_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        notify(path.to_str(), "READY=1");
        let mut text = [0u8; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1");

        let name = format!("io-engine-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(&format!("@{name}"), "STOPPING=1").unwrap();
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"STOPPING=1");
    }
}
