//! Plugins: those an engine starts with, and the commands about them.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use conformance::Options;
use engine_config::{Config, Environment, MemoryNow, Origin};
use plugin_host::{
    MemoryFigures, MemoryLimits, PluginHost, PluginInfo, Probe, Refusal, Search, Source, check,
    files_in, read,
};
use sdk::block::{Device, DeviceDriver, OpenError};
use sdk::uri::{DeviceUri, UriError};

use crate::Fatal;
use crate::cli::PluginCommand;

/// The transport an engine cannot be without.
const TRANSPORT: &str = "tcp";
/// Time a child has to load a file named on the command line.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// This program again, as the child that tries a plugin first.
fn probe_by_myself(deadline: Duration) -> Result<Probe, Fatal> {
    let program = std::env::current_exe()
        .map_err(|error| Fatal::Other(format!("this program's own file: {error}")))?;
    Ok(Probe {
        program,
        args: vec!["plugin-probe".into()],
        deadline,
    })
}

fn load(config: &Config) -> Result<(PluginHost, Vec<Refusal>), Fatal> {
    let deadline = Duration::from_secs(config.plugins.load_timeout_s.get().into());
    let probe = Some(probe_by_myself(deadline)?);
    let host = PluginHost::new(probe, None).isolating(engine::plane::isolation(config));
    let host = match config.plugins.built_in {
        true => {
            engine::plane::linked_into(host).map_err(|refusal| Fatal::Other(refusal.to_string()))?
        }
        false => host,
    };
    let refusals = host.load_all(&Search {
        files: config.plugins.files.clone(),
        directories: config.plugins.directories.clone(),
    });
    Ok((host, refusals))
}

/// The plugins an engine starts with; refused ones are logged, a line each, and the engine does without them.
pub(crate) fn start(config: &Config, environment: &Environment) -> Result<PluginHost, Fatal> {
    let (host, refusals) = load(config)?;
    if let Some(limits) = memory_limits(config, environment) {
        host.limit_memory(limits);
    }
    for refusal in refusals {
        tracing::error!("{refusal}");
    }
    if !config.plugins.built_in && host.fabric(TRANSPORT).is_none() {
        let problem = format!(
            "is false, and no plugin that is loaded brings the transport '{TRANSPORT}', by which hosts come; name one \
             in plugins.files or a directory of one in plugins.directories, or set it to true"
        );
        let origin = Origin::File("plugins.built_in");
        return Err(Fatal::Config(config.bad_value(&origin, problem)));
    }
    for plugin in host.plugins() {
        let (name, version, isolated) = (&plugin.name, &plugin.version, plugin.isolated);
        if let Source::File(path) = &plugin.source {
            tracing::info!(%name, %version, path = %path.display(), isolated, "plugin loaded");
        }
    }
    for name in &config.plugins.isolate {
        if host.plugin(name).is_none() {
            tracing::info!(%name, "a plugin to be isolated is not there (plugins.isolate); it will be when it is loaded");
        }
    }
    host.watch().map_err(|error| {
        Fatal::Other(format!("the plugin watch thread does not start: {error}"))
    })?;
    Ok(host)
}

/// What plugins may keep data in; `None` where nobody said and the system does not tell.
fn memory_limits(config: &Config, environment: &Environment) -> Option<MemoryLimits> {
    let reactors = config.reactors.cpus.as_slice().len() as u64;
    Some(MemoryLimits {
        bytes_max: config.memory.ram_disks_bytes_max?,
        key: "memory.ram_disks_mib_max",
        total: environment.memory_bytes.unwrap_or(0),
        own: (u64::from(config.memory.arena_mib.get()) << 20) * reactors,
        read: Arc::new(|| {
            let now = MemoryNow::read()?;
            Some(MemoryFigures {
                available: now.available_bytes,
                used: now.used_bytes,
            })
        }),
    })
}

/// Whether a declared device has a scheme that the default set or a plugin to be loaded serves, by what their files say of
/// themselves; nothing is loaded for it.
pub(crate) fn check_uri(config: &Config, uri: &str) -> Result<(), UriError> {
    let unknown = match engine::plane::check_uri(uri) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let UriError::UnknownScheme { scheme, .. } = &unknown else {
        return Err(unknown);
    };
    let found = config.plugins.directories.iter().flat_map(|directory| {
        // One that cannot be read is told of when it is loaded from.
        files_in(directory).unwrap_or_default()
    });
    let mut files = config.plugins.files.iter().cloned().chain(found);
    let is_served = files.any(|file| {
        read(&file).is_ok_and(|descriptor| descriptor.serves.split(',').any(|name| name == scheme))
    });
    match is_served {
        true => Ok(()),
        false => Err(unknown),
    }
}

