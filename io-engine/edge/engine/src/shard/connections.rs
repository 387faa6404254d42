//! Which connection is which queue pair, whose it is, and what becomes of connections.
//!
//! A connection counts from its acceptance, whatever its host says or does not say. It counts for its address to its end,
//! because a host NQN is only what the peer claims: one that invents NQNs is still at its address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use nvme_target::{QpairId, TransportFacts, UnroutedConnect};
use sdk::fabric::{ConnId, Parcel};
use sdk::host::{Host, StreamId};

use super::Shard;
use super::admission::{HostKey, PeerId};
use crate::peers::counted_as;

/// Why a connection of an address that has all it may have is closed.
const TOO_MANY_OF_ADDRESS: &str = "too_many_connections_of_address";

/// One connection.
#[derive(Clone, Copy)]
pub(super) struct Connection {
    pub(super) conn: ConnId,
    /// Its queue pair, once the transport's handshake is done.
    pub(super) qp: Option<QpairId>,
    /// Whose it is: somebody at its address until a Connect succeeds, the host of that NQN from then on.
    pub(super) peer: PeerId,
    pub(super) peer_addr: SocketAddr,
}

/// Connections by either of their names.
#[derive(Default)]
pub(super) struct Connections {
    by_conn: Vec<Option<Connection>>,
    by_qpair: Vec<Option<Connection>>,
    /// Connections by address; none of them is 0.
    by_address: BTreeMap<IpAddr, u32>,
    /// Bytes of buffers on their way to the host, which are still charged to it; by connection slot.
    unsent: Vec<usize>,
    /// Closed connections by reason, since start.
    pub(super) closed: BTreeMap<&'static str, u64>,
}

impl Connections {
    /// A connection that was accepted, or came from another shard.
    fn open(&mut self, connection: Connection) {
        let address = address_of(connection.peer_addr);
        *self.by_address.entry(address).or_default() += 1;
        self.insert(connection);
    }

    fn insert(&mut self, connection: Connection) {
        place(&mut self.by_conn, connection.conn.slot(), connection);
        if let Some(qp) = connection.qp {
            place(&mut self.by_qpair, qp.index(), connection);
        }
    }

    /// The connection the fabric calls `conn`.
    pub(super) fn by_conn(&self, conn: ConnId) -> Option<Connection> {
        self.by_conn
            .get(conn.slot())
            .copied()
            .flatten()
            .filter(|found| found.conn == conn)
    }

    /// The connection the target calls `qp`.
    pub(super) fn by_qpair(&self, qp: QpairId) -> Option<Connection> {
        self.by_qpair
            .get(qp.index())
            .copied()
            .flatten()
            .filter(|found| found.qp == Some(qp))
    }

    /// The connection the fabric calls `conn` and its queue pair.
    pub(super) fn queue_of(&self, conn: ConnId) -> Option<(Connection, QpairId)> {
        let connection = self.by_conn(conn)?;
        Some((connection, connection.qp?))
    }

    fn remove(&mut self, connection: Connection) {
        self.by_conn[connection.conn.slot()] = None;
        if let Some(qp) = connection.qp {
            self.by_qpair[qp.index()] = None;
        }
        let address = address_of(connection.peer_addr);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Connections of the address of `peer`.
    fn of_address(&self, peer: SocketAddr) -> u32 {
        self.by_address
            .get(&address_of(peer))
            .copied()
            .unwrap_or_default()
    }

    /// `len` bytes of a buffer were queued for the host.
    pub(super) fn add_unsent(&mut self, conn: ConnId, len: usize) {
        if self.unsent.len() <= conn.slot() {
            self.unsent.resize(conn.slot() + 1, 0);
        }
        self.unsent[conn.slot()] += len;
    }

    /// Up to `len` bytes queued for the host have gone; answers how many of them were charged.
    fn take_unsent(&mut self, conn: ConnId, len: usize) -> usize {
        let Some(unsent) = self.unsent.get_mut(conn.slot()) else {
            return 0;
        };
        let taken = len.min(*unsent);
        *unsent -= taken;
        taken
    }

    /// All of them, in slot order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Connection> {
        self.by_conn.iter().copied().flatten()
    }

    pub(super) fn count_closed(&mut self, reason: &'static str) {
        *self.closed.entry(reason).or_default() += 1;
    }
}

fn place(table: &mut Vec<Option<Connection>>, slot: usize, connection: Connection) {
    if table.len() <= slot {
        table.resize(slot + 1, None);
    }
    table[slot] = Some(connection);
}

impl Shard {
    /// A host connected a stream.
    pub(super) fn handle_accepted(
        &mut self,
        stream: StreamId,
        local: SocketAddr,
        peer_addr: SocketAddr,
    ) {
        if self.has_all_it_may(peer_addr) {
            self.reactor.close_stream(stream);
            self.count_closed(peer_addr, TOO_MANY_OF_ADDRESS);
            return;
        }
        let host = &mut self.reactor;
        if let Some(conn) = self.fabric.handle_accepted(host, stream, local, peer_addr) {
            self.open_connection(conn, peer_addr);
        }
    }

    /// Whether the address of `peer` has as many connections as one may have, or as many without Connect as one host may have
    /// with: so some are left to hosts behind the same address that say who they are.
    fn has_all_it_may(&self, peer: SocketAddr) -> bool {
        self.connections.of_address(peer) >= self.address_connections_max
            || self.admission.connections(&stranger_at(peer)) >= self.strangers_max
    }

