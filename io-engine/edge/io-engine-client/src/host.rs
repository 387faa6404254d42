//! `controller`, `device`, `perf`, `info`: the node and the process.

use proto::mayastor::v1::host_rpc_client::HostRpcClient;
use proto::mayastor::v1::{
    BlockDevice, ListBlockDevicesRequest, ListNvmeControllersResponse, NvmeControllerState,
    StatNvmeControllerRequest,
};

use crate::cli::{Controller, Device, Perf};
use crate::context::{Context, Failure};
use crate::output::{Table, Units, size};

pub(crate) async fn controller(context: Context, command: Controller) -> Result<(), Failure> {
    let mut client = HostRpcClient::new(context.channel());
    match command {
        Controller::List => {
            let reply = context
                .call("controller list", client.list_nvme_controllers(()))
                .await?;
            context.table(&reply, |reply| controller_table(reply, context.units))
        }
        Controller::Stats { name } => {
            let what = format!("controller stats {name}");
            let request = StatNvmeControllerRequest { name: name.clone() };
            let reply = context
                .call(what, client.stat_nvme_controller(request))
                .await?;
            context.table(&reply, |reply| {
                let mut table = Table::new(&[
                    "NAME",
                    ">READS",
                    ">WRITES",
                    ">READ/B",
                    ">WRITTEN/B",
                    ">NUM_UNMAPS",
                    ">BYTES_UNMAPPED",
                ]);
                if let Some(stats) = &reply.stats {
                    table.row(vec![
                        name,
                        stats.num_read_ops.to_string(),
                        stats.num_write_ops.to_string(),
                        size(stats.bytes_read, context.units),
                        size(stats.bytes_written, context.units),
                        stats.num_unmap_ops.to_string(),
                        size(stats.bytes_unmapped, context.units),
                    ]);
                }
                table
            })
        }
    }
}

fn controller_table(reply: &ListNvmeControllersResponse, units: Option<Units>) -> Table {
    let mut table = Table::new(&["NAMEs", ">SIZE", "STATE", ">BLKSIZE"]);
    for controller in &reply.controllers {
        let state = match controller.state() {
            NvmeControllerState::New => "new",
            NvmeControllerState::Initializing => "init",
            NvmeControllerState::Running => "running",
            NvmeControllerState::Faulted => "faulted",
            NvmeControllerState::Unconfiguring => "unconfiguring",
            NvmeControllerState::Unconfigured => "unconfigured",
        };
        table.row(vec![
            controller.name.clone(),
            size(controller.size, units),
            state.to_owned(),
            controller.blk_size.to_string(),
        ]);
    }
    table
}

pub(crate) async fn device(context: Context, command: Device) -> Result<(), Failure> {
    let Device::List { all } = command;
    let mut client = HostRpcClient::new(context.channel());
    let request = ListBlockDevicesRequest { all };
    let reply = context
        .call("device list", client.list_block_devices(request))
        .await?;
    context.table(&reply, |reply| device_table(&reply.devices, context.units))
}

fn device_table(devices: &[BlockDevice], units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "DEVNAME",
        "DEVTYPE",
        ">MAJOR",
        ">MINOR",
        ">SIZE",
        "AVAILABLE",
        "MODEL",
        "PARTTYPE",
        "FSTYPE",
        "FSUUID",
        "MOUNTPOINTS",
        "DEVPATH",
        "DEVLINKS",
    ]);
    for device in devices {
        let filesystem = device.filesystem.clone().unwrap_or_default();
        let partition = device.partition.clone().unwrap_or_default();
        table.row(vec![
            device.devname.clone(),
            device.devtype.clone(),
            device.devmajor.to_string(),
            device.devminor.to_string(),
            // The wire counts units of 512 bytes, whatever the block size.
            size(device.size.saturating_mul(512), units),
            if device.available { "yes" } else { "no" }.to_owned(),
            device.model.clone(),
            partition.typeid,
            filesystem.fstype,
            filesystem.uuid,
            filesystem.mountpoints.join(","),
            device.devpath.clone(),
            device.devlinks.join(","),
        ]);
    }
    table
}

pub(crate) async fn perf(context: Context, command: Perf) -> Result<(), Failure> {
    let Perf::Resource = command;
    let mut client = HostRpcClient::new(context.channel());
    let reply = context
        .call("perf resource", client.get_mayastor_resource_usage(()))
        .await?;
    context.table(&reply, |reply| {
        let mut table = Table::new(&[
            ">SOFT_FAULTS",
            ">HARD_FAULTS",
            ">VOLUNTARY_CSW",
            ">INVOLUNTARY_CSW",
        ]);
        if let Some(usage) = &reply.usage {
            let cells = [
                usage.soft_faults,
                usage.hard_faults,
                usage.vol_csw,
                usage.invol_csw,
            ];
            table.row(cells.iter().map(i64::to_string).collect());
        }
        table
    })
}

pub(crate) async fn info(context: Context) -> Result<(), Failure> {
    let mut client = HostRpcClient::new(context.channel());
    let reply = context.call("info", client.get_mayastor_info(())).await?;
    context.table(&reply, |reply| {
        let mut table = Table::new(&["NODE", "VERSION", "GRPC", "NVMF", "INSTANCE"]);
        let registration = reply.registration_info.clone().unwrap_or_default();
        table.row(vec![
            registration.id,
            reply.version.clone(),
            registration.grpc_endpoint,
            registration
                .nvmf_target
                .map(|target| target.address)
                .unwrap_or_default(),
            registration.instance_uuid.unwrap_or_default(),
        ]);
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_disks_count_512_byte_units() {
        let disk = BlockDevice {
            devname: "/dev/sda".into(),
            devtype: "disk".into(),
            devmajor: 8,
            size: 2048,
            available: true,
            ..Default::default()
        };
        let text = device_table(&[disk], Some(Units::I)).render(false);
        assert_eq!(
            text,
            "/dev/sda  disk  8  0  1.00 MiB  yes  -  -  -  -  -  -  -\n"
        );
    }
}
