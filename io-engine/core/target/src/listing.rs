//! Commands in flight, for people who look.

use crate::command::NONE;
use crate::target::Target;
use crate::{CmdId, QpairId};

/// Where a command in flight came from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandOrigin {
    /// Subsystem NQN.
    pub subnqn: String,
    /// Host NQN.
    pub hostnqn: String,
    /// Controller id.
    pub cntlid: u16,
    /// Queue id.
    pub qid: u16,
    /// Command id.
    pub cid: u16,
    /// Namespace id.
    pub nsid: u32,
}

impl Target {
    /// Where `cmd` came from; `None` when it ended or its connection is gone.
    pub fn origin(&self, cmd: CmdId) -> Option<CommandOrigin> {
        let command = &self.commands[self.commands.check(cmd)?];
        if command.qp == NONE {
            return None;
        }
        let qp: QpairId = self.qpair_id(command.qp);
        let (subnqn, hostnqn, cntlid, qid) = self.describe(qp)?;
        Some(CommandOrigin {
            subnqn: subnqn.to_owned(),
            hostnqn: hostnqn.to_owned(),
            cntlid,
            qid,
            cid: command.cid,
            nsid: command.nsid,
        })
    }
}
