//! What stops a start, and the one line it prints.

use std::net::TcpListener;
use std::path::Path;

use crate::support::{HOST_A, Setup, directory};

#[test]
fn configuration_mistakes_are_one_line_with_place_key_and_fix_and_exit_code_2() {
    let dir = directory();
    let config = dir.path().join("io-engine.toml");
    let config = config.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let taken = taken.as_str();
    let me = format!("pid {}", std::process::id());
    // Where the file is at fault, its line is named too.
    let unknown = format!("{config}:2: nvmf.port: unknown key; the keys here are");
    let range =
        format!("{config}:2: memory.arena_mib: 1 is out of range; give a number from 8 to 65536");
    let in_file = format!("[nvmf]\nlisten = [\"{taken}\"]\n");
    let here = format!("{config}:2: nvmf.listen: {taken} is in use by {me}");
    let driver = "command line: --driver: 'spdk' is not a driver; use auto, uring or epoll";
    let congestion =
        format!("{config}:2: nvmf.tcp_congestion: 'nosuch' is not available; use one of ");
    let level = format!("{config}:2: log.level: 'engine=loud' is not a log filter");
    let twice = format!("{config}:3: nvmf.queues_max: is there twice; remove one");
    let huge = format!("{config}:2: io.slow_io_ms: 99999999999999999999 is out of range; give ");
    let cases: [(&str, &[&str], &[&str]); 13] = [
        (
            "[nvmf]\ntcp_congestion = \"nosuch\"\n",
            &[],
            &[&congestion, "reno"],
        ),
        (
            "",
            &["--tcp-congestion", "nosuch"],
            &[
                "command line: --tcp-congestion: 'nosuch' is not available; use one of ",
                "reno",
            ],
        ),
        ("[nvmf]\nport = 1\n", &[], &[&unknown, "listen"]),
        ("[memory]\narena_mib = 1\n", &[], &[&range]),
        ("[nvmf]\nqueues_max = 1\nqueues_max = 1\n", &[], &[&twice]),
        ("[io]\nslow_io_ms = 99999999999999999999\n", &[], &[&huge]),
        (
            "[log]\nlevel = \"engine=loud\"\n",
            &[],
            &[&level, "write e.g. info"],
        ),
        (&in_file, &[], &[&here, "choose another port with --nvmf"]),
        ("", &["--driver", "spdk"], &[driver]),
        ("", &["--grpc", taken], &["--grpc: ", taken, &me, "--grpc"]),
        ("", &["--nvmf", taken], &["--nvmf: ", taken, &me, "--nvmf"]),
        ("", &["--metrics", taken], &["--metrics: ", taken, &me]),
        (
            "[nvmf]\nlisten = [\"127.0.0.1:1\",\n",
            &[],
            &[config, "see https://toml.io for the syntax"],
        ),
    ];
    for (text, flags, parts) in cases {
        std::fs::write(config, text).unwrap();
        let mut setup = Setup::new(&dir.path().join("state")).with(&["--config", config]);
        if flags.first() == Some(&"--driver") {
            setup = setup.driver("spdk");
        } else {
            setup = setup.with(flags);
        }
        if flags.first() != Some(&"--grpc") {
            setup = setup.with(&["--grpc", "127.0.0.1:0"]);
        }
        if flags.first() != Some(&"--nvmf") && !text.contains("listen") {
            setup = setup.with(&["--nvmf", "127.0.0.1:0"]);
        }
        let (code, stderr) = setup.refused();
        assert_eq!(code, Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "no '{part}' in {stderr}");
        }
    }
}

