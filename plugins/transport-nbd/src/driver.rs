//! The control path: opening a server, and its parts on their way to reactors.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nbd_server::ConnectionConfig;
use sdk::block::OpenError;
use sdk::export::{Export, ExportDriver, ExportSeed, ExportServer, ExportSettings};
use sdk::host::{Host, HostError, OwnerId};
use sdk::services::{Level, Services};

use crate::export::NbdExport;
use crate::listen::{self, Address, SocketFile};

/// Largest transfer: what one buffer holds.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Most connections of one reactor: what a token has room for.
const CONNECTIONS_MAX: usize = 1 << 16;

/// Serves `nbd`.
pub(crate) struct NbdDriver;

impl ExportDriver for NbdDriver {
    fn protocol(&self) -> &'static str {
        "nbd"
    }

    fn open(
        &self,
        settings: &ExportSettings,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn ExportServer>, OpenError> {
        if settings.listen.is_empty() {
            return Err(OpenError::Unsuitable {
                what: "nbd".to_owned(),
                reason: "no address to listen at".to_owned(),
            });
        }
        let mut server = NbdServer {
            addresses: Vec::new(),
            sockets: Vec::new(),
            _files: Vec::new(),
            limits: Limits {
                connection: ConnectionConfig {
                    transfer_bytes_max: settings.transfer_bytes_max.min(TRANSFER_BYTES_MAX),
                    requests_max: settings.requests_max,
                    handshake_timeout: settings.handshake_timeout,
                },
                connections_max: settings.connections_max.min(CONNECTIONS_MAX),
            },
            services: services.clone(),
        };
        // All addresses are read before the first is bound: a typing error leaves nothing behind.
        let addresses: Result<Vec<_>, _> = settings
            .listen
            .iter()
            .map(|text| Address::parse(text))
            .collect();
        for address in addresses? {
            let bound = listen::bind(&address)?;
            let text = format!("NBD listens at {}", bound.address);
            services.log(Level::Info, &text);
            server.addresses.push(bound.address);
            server.sockets.push(bound.fd);
            server._files.extend(bound.file);
        }
        Ok(Box::new(server))
    }
}

/// What a part of the server has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connection: ConnectionConfig,
    pub(crate) connections_max: usize,
}

/// A running server.
struct NbdServer {
    addresses: Vec<Address>,
    /// Until the first seat takes them.
    sockets: Vec<OwnedFd>,
    /// Held for their end.
    _files: Vec<SocketFile>,
    limits: Limits,
    services: Arc<dyn Services>,
}

impl ExportServer for NbdServer {
    fn uri(&self, name: &str) -> String {
        self.addresses
            .first()
            .map(|address| address.uri(name))
            .unwrap_or_default()
    }

    fn open_seat(&mut self) -> Result<Box<dyn ExportSeed>, OpenError> {
        Ok(Box::new(NbdSeed {
            sockets: std::mem::take(&mut self.sockets),
            limits: self.limits,
            services: self.services.clone(),
        }))
    }
}

/// A part of the server on its way to a reactor.
struct NbdSeed {
    sockets: Vec<OwnedFd>,
    limits: Limits,
    services: Arc<dyn Services>,
}

impl ExportSeed for NbdSeed {
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Export>, HostError> {
        let mut listeners = Vec::new();
        for socket in self.sockets {
            match host.adopt_listener(socket, owner) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    for listener in listeners {
                        host.close_listener(listener);
                    }
                    return Err(error);
                }
            }
        }
        Ok(Box::new(NbdExport::new(
            self.limits,
            listeners,
            self.services,
        )))
    }
}
