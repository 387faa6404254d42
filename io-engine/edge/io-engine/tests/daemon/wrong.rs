//! What stops a start, and the one line it prints.

use std::net::TcpListener;

use crate::support::{Setup, directory};

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
    let here = format!("{config}: nvmf.listen: {taken} is in use by {me}");
    let driver = "command line: --driver: 'spdk' is not a driver; use auto, uring or epoll";
    let congestion =
        format!("{config}: nvmf.tcp_congestion: 'nosuch' is not available; use one of ");
    let scheme =
        format!("{config}: device[1]: device URI scheme 'spdk' is unknown; use one of: aio, ");
    let cases: [(&str, &[&str], &[&str]); 10] = [
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
        (
            "[[device]]\nuri = \"malloc:///m?size_mb=8\"\n[[device]]\nuri = \"spdk:///m\"\n",
            &[],
            &[&scheme],
        ),
        ("[nvmf]\nport = 1\n", &[], &[&unknown, "listen"]),
        ("[memory]\narena_mib = 1\n", &[], &[&range]),
        (&in_file, &[], &[&here, "choose another port with --nvmf"]),
        ("", &["--driver", "spdk"], &[driver]),
        ("", &["--grpc", taken], &["--grpc: ", taken, &me, "--grpc"]),
        ("", &["--nvmf", taken], &["--nvmf: ", taken, &me, "--nvmf"]),
        ("", &["--metrics", taken], &["--metrics: ", taken, &me]),
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
