//! Which connection is which queue pair, and what becomes of connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nvme_target::{QpairId, TransportFacts, UnroutedConnect};
use sdk::fabric::{ConnId, Parcel};
use sdk::host::Host;

use super::Shard;
use super::admission::PeerId;

/// One connection.
#[derive(Clone, Copy)]
pub(super) struct Connection {
    pub(super) conn: ConnId,
    pub(super) qp: QpairId,
    pub(super) peer: PeerId,
    pub(super) peer_addr: SocketAddr,
}

/// Connections by either of their names.
#[derive(Default)]
pub(super) struct Connections {
    by_conn: Vec<Option<Connection>>,
    by_qpair: Vec<Option<Connection>>,
    /// Closed connections by reason, since start.
    pub(super) closed: BTreeMap<&'static str, u64>,
}

impl Connections {
    fn insert(&mut self, connection: Connection) {
        place(&mut self.by_conn, connection.conn.slot(), connection);
        place(&mut self.by_qpair, connection.qp.index(), connection);
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
            .filter(|found| found.qp == qp)
    }

    fn remove(&mut self, connection: Connection) {
        self.by_conn[connection.conn.slot()] = None;
        self.by_qpair[connection.qp.index()] = None;
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
    pub(super) fn handle_connected(&mut self, conn: ConnId, local: SocketAddr, peer: SocketAddr) {
        self.open_connection(conn, local, peer);
    }

    fn open_connection(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<QpairId> {
        let facts = TransportFacts {
            traddr: local.ip().to_canonical().to_string(),
            trsvcid: local.port().to_string(),
            ipv6: local.ip().to_canonical().is_ipv6(),
        };
        let Some(qp) = self.target.handle_connected(self.reactor.now(), facts) else {
            self.connections.count_closed("no_room_for_queue_pair");
            self.fabric
                .close(&mut self.reactor, conn, "no_room_for_queue_pair");
            return None;
        };
        let peer_id = self.admission.join(peer.ip().to_canonical());
        self.connections.insert(Connection {
            conn,
            qp,
            peer: peer_id,
            peer_addr: peer,
        });
        Some(qp)
    }

    pub(super) fn handle_closed(&mut self, conn: ConnId, reason: &'static str) {
        self.connections.count_closed(reason);
        if let Some(connection) = self.connections.by_conn(conn) {
            tracing::debug!(peer = %connection.peer_addr, reason, "connection closed");
            self.forget_connection(connection);
        }
    }

    fn forget_connection(&mut self, connection: Connection) {
        self.connections.remove(connection);
        let now = self.reactor.now();
        let commands = &self.commands;
        self.devices
            .orphan(now, |tag| commands.is_of(tag, connection.qp));
        self.admission.leave(connection.peer);
        self.target.handle_disconnected(now, connection.qp);
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
        tracing::debug!(peer = %connection.peer_addr, reason, "closing connection");
        self.fabric
            .close(&mut self.reactor, connection.conn, reason);
        self.connections.count_closed(reason);
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
        if let Some(qp) = self.open_connection(attached.conn, attached.local, attached.peer) {
            self.target.replay_connect(self.reactor.now(), qp, connect);
        }
    }
}
