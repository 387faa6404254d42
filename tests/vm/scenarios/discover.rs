//! A host that knows only an address finds what it may connect to.

use serde_json::Value;
use vm_tests::{HOST_NQN, HOST_V4, HOST_V6, Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "discover",
    about: "discovery lists the subsystems this host may use, over IPv4 and IPv6",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let open = engine.share("malloc:///open?size_mb=16", &[]);
    let mine = engine.share("malloc:///mine?size_mb=16", &[HOST_NQN]);
    let other = engine.share(
        "malloc:///other?size_mb=16",
        &["nqn.2024-01.example:other-host"],
    );

    for (address, port, family) in [
        (HOST_V4, engine.port(), "ipv4"),
        (HOST_V6, engine.port_v6(), "ipv6"),
    ] {
        let log = vm.json(&format!(
            "nvme discover -t tcp -a {address} -s {port} -o json"
        ));
        let records = log["records"].as_array().expect("discovery log records");
        let find = |nqn: &str| {
            records
                .iter()
                .find(|record| record["subnqn"] == nqn && record["adrfam"] == family)
        };

        let record = find(&open.nqn).expect("the open subsystem is listed");
        assert_eq!(record["trtype"], "tcp");
        assert_eq!(
            record["trsvcid"].as_str().map(str::trim),
            Some(port.to_string().as_str())
        );
        assert_eq!(record["subtype"], "nvme subsystem");
        assert!(
            find(&mine.nqn).is_some(),
            "a subsystem that allows this host is listed"
        );
        assert!(
            find(&other.nqn).is_none(),
            "a subsystem that does not allow it is not"
        );
    }

    engine.client(&["bdev", "unshare", &open.device]);
    let log = vm.json(&format!(
        "nvme discover -t tcp -a {HOST_V4} -s {} -o json",
        engine.port()
    ));
    assert!(
        !names(&log).contains(&open.nqn),
        "an unshared subsystem is gone"
    );
}

fn names(log: &Value) -> Vec<String> {
    log["records"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|record| record["subnqn"].as_str().map(str::to_owned))
        .collect()
}
