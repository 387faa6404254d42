//! `plugin`: what the engine was extended with.

use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::{ListPluginsResponse, LoadPluginRequest, Plugin, UnloadPluginRequest};

use crate::cli;
use crate::context::{Context, Failure};
use crate::output::Table;

pub(crate) async fn run(context: Context, command: cli::Plugin) -> Result<(), Failure> {
    let mut client = EngineRpcClient::new(context.channel());
    match command {
        cli::Plugin::List => {
            let reply = context.call("plugin list", client.list_plugins(())).await?;
            context.table(&reply, list)
        }
        cli::Plugin::Load { file } => {
            let what = format!("plugin load {file}");
            let loading = client.load_plugin(LoadPluginRequest { file });
            let plugin = context.call(what, loading).await?;
            context.table(&plugin, info)
        }
        cli::Plugin::Unload { name } => {
            let what = format!("plugin unload {name}");
            let unloading = client.unload_plugin(UnloadPluginRequest { name });
            context.call(what, unloading).await?;
            context.line(&(), |()| "unloaded".to_owned())
        }
        cli::Plugin::Info { name } => {
            let reply = context.call("plugin info", client.list_plugins(())).await?;
            let found = reply.plugins.into_iter().find(|plugin| plugin.name == name);
            let found = found.ok_or_else(|| {
                Failure::new(
                    "NOT_FOUND",
                    format!("there is no plugin '{name}'; see plugin list"),
                )
            })?;
            context.table(&found, info)
        }
    }
}

fn serves(plugin: &Plugin) -> String {
    let all = [
        &plugin.schemes,
        &plugin.transports,
        &plugin.protocols,
        &plugin.pools,
    ];
    all.map(|names| names.join(","))
        .into_iter()
        .filter(|names| !names.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}

fn from(plugin: &Plugin) -> String {
    plugin.path.clone().unwrap_or_else(|| "built in".to_owned())
}

fn isolated(plugin: &Plugin) -> String {
    match plugin.isolated {
        true => "yes".to_owned(),
        false => "no".to_owned(),
    }
}

fn list(reply: &ListPluginsResponse) -> Table {
    let mut table = Table::new(&[
        "NAME", "VERSION", "KINDS", "SERVES", "ABI", ">FAULTS", "ISOLATED", "FROM",
    ]);
    for plugin in &reply.plugins {
        table.row(vec![
            plugin.name.clone(),
            plugin.version.clone(),
            plugin.kinds.join(","),
            serves(plugin),
            plugin.abi.clone(),
            plugin.faults.to_string(),
            isolated(plugin),
            from(plugin),
        ]);
    }
    table
}

fn info(plugin: &Plugin) -> Table {
    let mut table = Table::new(&["PROPERTY", "VALUE"]);
    let rows = [
        ("name", plugin.name.clone()),
        ("version", plugin.version.clone()),
        ("vendor", plugin.vendor.clone()),
        ("kinds", plugin.kinds.join(", ")),
        ("serves", serves(plugin)),
        ("abi", plugin.abi.clone()),
        ("from", from(plugin)),
        ("isolated", isolated(plugin)),
        ("faults", plugin.faults.to_string()),
    ];
    let counters = plugin.counters.iter();
    let counters = counters.map(|counter| (counter.name.as_str(), counter.value.to_string()));
    for (name, value) in rows.into_iter().chain(counters) {
        table.row(vec![name.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_shown_with_what_it_serves_and_its_counters() {
        let plugin = Plugin {
            name: "device-fault".into(),
            version: "1".into(),
            kinds: vec!["device".into()],
            schemes: vec!["fault".into(), "slow".into()],
            transports: vec!["x".into()],
            abi: "1.0".into(),
            faults: 3,
            isolated: true,
            counters: vec![proto::io_engine::v1::PluginCounter {
                name: "injected".into(),
                value: 12,
            }],
            ..Plugin::default()
        };
        let text = list(&ListPluginsResponse {
            plugins: vec![plugin.clone()],
        })
        .render(true);
        assert!(
            ["fault,slow,x", "built in", "ISOLATED", "yes"]
                .iter()
                .all(|word| text.contains(word)),
            "{text}"
        );
        let text = info(&plugin).render(false);
        assert!(text.contains("injected") && text.contains("12"), "{text}");
    }
}