/// The child of a probe.
pub(crate) fn probe() -> Result<ExitCode, Fatal> {
    plugin_host::probe_child().map_err(|error| Fatal::Other(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// An operator's command.
pub(crate) fn run(command: &PluginCommand, config: &Config) -> Result<ExitCode, Fatal> {
    match command {
        PluginCommand::List { .. } => list(config),
        PluginCommand::Info { file } => info(file),
        PluginCommand::Check {
            file,
            uri,
            discards_data,
        } => try_out(file, uri.as_deref(), *discards_data),
    }
}

/// Lines on standard output.
fn print(text: &str) -> Result<(), Fatal> {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| Fatal::Other(format!("standard output: {error}")))
}

fn list(config: &Config) -> Result<ExitCode, Fatal> {
    let (host, refusals) = load(config)?;
    let mut text =
        String::from("NAME                 VERSION    ABI  SERVES                    FROM\n");
    for plugin in host.plugins() {
        text.push_str(&row(&plugin));
    }
    print(&text)?;
    for refusal in &refusals {
        crate::complain(&refusal.to_string());
    }
    Ok(match refusals.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn row(plugin: &PluginInfo) -> String {
    let serves = [
        plugin.schemes.as_slice(),
        &plugin.transports,
        &plugin.protocols,
        &plugin.pools,
    ]
    .concat()
    .join(",");
    let from = match &plugin.source {
        Source::Linked => "built in".to_owned(),
        Source::File(path) => path.display().to_string(),
    };
    let from = match plugin.isolated {
        true => format!("{from} (isolated)"),
        false => from,
    };
    let abi = format!("{}.{}", plugin.abi.0, plugin.abi.1);
    format!(
        "{:<20} {:<10} {abi:<4} {serves:<25} {from}\n",
        plugin.name, plugin.version
    )
}

fn refused(file: &Path) -> impl FnOnce(plugin_host::Why) -> Fatal {
    let what = file.to_owned();
    move |why| Fatal::Other(Refusal { what, why }.to_string())
}

fn kinds(kinds: u32) -> String {
    let names = [(1, "device"), (2, "pool"), (4, "fabric"), (8, "export")];
    let named = names.iter().filter(|(bit, _)| kinds & bit != 0);
    let list: Vec<&str> = named.map(|(_, name)| *name).collect();
    list.join(", ")
}

fn info(file: &Path) -> Result<ExitCode, Fatal> {
    let descriptor = read(file).map_err(refused(file))?;
    let fits = match check(&descriptor) {
        Ok(()) => "yes".to_owned(),
        Err(why) => format!("no: {why}"),
    };
    print(&format!(
        "name:     {}\nversion:  {}\nvendor:   {}\nkinds:    {}\nserves:   {}\nabi:      {}.{}, can do with {}.{}\ntables:   {}\nloadable: {fits}\n",
        descriptor.name,
        descriptor.version,
        descriptor.vendor,
        kinds(descriptor.kinds),
        descriptor.serves,
        descriptor.abi_major,
        descriptor.abi_minor,
        descriptor.abi_major,
        descriptor.needs_minor,
        descriptor.stamps.len(),
    ))?;
    Ok(match fits == "yes" {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn try_out(file: &Path, uri: Option<&str>, discards_data: bool) -> Result<ExitCode, Fatal> {
    let host = PluginHost::new(Some(probe_by_myself(CHECK_TIMEOUT)?), None);
    host.load(file)
        .map_err(|refusal| Fatal::Other(refusal.to_string()))?;
    print("loads\n")?;
    let Some(uri) = uri else {
        return Ok(ExitCode::SUCCESS);
    };
    DeviceUri::parse(uri).map_err(|error| Fatal::Other(error.to_string()))?;
    drop(
        host.open_device(uri)
            .map_err(|error| Fatal::Other(error.to_string()))?,
    );
    let make = || {
        let driver: Box<dyn DeviceDriver> = Box::new(OfHost(host.clone()));
        (driver, uri.to_owned())
    };
    let options = Options {
        discards_data,
        ..Options::default()
    };
    if let Err(failure) = conformance::try_device(&make, &options) {
        return Err(Fatal::Other(format!("{uri}: the kit failed: {failure}")));
    }
    let faults: u64 = host.plugins().iter().map(|plugin| plugin.faults).sum();
    if faults > 0 {
        let text = format!("{uri}: the kit passed, but {faults} promises were broken on the way");
        return Err(Fatal::Other(text));
    }
    print("passed\n")?;
    Ok(ExitCode::SUCCESS)
}

/// The plugins of a host as one driver, for the kit.
struct OfHost(PluginHost);

impl DeviceDriver for OfHost {
    fn schemes(&self) -> &'static [&'static str] {
        &[]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        self.0.open_device(uri.text())
    }
}
