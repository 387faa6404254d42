//! The order of precedence, and error lines that depend on more than a value.

mod refused;

use std::io::Write;
use std::path::Path;

use crate::limits;
use crate::{Config, ConfigErrorKind, Driver, Environment, LogStyle, Origin, Overrides};

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("").unwrap();
    assert_eq!(config.grpc.address.to_string(), "[::]:10124");
    assert_eq!(config.state_dir_origin, Origin::Default("state_dir"));
    assert_eq!(
        config.reactors.driver_origin,
        Origin::Default("reactors.driver")
    );
    assert_eq!(config.nvmf.listen[0].address.to_string(), "[::]:8420");
    assert_eq!(config.reactors.cpus.as_slice(), [0]);
    assert_eq!(config.reactors.driver, Driver::Auto);
    assert_eq!(
        config.state_dir,
        Path::new("/home/u/.local/state/io-engine")
    );
    assert_eq!(config.node_name.as_str(), "node-1");
    assert!(config.metrics.is_none() && config.devices.is_empty());
    assert!(config.nvmf.header_digest && config.nvmf.data_digest);
    let socket = "unix:///home/u/.local/state/io-engine/nbd.sock";
    assert_eq!(config.nbd.listen[0].as_str(), socket);
}

#[test]
fn every_key_arrives() {
    let config = load(
        r#"
        node_name = "n7"
        state_dir = "/srv/state"
        [reactors]
        cpus = "1-2"
        driver = "epoll"
        spin_us_max = 0
        [memory]
        arena_mib = 32
        ram_disks_mib_max = 512
        [nvmf]
        listen = ["127.0.0.1:4420", "[::1]"]
        advertise = "10.0.0.7"
        connections_max = 10
        host_connections_max = 7
        address_connections_max = 9
        host_controllers_max = 3
        queues_max = 4
        queue_depth_max = 64
        in_capsule_bytes = 8192
        transfer_kib_max = 128
        keep_alive_s_min = 2
        keep_alive_s_max = 60
        progress_timeout_s = 12
        tcp_congestion = "reno"
        header_digest = false
        data_digest = false
        [grpc]
        listen = "127.0.0.1:0"
        [metrics]
        listen = "127.0.0.1"
        [log]
        format = "json,nodate"
        level = "debug"
        [io]
        slow_io_ms = 5
        device_deadline_s = 3
        [nbd]
        listen = ["tcp://127.0.0.1:10809", "unix:///run/nbd.sock"]
        [plugins]
        built_in = false
        files = ["/srv/one.so"]
        directories = ["/srv/plugins"]
        isolate = ["acme-device", "acme-device"]
        load_timeout_s = 4
        [[device]]
        uri = "malloc:///m?size_mb=64"
        share = true
        read_only = true
        allowed_hosts = ["nqn.2014-08.org.example:h"]
        "#,
    )
    .unwrap();
    assert_eq!(config.reactors.cpus.as_slice(), [1, 2]);
    assert_eq!(
        config.reactors.driver_origin,
        Origin::File("reactors.driver")
    );
    assert_eq!(config.state_dir_origin, Origin::File("state_dir"));
    assert_eq!(config.reactors.spin_us_max.get(), 0);
    let listen: Vec<String> = config
        .nvmf
        .listen
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(listen, ["127.0.0.1:4420", "[::1]:8420"]);
    assert_eq!(config.nvmf.transfer_kib_max.bytes(), 131_072);
    assert_eq!(config.nvmf.in_capsule_bytes.get(), 8_192);
    assert_eq!(config.nvmf.host_connections_max.get(), 7);
    assert_eq!(config.nvmf.address_connections_max.get(), 9);
    assert_eq!(config.nvmf.host_controllers_max.get(), 3);
    assert_eq!(config.nvmf.progress_timeout_s.get(), 12);
    assert_eq!(
        config.nvmf.tcp_congestion.as_ref().unwrap().as_str(),
        "reno"
    );
    assert_eq!(
        config.metrics.as_ref().unwrap().address.to_string(),
        "127.0.0.1:9502"
    );
    assert_eq!(config.log.format.style, LogStyle::Json);
    assert!(!config.log.format.date);
    assert_eq!(config.io.slow_io().unwrap().as_millis(), 5);
    assert_eq!(config.nbd.listen[1].as_str(), "unix:///run/nbd.sock");
    assert!(!config.plugins.built_in);
    assert_eq!(config.plugins.files, [Path::new("/srv/one.so")]);
    assert_eq!(config.plugins.directories, [Path::new("/srv/plugins")]);
    assert!(config.plugins.isolate.iter().eq(["acme-device"]));
    assert_eq!(config.plugins.load_timeout_s.get(), 4);
    assert!(config.devices[0].share && config.devices[0].read_only);
    assert_eq!(config.memory.ram_disks_bytes_max, Some(512 << 20));
}

