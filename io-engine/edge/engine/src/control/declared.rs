//! What the configuration declares, checked before anything is started.
//!
//! What it decides: which `[[device]]` sections cannot be meant: a URI no driver takes, two sections about one device, an
//! identity given twice, a host that is no NQN, hosts of a device that is not shared. What it does not: whether a device can be opened. A file that is missing
//! or held by somebody else is a state of the machine, not a mistake of the text: it is logged and the others are served.

use std::collections::BTreeMap;

use engine_config::DeclaredDevice;
use sdk::uri::{DeviceUri, UriError};

use super::device_uri::Wanted;
use super::{identity, shares};

/// What is wrong with a declared device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the key (`device[1].uri`).
    pub key: String,
    /// One sentence that ends with the fix.
    pub problem: String,
}

/// Checks the declared devices, each for itself and against those before it. `check_uri` asks the driver of a URI whether
/// it takes it.
///
/// # Errors
/// The first mistake.
pub fn check(
    devices: &[DeclaredDevice],
    check_uri: impl Fn(&str) -> Result<(), UriError>,
) -> Result<(), Mistake> {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut uuids: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    for (index, device) in devices.iter().enumerate() {
        let mistake = |key: &str, problem: String| Mistake {
            key: format!("device[{index}].{key}"),
            problem,
        };
        let bad_uri = |error: UriError| mistake("uri", error.to_string());
        let wanted = Wanted::parse(&device.uri);
        let wanted = wanted.map_err(|problem| mistake("uri", problem.to_string()))?;
        let uri = wanted.lasting();
        check_uri(&uri).map_err(bad_uri)?;
        let uuid = DeviceUri::parse(&uri).and_then(|mut uri| uri.take_uuid());
        let name = wanted.name;
        let nqn = identity::nqn_of(&name);
        if let Some(first) = names.get(&name) {
            let problem = format!("device[{first}] is called '{name}' already; remove one");
            return Err(mistake("uri", problem));
        }
        names.insert(name, index);
        if let Some(uuid) = uuid.map_err(bad_uri)?
            && let Some(first) = uuids.insert(uuid, index)
        {
            let problem =
                format!("device[{first}] has this uuid already; give one of them another");
            return Err(mistake("uri", problem));
        }
        if device.share {
            identity::validate_nqn("the subsystem of this device would be", &nqn)
                .map_err(|problem| mistake("share", problem.to_string()))?;
        }
        if !device.share && !device.allowed_hosts.is_empty() {
            let problem = "is for devices that are shared; add share = true, or leave it out";
            return Err(mistake("allowed_hosts", problem.to_owned()));
        }
        if device.read_only && !device.share {
            let problem = "says how the device is shared; add share = true, or remove it";
            return Err(mistake("read_only", problem.to_owned()));
        }
        for (at, host) in device.allowed_hosts.iter().enumerate() {
            identity::validate_nqn("allowed host", host)
                .map_err(|problem| mistake(&format!("allowed_hosts[{at}]"), problem.to_string()))?;
        }
        shares::checked_hosts(device.allowed_hosts.clone())
            .map_err(|problem| mistake("allowed_hosts", problem.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "nqn.2014-08.org.example:host";

    fn device(uri: &str) -> DeclaredDevice {
        DeclaredDevice {
            uri: uri.to_owned(),
            share: false,
            read_only: false,
            allowed_hosts: Vec::new(),
        }
    }

    fn shared(uri: &str, hosts: Vec<String>) -> DeclaredDevice {
        DeclaredDevice {
            share: true,
            allowed_hosts: hosts,
            ..device(uri)
        }
    }

    fn line(devices: &[DeclaredDevice]) -> String {
        let Mistake { key, problem } = check(devices, crate::plane::check_uri).unwrap_err();
        format!("{key}: {problem}")
    }

    #[test]
    fn what_can_be_meant_is_accepted() {
        let devices = [
            shared(
                "malloc:///m?size_mb=8&resize",
                vec![HOST.into(), HOST.into()],
            ),
            device("aio:///no/such/file?rescan"),
            device("uring:///m?uuid=3fa85f64-5717-4562-b3fc-2c963f66afa6"),
            device("null:///n?size_mb=8&uuid=3fa85f64-5717-4562-b3fc-2c963f66afa7"),
        ];
        assert_eq!(check(&devices, crate::plane::check_uri), Ok(()));
    }

    #[test]
    fn each_mistake_names_its_key_and_the_fix() {
        let uuid = "uuid=3fa85f64-5717-4562-b3fc-2c963f66afa6";
        let upper = uuid.to_uppercase().replace("UUID", "uuid").replace('-', "");
        let long = format!("aio:///{}", "x".repeat(200));
        let crowd = (0..1025).map(|host| format!("{HOST}{host}")).collect();
        let good = device("malloc:///m?size_mb=8");
        let cases: Vec<(DeclaredDevice, &str)> = vec![
            (
                device("/dev/sdb"),
                "uri: device URI '/dev/sdb': has no scheme; write e.g.",
            ),
            (
                device("malloc:///"),
                "uri: device URI 'malloc:///': names no device; write e.g.",
            ),
            (
                device("spdk:///m"),
                "uri: device URI scheme 'spdk' is unknown; use one of: aio, ",
            ),
            (
                device("malloc:///n"),
                "uri: device URI 'malloc:///n': has no size; add size_mb=64",
            ),
            (
                device("malloc:///n?size_mb=8&blk=512"),
                "uri: device URI 'malloc:///n': parameter 'blk' is unknown; remove it",
            ),
            (
                device("aio:///x?blk_size=1000"),
                "uri: device URI 'aio:///x': parameter 'blk_size' is '1000', must be 512 or 4096",
            ),
            (
                device("null:///m?size_mb=8"),
                "uri: device[0] is called 'm' already; remove one",
            ),
            (
                shared(&long, Vec::new()),
                "share: the subsystem of this device would be 'nqn.",
            ),
            (
                DeclaredDevice {
                    read_only: true,
                    ..device("aio:///x")
                },
                "read_only: says how the device is shared; add share = true, or remove it",
            ),
            (
                shared("aio:///x", vec![HOST.into(), "iqn.2019-05.io:x".into()]),
                "allowed_hosts[1]: allowed host 'iqn.2019-05.io:x' is not an NQN; write e.g. nqn.",
            ),
            (
                DeclaredDevice {
                    share: false,
                    ..shared("aio:///x", vec![HOST.into()])
                },
                "allowed_hosts: is for devices that are shared; add share = true, or leave it out",
            ),
            (
                shared("aio:///x", crowd),
                "allowed_hosts: 1025 allowed hosts; give at most 1024",
            ),
        ];
        for (bad, expected) in cases {
            let line = line(&[good.clone(), bad]);
            let expected = format!("device[1].{expected}");
            assert!(line.starts_with(&expected), "{line}");
        }
        let twins = [
            device(&format!("aio:///a?{uuid}")),
            good,
            device(&format!("aio:///b?{upper}")),
        ];
        assert_eq!(
            line(&twins),
            "device[2].uri: device[0] has this uuid already; give one of them another"
        );
    }
}