#[test]
fn a_device_that_cannot_be_meant_stops_the_start() {
    let dir = directory();
    let config = dir.path().join("io-engine.toml");
    let config = config.to_str().unwrap();
    let state = dir.path().join("state");
    let good = "[[device]]\nuri = \"malloc:///m?size_mb=8\"\n[[device]]\n";
    let uuid = "uuid=3fa85f64-5717-4562-b3fc-2c963f66afa6";
    let cases = [
        (
            "uri = \"spdk:///m\"",
            "4: device[1].uri: device URI scheme 'spdk' is unknown; use one of: aio, ",
        ),
        (
            "share = true\nuri = \"aio:///x?bogus=1\"",
            "5: device[1].uri: device URI 'aio:///x': parameter 'bogus' is unknown; remove it",
        ),
        (
            "uri = \"null:///n?size_mb=lots\"",
            "4: device[1].uri: device URI 'null:///n': parameter 'size_mb' is 'lots', must be a plain decimal number",
        ),
        (
            "uri = \"null:///m?size_mb=8\"",
            "4: device[1].uri: device[0] is called 'm' already; remove one",
        ),
        (
            "uri = \"malloc:///m?size_mb=8\"",
            "4: device[1].uri: device[0] is called 'm' already; remove one",
        ),
        (
            &format!("uri = \"aio:///x?{uuid}\"\n[[device]]\nuri = \"aio:///y?{uuid}\""),
            "6: device[2].uri: device[1] has this uuid already; give one of them another",
        ),
        (
            "uri = \"aio:///x\"\nshare = true\nallowed_hosts = [\n\"nqn.2014-08.org.example:h\",\n\"me\"]",
            "8: device[1].allowed_hosts[1]: allowed host 'me' is not an NQN; write e.g. nqn.",
        ),
    ];
    for (text, expected) in cases {
        std::fs::write(config, format!("{good}{text}\n")).unwrap();
        let (code, stderr) = Setup::new(&state)
            .with(&["--config", config])
            .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
            .refused();
        assert_eq!(code, Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let expected = format!("io-engine: {config}:{expected}");
        assert!(stderr.starts_with(&expected), "no '{expected}' in {stderr}");
    }
    assert!(!state.exists(), "nothing was started");
}

#[test]
fn a_declared_device_that_is_not_there_is_told_and_holds_up_nothing() {
    let dir = directory();
    let config = dir.path().join("io-engine.toml");
    let text =
        "[[device]]\nuri = \"aio:///no/such/file\"\n[[device]]\nuri = \"malloc:///m?size_mb=8\"\n";
    std::fs::write(&config, text).unwrap();
    let daemon = Setup::new(&dir.path().join("state"))
        .with(&["--config", config.to_str().unwrap()])
        .start();
    assert_eq!(daemon.bdevs().len(), 1);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_emptied_state_store_stops_the_start_and_is_left_alone() {
    let dir = directory();
    let state = dir.path().join("state");
    let setup = Setup::new(&state);
    let daemon = setup.start();
    daemon.create("malloc:///ram?size_mb=8").unwrap();
    assert_eq!(daemon.stop(), Some(0));
    let store = state.join("state.redb");
    std::fs::write(&store, b"").unwrap();
    for _ in 0..2 {
        let (code, stderr) = Setup::new(&state)
            .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
            .refused();
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in [store.to_str().unwrap(), "is empty", "backup", "or remove"] {
            assert!(stderr.contains(part), "no '{part}' in {stderr}");
        }
    }
    assert_eq!(std::fs::metadata(&store).unwrap().len(), 0);
}

#[test]
fn a_damaged_state_store_stops_the_start_in_one_line_and_is_left_alone() {
    let dir = directory();
    let state = dir.path().join("state");
    let daemon = Setup::new(&state).start();
    for number in 0..8 {
        daemon.serve(&format!("malloc:///m{number}?size_mb=1"), &[]);
    }
    assert_eq!(daemon.stop(), Some(0));
    let store = state.join("state.redb");
    let good = std::fs::read(&store).unwrap();
    // The pages that hold, or held, a record: their first sectors, where the database looks for the kind of page.
    let mut bad = good.clone();
    for page in (0..good.len()).step_by(4096) {
        if good[page..page + 4096]
            .windows(5)
            .any(|part| part == b"m7?si")
        {
            bad[page..page + 512].fill(0);
        }
    }
    std::fs::write(&store, &bad).unwrap();
    for _ in 0..2 {
        let (code, stderr) = Setup::new(&state)
            .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
            .refused();
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let start = format!("io-engine: state store {}: ", store.display());
        assert!(stderr.starts_with(&start), "{stderr}");
        assert!(stderr.contains("restore it from a backup"), "{stderr}");
    }
    assert!(std::fs::read(&store).unwrap() == bad, "it was written to");
    std::fs::write(&store, &good).unwrap();
    let daemon = Setup::new(&state).start();
    assert_eq!(daemon.bdevs().len(), 8);
}

#[test]
fn too_few_descriptors_stop_the_start_with_the_limit_and_the_fix_and_enough_serve_a_host() {
    let dir = directory();
    for most in [16, 64, 167] {
        let (code, stderr) = Setup::new(&dir.path().join("state"))
            .descriptors(most)
            .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
            .refused();
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let limit = format!("the limit of open files (RLIMIT_NOFILE) is {most}");
        for part in [&*limit, "need 168", "LimitNOFILE="] {
            assert!(stderr.contains(part), "no '{part}' in {stderr}");
        }
    }
    let daemon = Setup::new(&dir.path().join("state"))
        .descriptors(168)
        .start();
    let nqn = daemon.serve("malloc:///m?size_mb=8", &[]);
    daemon
        .connect(&nqn, HOST_A)
        .write(1, 0, &[1; 4096])
        .unwrap();
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_engine_without_the_transport_names_the_key_that_leaves_it_out() {
    let dir = directory();
    let config = dir.path().join("io-engine.toml");
    std::fs::write(&config, "[plugins]\nbuilt_in = false\n").unwrap();
    let config = config.to_str().unwrap();
    let (code, stderr) = Setup::new(&dir.path().join("state"))
        .with(&["--config", config])
        .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
        .refused();
    assert_eq!(code, Some(2), "{stderr}");
    // What the start logged before comes first.
    let line = stderr.lines().last().unwrap_or_default();
    let start = format!("io-engine: {config}:2: plugins.built_in: is false, and no plugin");
    assert!(line.starts_with(&start), "{stderr}");
    assert!(line.contains("plugins.files"), "{stderr}");
}

#[test]
fn a_relative_state_directory_and_an_unfit_host_name_are_taken_with_a_word() {
    let dir = directory();
    let daemon = Setup::new(Path::new("st"))
        .working_in(dir.path())
        .variable("HOSTNAME", "bad host")
        .start();
    daemon.until_logged("the host name is no node name");
    let absolute = dir.path().canonicalize().unwrap().join("st");
    assert!(absolute.join("state.redb").exists());
    daemon.until_logged(&format!("state_dir={}", absolute.display()));
    assert_eq!(daemon.stop(), Some(0));
}
