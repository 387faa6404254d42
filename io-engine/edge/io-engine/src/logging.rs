//! Logs: to standard error, for people or as JSON.

use std::fmt;
use std::io::IsTerminal;

use engine_config::{Config, ConfigError, LogStyle};
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Date and node name, each if wanted, in front of a line.
struct Prefix {
    date: bool,
    host: Option<String>,
}

impl FormatTime for Prefix {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        if self.date {
            SystemTime.format_time(writer)?;
        }
        match &self.host {
            Some(host) if self.date => write!(writer, " {host}"),
            Some(host) => writer.write_str(host),
            None => Ok(()),
        }
    }
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;
type Plain<T> = tracing_subscriber::fmt::Layer<
    Registry,
    DefaultFields,
    Format<Full, T>,
    fn() -> std::io::Stderr,
>;

/// Starts logging as `config` says.
///
/// # Errors
/// The filter does not parse.
pub(crate) fn init(config: &Config) -> Result<(), ConfigError> {
    let log = &config.log;
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| {
        let problem = format!(
            "'{}' is not a log filter ({error}); write e.g. info or warn,engine=debug",
            log.level
        );
        config.bad_value(&log.level_origin, problem)
    })?;
    let format = log.format;
    let color = format
        .color
        .unwrap_or_else(|| std::io::stderr().is_terminal());
    let host = format.host.then(|| config.node_name.as_str().to_owned());
    let stderr: fn() -> std::io::Stderr = std::io::stderr;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(color);
    let layer = if format.date || host.is_some() {
        styled(
            layer.with_timer(Prefix {
                date: format.date,
                host,
            }),
            format.style,
        )
    } else {
        styled(layer.without_time(), format.style)
    };
    // Fails only if logging was started before, which nothing in this program does.
    let _ = Registry::default()
        .with(layer.with_filter(filter))
        .try_init();
    Ok(())
}

fn styled<T: FormatTime + Send + Sync + 'static>(layer: Plain<T>, style: LogStyle) -> Boxed {
    match style {
        LogStyle::Human => layer.boxed(),
        LogStyle::Compact => layer.compact().boxed(),
        LogStyle::Json => layer.json().flatten_event(true).boxed(),
    }
}