#[test]
fn ram_disks_get_what_the_arenas_leave_of_three_quarters_of_the_memory() {
    // 2048 MiB.
    let config = load("").unwrap();
    assert_eq!(config.memory.ram_disks_bytes_max, Some((1536 - 64) << 20));
    let config = load("[memory]\nram_disks_mib_max = 0\n").unwrap();
    assert_eq!(config.memory.ram_disks_bytes_max, Some(0));
    let unknown = Environment {
        memory_bytes: None,
        ..environment()
    };
    let config = Config::load(&Overrides::default(), &unknown).unwrap();
    assert_eq!(config.memory.ram_disks_bytes_max, None);
}

#[test]
fn the_documented_example_is_accepted_and_holds_every_key() {
    let document = include_str!("../../../../docs/configuration.md");
    let (_, rest) = document.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let config = load(example).unwrap();
    assert_eq!(config.devices.len(), 2);
    for table in [
        "", "reactors", "memory", "nvmf", "nbd", "grpc", "metrics", "log", "io", "plugins",
        "device",
    ] {
        for key in keys_of(table) {
            let in_example = example
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")));
            assert!(in_example, "{table}.{key} is not in the example");
            let name = format!("{table}.{key}");
            let row = format!("| `{}` |", name.trim_start_matches('.'));
            assert!(document.contains(&row), "no row {row}");
        }
    }
}

/// The keys of a table, as the refusal of an unknown one lists them; without those that are tables.
fn keys_of(table: &str) -> Vec<String> {
    let text = match table {
        "" => "unknown = 1\n".to_owned(),
        "device" => "[[device]]\nunknown = 1\n".to_owned(),
        _ => format!("[{table}]\nunknown = 1\n"),
    };
    let line = refusal(&text);
    let (_, keys) = line
        .split_once("the keys here are ")
        .expect("a list of keys");
    let tables = [
        "reactors", "memory", "nvmf", "nbd", "grpc", "metrics", "log", "io", "plugins", "device",
    ];
    // Two keys are listed with "or" between them.
    keys.replace(" or ", ",")
        .split(',')
        .map(|key| key.trim().to_owned())
        .filter(|key| !tables.contains(&key.as_str()))
        .collect()
}

