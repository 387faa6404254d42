//! `bdev`: block devices of the engine.

use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::{
    CommandDeviceRequest, Device, DeviceState, ListDevicesResponse, RescanDeviceRequest,
    ShareDeviceRequest,
};
use proto::mayastor::v1::bdev_rpc_client::BdevRpcClient;
use proto::mayastor::v1::{
    BdevShareRequest, BdevUnshareRequest, CreateBdevRequest, DestroyBdevRequest, ListBdevOptions,
    ListBdevResponse, ShareProtocol,
};

use crate::cli::{Bdev, Protocol};
use crate::context::{Context, Failure};
use crate::output::{Table, Units, size};

pub(crate) async fn run(context: Context, command: Bdev) -> Result<(), Failure> {
    let mut client = BdevRpcClient::new(context.channel());
    let mut engine = EngineRpcClient::new(context.channel());
    match command {
        Bdev::List => {
            let reply = context
                .call("bdev list", client.list(ListBdevOptions { name: None }))
                .await?;
            context.table(&reply, |reply| list_table(reply, context.units))
        }
        Bdev::State => {
            let reply = context.call("bdev state", engine.list_devices(())).await?;
            context.table(&reply, |reply| state_table(reply, context.units))
        }
        Bdev::Create { uri } => {
            let what = format!("bdev create {uri}");
            let reply = context
                .call(what, client.create(CreateBdevRequest { uri }))
                .await?;
            context.line(&reply, |reply| {
                reply
                    .bdev
                    .as_ref()
                    .map(|bdev| bdev.name.clone())
                    .unwrap_or_default()
            })
        }
        Bdev::Destroy { name } => {
            let what = format!("bdev destroy {name}");
            let uri = uri_of(&context, &mut client, name).await?;
            context
                .call(what, client.destroy(DestroyBdevRequest { uri }))
                .await?;
            context.line(&(), |()| "destroyed".to_owned())
        }
        Bdev::Share {
            name,
            protocol,
            allowed_hosts,
            read_only,
        } => share(&context, name, protocol, allowed_hosts, read_only).await,
        Bdev::Unshare { name } => {
            let what = format!("bdev unshare {name}");
            let options = ListBdevOptions {
                name: Some(name.clone()),
            };
            let before = context.call(&what, client.list(options)).await?;
            let request = BdevUnshareRequest { name: name.clone() };
            // Also where nothing is shared: it waits for what hosts of before have not finished.
            context.call(what, client.unshare(request)).await?;
            context.line(&(), |()| unshared(&name, &before))
        }
        Bdev::Command { name, words } => command_to(&context, name, &words.join(" ")).await,
        Bdev::Rescan { name, accept_loss } => {
            let what = format!("bdev rescan {name}");
            let request = RescanDeviceRequest { name, accept_loss };
            let reply = context.call(what, engine.rescan_device(request)).await?;
            context.line(&reply, |device: &Device| {
                format!(
                    "{}: {} blocks of {} bytes",
                    device.name, device.num_blocks, device.blk_size
                )
            })
        }
    }
}

/// Exports a device and prints where it is found.
async fn share(
    context: &Context,
    name: String,
    protocol: Protocol,
    allowed_hosts: Vec<String>,
    read_only: bool,
) -> Result<(), Failure> {
    let over = |protocol: &str| ShareDeviceRequest {
        name: name.clone(),
        protocol: protocol.to_owned(),
        read_only,
        allowed_hosts: allowed_hosts.clone(),
    };
    let protocol = match protocol {
        Protocol::Nbd => return share_over(context, over("nbd")).await,
        // `mayastor.v1` knows no read-only shares.
        Protocol::Nvmf if read_only => return share_over(context, over("nvmf")).await,
        Protocol::Nvmf => ShareProtocol::Nvmf,
        Protocol::Iscsi => ShareProtocol::Iscsi,
        Protocol::None => ShareProtocol::None,
    };
    let what = format!("bdev share {name}");
    let request = BdevShareRequest {
        name,
        protocol: protocol as i32,
        allowed_hosts,
    };
    let mut client = BdevRpcClient::new(context.channel());
    let reply = context.call(what, client.share(request)).await?;
    context.line(&reply, |reply| {
        reply
            .bdev
            .as_ref()
            .map(|bdev| bdev.share_uri.clone())
            .unwrap_or_default()
    })
}

/// Gives a device a command of its own and prints what it says.
async fn command_to(context: &Context, name: String, command: &str) -> Result<(), Failure> {
    let what = format!("bdev command {name}");
    let command = command.to_owned();
    let request = CommandDeviceRequest { name, command };
    let mut engine = EngineRpcClient::new(context.channel());
    let reply = context.call(what, engine.command_device(request)).await?;
    context.line(&reply, |reply| reply.answer.trim_end().to_owned())
}

/// Exports a device as `mayastor.v1` cannot, and prints where it is found.
async fn share_over(context: &Context, request: ShareDeviceRequest) -> Result<(), Failure> {
    let what = format!("bdev share {}", request.name);
    let protocol = &request.protocol;
    if protocol != "nvmf" && !request.allowed_hosts.is_empty() {
        let text = format!("{protocol} knows no hosts by NQN; leave --allowed-host out");
        return Err(Failure::new(what, text));
    }
    let mut engine = EngineRpcClient::new(context.channel());
    let reply = context.call(what, engine.share_device(request)).await?;
    context.line(&reply, |reply| reply.uri.clone())
}

