//! Whether the driver that is asked for works here; found out by trying it before anything is started.

use engine_config::{Config, ConfigError, Driver};
use reactor::{DriverReport, RingState};

/// Checks `reactors.driver`.
///
/// # Errors
/// io_uring is demanded and cannot be used; the line says why not and what to change.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    match config.reactors.driver {
        Driver::Uring => usable(config, &reactor::probe()),
        Driver::Auto | Driver::Epoll => Ok(()),
    }
}

fn usable(config: &Config, report: &DriverReport) -> Result<(), ConfigError> {
    let Some(fix) = fix(&report.ring) else {
        return Ok(());
    };
    let problem = format!(
        "{} (Linux {}); {fix}, or use the driver epoll or auto",
        report.ring, report.kernel
    );
    Err(config.bad_value(&config.reactors.driver_origin, problem))
}

/// What makes io_uring usable; `None` if it is.
pub(crate) fn fix(ring: &RingState) -> Option<&'static str> {
    match ring {
        RingState::Available(_) => None,
        RingState::Missing | RingState::TooOld => {
            Some("run a kernel of version 6.1 or later for the faster driver")
        }
        RingState::Disabled(_) => {
            Some("set sysctl kernel.io_uring_disabled=0 for the faster driver")
        }
        RingState::Forbidden => Some(
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile for the faster driver",
        ),
        RingState::Failed(_) => Some("see the kernel's log for the reason"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine_config::{Environment, Overrides};

    use super::*;

    #[test]
    fn a_demanded_ring_that_does_not_work_names_place_key_and_fix() {
        let environment = Environment {
            home: Some("/home/u".into()),
            cpus: vec![0],
            ..Environment::default()
        };
        let text = "[reactors]\ndriver = \"uring\"\n";
        let overrides = Overrides::default();
        let config =
            Config::parse(Path::new("/etc/e.toml"), text, &overrides, &environment).unwrap();
        let report = |ring| DriverReport {
            kernel: "6.1".into(),
            ring,
            chosen: reactor::DriverKind::Epoll,
        };
        let error = usable(&config, &report(RingState::Disabled(2))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/etc/e.toml:2: reactors.driver: io_uring is switched off (kernel.io_uring_disabled=2) (Linux 6.1); set \
             sysctl kernel.io_uring_disabled=0 for the faster driver, or use the driver epoll or auto"
        );
        assert!(usable(&config, &report(RingState::Available("somehow"))).is_ok());
    }
}