#[test]
fn text_that_is_not_toml_names_file_and_line() {
    let line = refusal("[grpc]\nlisten = \n");
    assert!(line.starts_with("FILE:2: grpc.listen: "), "{line}");
    assert!(
        line.ends_with("; see https://toml.io for the syntax"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_key_that_is_there_twice_is_named() {
    let cases = [
        ("node_name = \"a\"\nnode_name = \"b\"\n", 2, "node_name"),
        ("[nvmf]\nlisten = []\n\"listen\" = []\n", 3, "nvmf.listen"),
        ("[log]\nlevel = \"info\"\n[grpc]\n[log]\n", 4, "log"),
        (
            "[io]\n[grpc]\n[log]\nlevel = \"\"\nlevel = \"\"\n",
            5,
            "log.level",
        ),
        (
            "[[device]]\nuri = \"a\"\n[[device]]\nuri = \"b\"\nshare = true\nuri = \"c\"\n",
            6,
            "device[1].uri",
        ),
        (
            "io = { slow_io_ms = 1, slow_io_ms = 2 }\n",
            1,
            "io.slow_io_ms",
        ),
        ("io.slow_io_ms = 1\n[io]\n", 2, "io"),
    ];
    for (text, number, key) in cases {
        let line = format!("FILE:{number}: {key}: is there twice; remove one");
        assert_eq!(refusal(text), line, "{text}");
    }
}

#[test]
fn the_environment_is_named_when_it_is_at_fault() {
    let refused = |environment: Environment| {
        let loaded = Config::load(&Overrides::default(), &environment);
        loaded.unwrap_err().to_string()
    };
    let interface = refused(Environment {
        target_interface: Some("name:eth9".into()),
        ..environment()
    });
    let start = "environment: NVMF_TGT_IFACE: no interface matches 'name:eth9'; there are: lo";
    assert!(interface.starts_with(start), "{interface}");
    let pod_ip = refused(Environment {
        pod_ip: Some("here".into()),
        ..environment()
    });
    assert_eq!(
        pod_ip,
        "environment: MY_POD_IP: 'here' is not an IP address; give one of this machine, e.g. 10.0.0.7, or leave it out"
    );
    let level = refused(Environment {
        rust_log: Some("inf".into()),
        ..environment()
    });
    assert!(
        level.starts_with("environment: RUST_LOG: 'inf' is not a log filter ("),
        "{level}"
    );
}

#[test]
fn a_missing_file_is_refused_by_name() {
    let flags = Overrides {
        config: Some("/nonexistent/x.toml".into()),
        ..Overrides::default()
    };
    let error = Config::load(&flags, &environment()).unwrap_err();
    assert_eq!(error.kind(), ConfigErrorKind::Unreadable);
    assert_eq!(
        error.to_string(),
        "/nonexistent/x.toml: cannot be read (No such file or directory); give a readable file with --config FILE, \
         or leave the flag out"
    );
}

#[test]
fn what_is_no_file_of_text_is_refused_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("odd");
    std::fs::write(&odd, b"node_name = \"n1\"\nstate_dir = \"\xff\"\n").unwrap();
    let large = dir.path().join("large");
    let file = std::fs::File::create(&large).unwrap();
    file.set_len(limits::FILE_BYTES_MAX + 1).unwrap();
    let looped = dir.path().join("loop");
    std::os::unix::fs::symlink(&looped, &looped).unwrap();
    let place = |path: &Path| path.display().to_string();
    for (path, start) in [
        (
            Path::new("/dev/zero"),
            "/dev/zero: is not a regular file; ".to_owned(),
        ),
        (
            dir.path(),
            format!("{}: is a directory; ", place(dir.path())),
        ),
        (
            &large,
            format!("{}: has 4194305 bytes, more than the 4 MiB ", place(&large)),
        ),
        (&looped, format!("{}: cannot be read (", place(&looped))),
        (&odd, format!("{}:2: is not UTF-8 text; ", place(&odd))),
        (
            Path::new(""),
            "command line: --config: cannot be read (".to_owned(),
        ),
    ] {
        let flags = Overrides {
            config: Some(path.to_owned()),
            ..Overrides::default()
        };
        let line = Config::load(&flags, &environment())
            .unwrap_err()
            .to_string();
        assert!(line.starts_with(&start), "{line}");
    }
}

#[test]
fn a_congestion_control_or_a_device_found_wrong_later_names_file_and_key() {
    let text = "[nvmf]\ntcp_congestion = \"fast\"\n[[device]]\nuri = \"a\"\nallowed_hosts = []\n[[device]]\nuri = \"b\"\n";
    let config = load(text).unwrap();
    let file = config.source.at("");
    assert_eq!(
        config
            .bad_value(&config.nvmf.tcp_congestion_origin, "not there; use reno")
            .to_string(),
        format!("{file}:2: nvmf.tcp_congestion: not there; use reno")
    );
    for (key, line) in [
        ("device[1].uri", 7),
        // Not in the file: where the section starts.
        ("device[1].share", 6),
        ("device[0].allowed_hosts[7]", 5),
    ] {
        let error = config.bad_device(key, "is wrong;\nmend it\u{1b}");
        assert_eq!(error.kind(), ConfigErrorKind::BadValue);
        assert_eq!(
            error.to_string(),
            format!("{file}:{line}: {key}: is wrong; mend it\\u{{1b}}")
        );
    }
    let flags = Overrides {
        tcp_congestion: Some("fast".into()),
        ..Overrides::default()
    };
    let config = Config::load(&flags, &environment()).unwrap();
    let line = config.bad_value(&config.nvmf.tcp_congestion_origin, "not there");
    let line = line.to_string();
    assert_eq!(line, "command line: --tcp-congestion: not there");
}

#[test]
fn a_flag_beats_the_file() {
    let file = file(
        "state_dir = \"/srv/a\"\n[grpc]\nlisten = \"127.0.0.1:1\"\n[reactors]\ncpus = \"1\"\n",
    );
    let flags = Overrides {
        config: Some(file.path().to_owned()),
        state_dir: Some("/srv/b".into()),
        grpc: Some("127.0.0.1:2".into()),
        cpus: Some("3".into()),
        mask: Some("0x1".into()),
        ..Overrides::default()
    };
    let config = Config::load(&flags, &environment()).unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/b"));
    assert_eq!(config.state_dir_origin, Origin::Flag("--state-dir"));
    assert_eq!(config.grpc.address.port(), 2);
    assert_eq!(config.grpc.origin, Origin::Flag("--grpc"));
    assert_eq!(config.reactors.cpus.as_slice(), [3], "-l overrides -m");
}

#[test]
fn upstreams_ways_to_name_the_grpc_address_agree() {
    for flags in [
        Overrides {
            grpc_endpoint: Some("10.0.0.1:99".into()),
            ..Overrides::default()
        },
        Overrides {
            grpc_ip: Some("10.0.0.1".into()),
            grpc_port: Some("99".into()),
            ..Overrides::default()
        },
    ] {
        let config = Config::load(&flags, &environment()).unwrap();
        assert_eq!(config.grpc.address.to_string(), "10.0.0.1:99");
    }
    let flags = Overrides {
        grpc_endpoint: Some("10.0.0.1".into()),
        ..Overrides::default()
    };
    let config = Config::load(&flags, &environment()).unwrap();
    assert_eq!(config.grpc.address.to_string(), "10.0.0.1:10124");
}

#[test]
fn an_interface_is_found_by_name_address_mac_and_subnet() {
    for selector in [
        "eth0",
        "name:eth0",
        "ip:10.1.2.3",
        "subnet:10.1.0.0/16",
        "mac:02:00:00:00:00:01",
    ] {
        let flags = Overrides {
            interface: Some(selector.into()),
            ..Overrides::default()
        };
        let config = Config::load(&flags, &environment()).unwrap();
        assert_eq!(
            config.nvmf.listen[0].address.to_string(),
            "10.1.2.3:8420",
            "{selector}"
        );
        assert_eq!(config.nvmf.advertise.unwrap().to_string(), "10.1.2.3");
    }
}

#[test]
fn the_default_state_directory_follows_the_user() {
    let root = Environment {
        is_root: true,
        ..environment()
    };
    let config = Config::load(&Overrides::default(), &root).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/io-engine"));
    let xdg = Environment {
        xdg_state_home: Some("/x".into()),
        ..environment()
    };
    let config = Config::load(&Overrides::default(), &xdg).unwrap();
    assert_eq!(config.state_dir, Path::new("/x/io-engine"));
    let nowhere = Environment {
        home: None,
        ..environment()
    };
    let error = Config::load(&Overrides::default(), &nowhere).unwrap_err();
    assert!(error.to_string().ends_with("give one with --state-dir DIR"));
}

#[test]
fn a_relative_state_directory_begins_where_the_engine_was_started() {
    let environment = Environment {
        working_dir: Some("/srv/here".into()),
        ..environment()
    };
    for (given, absolute) in [
        ("st", "/srv/here/st"),
        ("./a/./st", "/srv/here/a/st"),
        ("/var/st", "/var/st"),
    ] {
        let flags = Overrides {
            state_dir: Some(given.into()),
            ..Overrides::default()
        };
        let config = Config::load(&flags, &environment).unwrap();
        assert_eq!(config.state_dir.to_str().unwrap(), absolute);
        let socket = format!("unix://{absolute}/nbd.sock");
        assert_eq!(config.nbd.listen[0].as_str(), socket);
    }
}

#[test]
fn a_host_name_that_is_no_node_name_is_remembered_to_be_told() {
    let named = |hostname: Option<&str>, flag: Option<&str>| {
        let environment = Environment {
            hostname: hostname.map(str::to_owned),
            ..environment()
        };
        let flags = Overrides {
            node_name: flag.map(str::to_owned),
            ..Overrides::default()
        };
        let config = Config::load(&flags, &environment).unwrap();
        (config.node_name.as_str().to_owned(), config.unfit_hostname)
    };
    let fallback = "mayastor-node".to_owned();
    let bad = Some("bad host".to_owned());
    assert_eq!(named(Some("bad host"), None), (fallback.clone(), bad));
    assert_eq!(named(None, None), (fallback, None));
    assert_eq!(named(Some("bad host"), Some("n")), ("n".to_owned(), None));
    assert_eq!(named(Some("good"), None), ("good".to_owned(), None));
}

#[test]
fn addresses_of_the_target_that_overlap_are_told_so() {
    let load = |addresses: &[&str]| {
        let flags = Overrides {
            nvmf: addresses.iter().map(|text| (*text).to_owned()).collect(),
            ..Overrides::default()
        };
        Config::load(&flags, &environment())
    };
    for addresses in [["0.0.0.0:7", "127.0.0.1:7"], ["127.0.0.1:7", "[::]:7"]] {
        assert_eq!(
            load(&addresses).unwrap_err().to_string(),
            format!(
                "command line: --nvmf: {} and {} overlap: one takes the port of the other; remove one, or give it \
                 another port",
                addresses[0], addresses[1]
            )
        );
    }
    load(&["127.0.0.1:7", "127.0.0.2:7", "0.0.0.0:8"]).unwrap();
}

#[test]
fn an_address_that_lacks_a_descriptor_is_not_called_in_use() {
    let config = load("").unwrap();
    let error = std::io::Error::from(rustix::io::Errno::MFILE);
    let line = config.address_error(&config.grpc, "--grpc", &error, None);
    let line = line.to_string();
    assert!(
        line.contains("LimitNOFILE=") && !line.contains("in use"),
        "{line}"
    );
}

#[test]
fn a_port_in_use_names_place_key_holder_and_fix() {
    let config = load("[grpc]\nlisten = \"127.0.0.1:7\"\n").unwrap();
    let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    let error = config.address_error(&config.grpc, "--grpc", &in_use, Some("pid 12 (io-engine)"));
    let file = config.source.at("");
    assert_eq!(
        error.to_string(),
        format!(
            "{file}:2: grpc.listen: 127.0.0.1:7 is in use by pid 12 (io-engine); stop it, or choose another port with \
             --grpc ADDR:PORT"
        )
    );
}

fn environment() -> Environment {
    let interface = |name: &str, mac: &str, ip: &str| crate::InterfaceAddress {
        name: name.into(),
        mac: mac.into(),
        ip: ip.parse().unwrap(),
    };
    Environment {
        home: Some("/home/u".into()),
        hostname: Some("node-1".into()),
        cpus: vec![0, 1, 2, 3],
        memory_bytes: Some(2 << 30),
        interfaces: vec![
            interface("lo", "00:00:00:00:00:00", "127.0.0.1"),
            interface("eth0", "02:00:00:00:00:01", "fe80::1"),
            interface("eth0", "02:00:00:00:00:01", "10.1.2.3"),
        ],
        ..Environment::default()
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str) -> Result<Config, crate::ConfigError> {
    let file = file(text);
    let flags = Overrides {
        config: Some(file.path().to_owned()),
        ..Overrides::default()
    };
    Config::load(&flags, &environment())
}

fn refusal(text: &str) -> String {
    let file = file(text);
    let flags = Overrides {
        config: Some(file.path().to_owned()),
        ..Overrides::default()
    };
    let error = Config::load(&flags, &environment()).expect_err(text);
    error
        .to_string()
        .replace(&file.path().display().to_string(), "FILE")
}

#[test]
fn a_host_may_have_half_of_the_connections_unless_told_otherwise() {
    let host = |text: &str| load(text).unwrap().nvmf.host_connections_max.get();
    assert_eq!(host(""), 2048);
    assert_eq!(host("[nvmf]\nconnections_max = 7\n"), 4);
    assert_eq!(host("[nvmf]\nconnections_max = 1\n"), 1);
    assert_eq!(host("[nvmf]\nhost_connections_max = 4096\n"), 4096);
}

#[test]
fn an_address_leaves_a_quarter_of_the_connections_unless_told_otherwise() {
    let address = |text: &str| load(text).unwrap().nvmf.address_connections_max.get();
    assert_eq!(address(""), 3072);
    assert_eq!(address("[nvmf]\nconnections_max = 7\n"), 6);
    assert_eq!(address("[nvmf]\nconnections_max = 1\n"), 1);
    assert_eq!(address("[nvmf]\naddress_connections_max = 4096\n"), 4096);
    // A host allowed more may have it from one address.
    assert_eq!(address("[nvmf]\nhost_connections_max = 4000\n"), 4000);
}