    fn open_connection(&mut self, conn: ConnId, peer_addr: SocketAddr) {
        let peer = self.admission.join(stranger_at(peer_addr));
        self.connections.open(Connection {
            conn,
            qp: None,
            peer,
            peer_addr,
        });
    }

    /// The transport's handshake is done.
    pub(super) fn handle_connected(&mut self, conn: ConnId, local: SocketAddr) -> Option<QpairId> {
        let mut connection = self.connections.by_conn(conn)?;
        let facts = TransportFacts {
            traddr: local.ip().to_canonical().to_string(),
            trsvcid: local.port().to_string(),
            ipv6: local.ip().to_canonical().is_ipv6(),
        };
        let Some(qp) = self.target.handle_connected(self.reactor.now(), facts) else {
            self.drop_connection(connection, "no_room_for_queue_pair");
            return None;
        };
        connection.qp = Some(qp);
        self.connections.insert(connection);
        Some(qp)
    }

    /// A Connect succeeded: the connection is the host's whose NQN it named, and no longer its address's.
    pub(super) fn associate(&mut self, qp: QpairId) {
        let (Some(mut connection), Some((_, hostnqn, ..))) =
            (self.connections.by_qpair(qp), self.target.describe(qp))
        else {
            return;
        };
        let stranger = connection.peer;
        connection.peer = self.admission.join(HostKey::Nqn(hostnqn.into()));
        self.connections.insert(connection);
        self.admission.leave(stranger);
    }

    pub(super) fn handle_closed(&mut self, conn: ConnId, reason: &'static str) {
        match self.connections.by_conn(conn) {
            Some(connection) => {
                self.count_closed(connection.peer_addr, reason);
                self.forget_connection(connection);
            }
            None => self.connections.count_closed(reason),
        }
    }

    /// Gives back what was charged for buffers that have been sent.
    pub(super) fn take_sent(&mut self) {
        while let Some((conn, len)) = self.fabric.poll_sent() {
            if let Some(connection) = self.connections.by_conn(conn) {
                let len = self.connections.take_unsent(conn, len);
                self.admission.refund(connection.peer, len);
            }
        }
    }

    fn forget_connection(&mut self, connection: Connection) {
        self.connections.remove(connection);
        let unsent = self.connections.take_unsent(connection.conn, usize::MAX);
        self.admission.refund(connection.peer, unsent);
        let now = self.reactor.now();
        if let Some(qp) = connection.qp {
            let commands = &self.commands;
            self.devices.orphan(now, |tag| commands.is_of(tag, qp));
        }
        self.admission.leave(connection.peer);
        if let Some(qp) = connection.qp {
            self.target.handle_disconnected(now, qp);
        }
    }

    /// Closes a connection at the target's wish.
    pub(super) fn disconnect(&mut self, qp: QpairId, reason: nvme_target::DisconnectReason) {
        let Some(connection) = self.connections.by_qpair(qp) else {
            return;
        };
        self.drop_connection(connection, reason.name());
    }

    /// Closes a connection for `reason`, sending first what is queued on it.
    pub(super) fn drop_connection(&mut self, connection: Connection, reason: &'static str) {
        self.fabric
            .close(&mut self.reactor, connection.conn, reason);
        self.count_closed(connection.peer_addr, reason);
        self.forget_connection(connection);
    }

    /// A Connect named a subsystem that is not here: moves the connection to the subsystem's home or refuses it.
    pub(super) fn route_connect(&mut self, qp: QpairId, connect: Box<UnroutedConnect>) {
        let Some(connection) = self.connections.by_qpair(qp) else {
            return;
        };
        let home = self
            .surroundings
            .route(&connect.subnqn)
            .filter(|home| *home != self.index);
        let Some(home) = home else {
            self.target.refuse_connect(self.reactor.now(), qp);
            return;
        };
        let Some(parcel) = self.fabric.detach(&mut self.reactor, connection.conn) else {
            self.target.refuse_connect(self.reactor.now(), qp);
            return;
        };
        self.forget_connection(connection);
        let message: super::Message =
            Box::new(move |shard: &mut Shard| shard.adopt(parcel, &connect));
        if self.surroundings.send(home, message).is_err() {
            // The dropped message closes the descriptor; the host connects again.
            self.connections.count_closed("home_reactor_mailbox_full");
        }
    }

    fn adopt(&mut self, parcel: Parcel, connect: &UnroutedConnect) {
        let Some(attached) = self.fabric.attach(&mut self.reactor, parcel) else {
            self.connections.count_closed("no_room_for_connection");
            return;
        };
        // A Connect refused here leaves the connection a stranger's, of which one address has so many here too.
        if self.has_all_it_may(attached.peer) {
            let conn = attached.conn;
            self.fabric
                .close(&mut self.reactor, conn, TOO_MANY_OF_ADDRESS);
            self.count_closed(attached.peer, TOO_MANY_OF_ADDRESS);
            return;
        }
        self.open_connection(attached.conn, attached.peer);
        if let Some(qp) = self.handle_connected(attached.conn, attached.local) {
            self.target.replay_connect(self.reactor.now(), qp, connect);
        }
    }
}

fn address_of(peer: SocketAddr) -> IpAddr {
    counted_as(peer.ip())
}

fn stranger_at(peer: SocketAddr) -> HostKey {
    HostKey::Address(address_of(peer))
}
