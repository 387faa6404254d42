//! Listening sockets: addresses as the settings write them, and the file a Unix socket leaves behind.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sdk::block::OpenError;

/// What stands for itself in the path and the query of a URI.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const ESCAPED_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Reads `tcp://ADDRESS:PORT` or `unix:///PATH`.
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`].
    pub(crate) fn parse(text: &str) -> Result<Self, OpenError> {
        let unsuitable = |reason: &str| OpenError::Unsuitable {
            what: text.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(address) = text.strip_prefix("tcp://") {
            return address
                .parse()
                .map(Self::Tcp)
                .map_err(|_| unsuitable("not an IP address and a port"));
        }
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self::Unix(path.into())),
            Some(_) => Err(unsuitable("the path of a socket is absolute")),
            None => Err(unsuitable(
                "NBD listens at tcp://ADDRESS:PORT or unix:///PATH",
            )),
        }
    }

    /// The URI of an export behind this address (`doc/uri.md`).
    pub(crate) fn uri(&self, name: &str) -> String {
        let name = utf8_percent_encode(name, ESCAPED_PATH);
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{name}"),
            Self::Unix(path) => {
                let path = path.to_string_lossy();
                let path = utf8_percent_encode(&path, ESCAPED_PATH);
                format!("nbd+unix:///{name}?socket={path}")
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A bound, nonblocking listening socket and its address as the system completed it.
pub(crate) struct Bound {
    pub(crate) fd: OwnedFd,
    pub(crate) address: Address,
    /// Removes the socket's file in the end.
    pub(crate) file: Option<SocketFile>,
}

/// Binds `address`.
///
/// # Errors
/// [`OpenError::InUse`] if somebody listens there, [`OpenError::System`] otherwise.
pub(crate) fn bind(address: &Address) -> Result<Bound, OpenError> {
    match address {
        Address::Tcp(wanted) => {
            let what = format!("listen at {address}");
            let listener = TcpListener::bind(wanted).map_err(|error| refused(&what, error))?;
            listener
                .set_nonblocking(true)
                .map_err(|error| refused(&what, error))?;
            let local = listener
                .local_addr()
                .map_err(|error| refused(&what, error))?;
            Ok(Bound {
                fd: listener.into(),
                address: Address::Tcp(local),
                file: None,
            })
        }
        Address::Unix(path) => {
            let what = format!("listen at {address}");
            let listener = bind_unix(path).map_err(|error| refused(&what, error))?;
            listener
                .set_nonblocking(true)
                .map_err(|error| refused(&what, error))?;
            let file = SocketFile::of(path).map_err(|error| refused(&what, error))?;
            Ok(Bound {
                fd: listener.into(),
                address: address.clone(),
                file: Some(file),
            })
        }
    }
}

fn refused(what: &str, source: io::Error) -> OpenError {
    let what = what.to_owned();
    if source.kind() == io::ErrorKind::AddrInUse {
        let holder = "another server".to_owned();
        return OpenError::InUse { what, holder };
    }
    OpenError::System { what, source }
}

/// Binds a Unix socket; the file of a server that died is in the way only until somebody tries.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let error = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        other => return other,
    };
    let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
    let refuses = matches!(
        UnixStream::connect(path),
        Err(refusal) if refusal.kind() == io::ErrorKind::ConnectionRefused
    );
    if !(is_socket && refuses) {
        return Err(error);
    }
    fs::remove_file(path)?;
    UnixListener::bind(path)
}

/// The file of a Unix socket we bound; removed when dropped, if it is still the same one.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            // Nothing to do if it fails: the next server finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}
