//! `subsystem`: what the engine serves, to whom, and who is connected.

use proto::io_engine::v1::subsystem_rpc_client::SubsystemRpcClient;
use proto::io_engine::v1::{
    AddNamespaceRequest, ListControllersRequest, ListControllersResponse, ListSubsystemsRequest,
    RemoveNamespaceRequest, SetAllowedHostsRequest, Subsystem,
};

use crate::cli::{Namespace, Subsystem as Command};
use crate::context::{Context, Failure};
use crate::output::{Table, Units, size};

pub(crate) async fn run(context: Context, command: Command) -> Result<(), Failure> {
    let mut client = SubsystemRpcClient::new(context.channel());
    let units = context.units;
    match command {
        Command::List => {
            let request = ListSubsystemsRequest { nqn: None };
            let reply = context.call("subsystem list", client.list(request)).await?;
            context.table(&reply, |reply| table(&reply.subsystems, units))
        }
        Command::Hosts {
            nqn,
            allowed_hosts,
            any,
        } => {
            let what = format!("subsystem hosts {nqn}");
            let request = SetAllowedHostsRequest {
                nqn,
                allow_any_host: any,
                allowed_hosts,
            };
            let reply = context
                .call(what, client.set_allowed_hosts(request))
                .await?;
            context.table(&reply, |reply| table(std::slice::from_ref(reply), units))
        }
        Command::Ns(Namespace::Add { nqn, bdev, nsid }) => {
            let what = format!("subsystem ns add {nqn} {bdev}");
            let request = AddNamespaceRequest { nqn, bdev, nsid };
            let reply = context.call(what, client.add_namespace(request)).await?;
            context.table(&reply, |reply| table(std::slice::from_ref(reply), units))
        }
        Command::Ns(Namespace::Remove { nqn, nsid }) => {
            let what = format!("subsystem ns remove {nqn} {nsid}");
            let request = RemoveNamespaceRequest { nqn, nsid };
            let reply = context.call(what, client.remove_namespace(request)).await?;
            context.table(&reply, |reply| table(std::slice::from_ref(reply), units))
        }
        Command::Controllers { nqn } => {
            let request = ListControllersRequest { nqn };
            let reply = context
                .call("subsystem controllers", client.list_controllers(request))
                .await?;
            context.table(&reply, controllers_table)
        }
    }
}

/// One line a namespace, and one for a subsystem without any.
fn table(subsystems: &[Subsystem], units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "NQN",
        "SERIAL",
        "STATE",
        "HOSTS",
        ">NSID",
        "BDEV",
        "UUID",
        ">CAPACITY",
        "URI",
    ]);
    for subsystem in subsystems {
        let hosts = if subsystem.allow_any_host {
            "any".to_owned()
        } else if subsystem.allowed_hosts.is_empty() {
            "none".to_owned()
        } else {
            subsystem.allowed_hosts.join(",")
        };
        let state = match subsystem.online {
            true => "online".to_owned(),
            false => format!("offline: {}", subsystem.reason),
        };
        let row = |nsid: String, bdev: String, uuid: String, capacity: String| {
            vec![
                subsystem.nqn.clone(),
                subsystem.serial.clone(),
                state.clone(),
                hosts.clone(),
                nsid,
                bdev,
                uuid,
                capacity,
                subsystem.uris.join(","),
            ]
        };
        for namespace in &subsystem.namespaces {
            let capacity = namespace
                .num_blocks
                .saturating_mul(namespace.blk_size.into());
            table.row(row(
                namespace.nsid.to_string(),
                namespace.bdev.clone(),
                namespace.uuid.clone(),
                size(capacity, units),
            ));
        }
        if subsystem.namespaces.is_empty() {
            table.row(row(
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ));
        }
    }
    table
}

fn controllers_table(reply: &ListControllersResponse) -> Table {
    let mut table = Table::new(&[
        "SUBNQN",
        ">CNTLID",
        "HOSTNQN",
        "HOSTID",
        ">IO_QUEUES",
        ">KATO_MS",
        "PEER",
        ">SINCE_UNIX_MS",
    ]);
    for controller in &reply.controllers {
        table.row(vec![
            controller.subnqn.clone(),
            controller.cntlid.to_string(),
            controller.hostnqn.clone(),
            controller.hostid.clone(),
            controller.io_queues.to_string(),
            controller.kato_ms.to_string(),
            controller.peer.clone(),
            controller.since_unix_ms.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_allow_list_is_not_shown_as_any() {
        let subsystem = Subsystem {
            nqn: "nqn.x:a".into(),
            serial: "S".into(),
            online: true,
            ..Default::default()
        };
        let any = Subsystem {
            allow_any_host: true,
            ..subsystem.clone()
        };
        assert_eq!(
            table(&[subsystem], None).render(false),
            "nqn.x:a  S  online  none  -  -  -  -  -\n"
        );
        assert_eq!(
            table(&[any], None).render(false),
            "nqn.x:a  S  online  any  -  -  -  -  -\n"
        );
    }
}