/// The URI a device was created from; a URI stands for itself.
async fn uri_of(
    context: &Context,
    client: &mut BdevRpcClient<tonic::transport::Channel>,
    name: String,
) -> Result<String, Failure> {
    if name.contains("://") {
        return Ok(name);
    }
    let what = format!("bdev destroy {name}");
    let options = ListBdevOptions { name: Some(name) };
    let reply = context.call(&what, client.list(options)).await?;
    match reply.bdevs.into_iter().next() {
        Some(bdev) => Ok(bdev.uri),
        None => Err(Failure::new(
            what,
            "NOT_FOUND: there is no such device; see bdev list",
        )),
    }
}

/// What an unshare did; it succeeds on what was not shared, too.
fn unshared(name: &str, before: &ListBdevResponse) -> String {
    match before.bdevs.first() {
        None => format!("nothing was shared: there is no device '{name}' (see bdev list)"),
        Some(bdev) if !bdev.claimed && bdev.share_uri.starts_with("bdev:///") => {
            format!("nothing was shared: '{name}' was not")
        }
        Some(_) => "unshared".to_owned(),
    }
}

fn list_table(reply: &ListBdevResponse, units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "UUID",
        ">NUM_BLOCKS",
        ">BLK_SIZE",
        ">CAPACITY",
        "CLAIMED_BY",
        "NAME",
        "SHARE_URI",
    ]);
    for bdev in &reply.bdevs {
        let capacity = bdev.num_blocks.saturating_mul(bdev.blk_size.into());
        table.row(vec![
            bdev.uuid.clone(),
            bdev.num_blocks.to_string(),
            bdev.blk_size.to_string(),
            size(capacity, units),
            bdev.claimed_by.clone(),
            bdev.name.clone(),
            bdev.share_uri.clone(),
        ]);
    }
    table
}

fn state_table(reply: &ListDevicesResponse, units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        ">CAPACITY",
        "PRODUCT",
        "CAPABILITIES",
        "URI",
        "REASON",
    ]);
    for device in &reply.devices {
        let state = match device.state() {
            DeviceState::Online => "online",
            DeviceState::Faulted => "faulted",
            DeviceState::Unspecified => "unknown",
        };
        let capacity = device.num_blocks.saturating_mul(device.blk_size.into());
        table.row(vec![
            device.name.clone(),
            state.to_owned(),
            size(capacity, units),
            device.product_name.clone(),
            device.capabilities.clone(),
            device.uri.clone(),
            device.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_upstreams_columns() {
        let reply = ListBdevResponse {
            bdevs: vec![proto::mayastor::v1::Bdev {
                name: "m0".into(),
                uuid: "3fa85f64-5717-4562-b3fc-2c963f66afa6".into(),
                num_blocks: 131_072,
                blk_size: 512,
                claimed: true,
                claimed_by: "NVMe-oF Target".into(),
                share_uri: "nvmf+tcp://10.0.0.1:8420/nqn.2019-05.io.openebs:m0".into(),
                ..Default::default()
            }],
        };
        let expected = "\
UUID                                  NUM_BLOCKS  BLK_SIZE   CAPACITY  CLAIMED_BY      NAME  SHARE_URI
3fa85f64-5717-4562-b3fc-2c963f66afa6      131072       512  64.00 MiB  NVMe-oF Target  m0    nvmf+tcp://10.0.0.1:8420/nqn.2019-05.io.openebs:m0
";
        assert_eq!(list_table(&reply, Some(Units::I)).render(true), expected);
    }

    #[test]
    fn unsharing_what_is_not_shared_is_told_so() {
        let before = |claimed, share_uri: &str| ListBdevResponse {
            bdevs: vec![proto::mayastor::v1::Bdev {
                claimed,
                share_uri: share_uri.into(),
                ..Default::default()
            }],
        };
        let none = ListBdevResponse { bdevs: Vec::new() };
        assert_eq!(
            unshared("m9", &none),
            "nothing was shared: there is no device 'm9' (see bdev list)"
        );
        assert_eq!(
            unshared("m0", &before(false, "bdev:///m0")),
            "nothing was shared: 'm0' was not"
        );
        for shared in [
            before(true, "nvmf+tcp://h:1/nqn"),
            before(true, "bdev:///m0"),
        ] {
            assert_eq!(unshared("m0", &shared), "unshared");
        }
    }

    #[test]
    fn json_uses_the_names_of_the_proto_files() {
        let reply = ListBdevResponse {
            bdevs: vec![proto::mayastor::v1::Bdev::default()],
        };
        let json = serde_json::to_value(&reply).unwrap();
        let keys: Vec<&String> = json["bdevs"][0].as_object().unwrap().keys().collect();
        let mut names = [
            "name",
            "uuid",
            "num_blocks",
            "blk_size",
            "claimed",
            "claimed_by",
            "aliases",
            "uri",
            "product_name",
            "share_uri",
        ];
        names.sort_unstable();
        let mut keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, names);
        let features = proto::mayastor::v1::MayastorFeatures::default();
        let json = serde_json::to_value(features).unwrap();
        assert_eq!(json["asymmetricNamespaceAccess"], false);
        assert_eq!(json["nexus_label_version"], 0);
    }
}
