//! `inflight` and `reactors`: what the engine is doing.

use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::{ListInflightRequest, ListInflightResponse, ListReactorsResponse};

use crate::cli::Inflight;
use crate::context::{Context, Failure};
use crate::output::{Table, Units, size};

pub(crate) async fn inflight(context: Context, filter: Inflight) -> Result<(), Failure> {
    let mut client = EngineRpcClient::new(context.channel());
    let request = ListInflightRequest {
        nqn: filter.nqn,
        bdev: filter.bdev,
        limit: filter.limit,
    };
    let reply = context
        .call("inflight", client.list_inflight(request))
        .await?;
    context.table(&reply, inflight_table)
}

fn inflight_table(reply: &ListInflightResponse) -> Table {
    let mut table = Table::new(&[
        ">AGE_US",
        "OPERATION",
        ">LBA",
        ">BLOCKS",
        "BDEV",
        ">NSID",
        ">QID",
        ">CID",
        ">CNTLID",
        "SUBNQN",
        "HOSTNQN",
        "STAGES",
    ]);
    for io in &reply.ios {
        let stages: Vec<String> = io
            .stages
            .iter()
            .map(|s| format!("{}@{}", s.name, s.at_us))
            .collect();
        table.row(vec![
            io.age_us.to_string(),
            io.operation.clone(),
            io.lba.to_string(),
            io.blocks.to_string(),
            io.bdev.clone(),
            io.nsid.to_string(),
            io.qid.to_string(),
            io.cid.to_string(),
            io.cntlid.to_string(),
            io.subnqn.clone(),
            io.hostnqn.clone(),
            stages.join(","),
        ]);
    }
    table
}

pub(crate) async fn reactors(context: Context) -> Result<(), Failure> {
    let mut client = EngineRpcClient::new(context.channel());
    let reply = context.call("reactors", client.list_reactors(())).await?;
    context.table(&reply, |reply| reactors_table(reply, context.units))
}

fn reactors_table(reply: &ListReactorsResponse, units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "CPU",
        "DRIVER",
        ">BUSY%",
        ">SPIN%",
        ">SLEEP%",
        ">CONNECTIONS",
        ">INFLIGHT",
        ">ARENA",
        ">ARENA_USED",
        ">QUARANTINED",
        ">MEMORY_WAITS",
        ">WAITING",
    ]);
    for reactor in &reply.reactors {
        let total = reactor.busy_ns as f64 + reactor.spin_ns as f64 + reactor.sleep_ns as f64;
        let share = |ns: u64| match total > 0.0 {
            true => format!("{:.2}", ns as f64 * 100.0 / total),
            false => String::new(),
        };
        table.row(vec![
            reactor.cpu.map(|cpu| cpu.to_string()).unwrap_or_default(),
            reactor.driver.clone(),
            share(reactor.busy_ns),
            share(reactor.spin_ns),
            share(reactor.sleep_ns),
            reactor.connections.to_string(),
            reactor.inflight.to_string(),
            size(reactor.arena_bytes, units),
            size(reactor.arena_used_bytes, units),
            size(reactor.arena_quarantined_bytes, units),
            reactor.memory_waits.to_string(),
            reactor.memory_waiting.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_of_the_whole() {
        let reactor = proto::io_engine::v1::Reactor {
            cpu: Some(1),
            driver: "uring".into(),
            busy_ns: 25,
            spin_ns: 25,
            sleep_ns: 50,
            memory_waits: 7,
            memory_waiting: 3,
            ..Default::default()
        };
        let idle = proto::io_engine::v1::Reactor {
            driver: "epoll".into(),
            ..Default::default()
        };
        let text = reactors_table(
            &ListReactorsResponse {
                reactors: vec![reactor, idle],
            },
            None,
        )
        .render(false);
        assert_eq!(
            text,
            "1  uring  25.00  25.00  50.00  0  0  0  0  0  7  3\n\
             -  epoll      -      -      -  0  0  0  0  0  0  0\n"
        );
    }
}
