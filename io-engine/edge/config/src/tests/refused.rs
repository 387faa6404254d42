//! Golden lines of refused values.

use super::{environment, refusal};
use crate::{Config, Overrides};

#[test]
fn golden_lines_of_refused_files() {
    for (text, line) in [
        (
            "[nvmf]\nlisten = [\"[::]:8420\"]\nport = 1\n",
            "FILE:3: nvmf.port: unknown key; the keys here are listen, advertise, connections_max, host_connections_max, \
             address_connections_max, host_controllers_max, queues_max, \
             queue_depth_max, in_capsule_bytes, transfer_kib_max, keep_alive_s_min, keep_alive_s_max, progress_timeout_s, tcp_congestion, header_digest, data_digest",
        ),
        (
            "nvme = 1\n",
            "FILE:1: nvme: unknown key; the keys here are node_name, state_dir, reactors, memory, nvmf, nbd, grpc, metrics, \
             log, io, plugins, device",
        ),
        (
            "[[device]]\nuri = \"malloc:///a\"\nshared = true\n",
            "FILE:3: device[0].shared: unknown key; the keys here are uri, share, read_only, allowed_hosts",
        ),
        (
            "[reactors]\nspin_us_max = 5000\n",
            "FILE:2: reactors.spin_us_max: 5000 is out of range; give a number from 0 to 1000",
        ),
        (
            "[nvmf]\nprogress_timeout_s = 4\n",
            "FILE:2: nvmf.progress_timeout_s: 4 is out of range; give a number from 5 to 3600",
        ),
        (
            "[memory]\narena_mib = -1\n",
            "FILE:2: memory.arena_mib: -1 is out of range; give a number from 8 to 65536",
        ),
        (
            "[memory]\narena_mib = 99999999999999999999\n",
            "FILE:2: memory.arena_mib: 99999999999999999999 is out of range; give a number from 8 to 65536",
        ),
        (
            "[memory]\narena_mib = -99999999999999999999\n",
            "FILE:2: memory.arena_mib: -99999999999999999999 is out of range; give a number from 8 to 65536",
        ),
        (
            "[memory]\narena_mib = 9999999999999999999999999999999999999999\n",
            "FILE:2: memory.arena_mib: the number is out of range; give a smaller one",
        ),
        (
            "node_name = 99999999999999999999\n",
            "FILE:1: node_name: this is the integer `99999999999999999999`, expected text in quotes",
        ),
        (
            "[nvmf]\nheader_digest = true\nin_capsule_bytes = 99999999999999999999\n",
            "FILE:3: nvmf.in_capsule_bytes: 99999999999999999999 is not acceptable; give a multiple of 16 from 512 to \
             65536",
        ),
        (
            "[nvmf]\ntransfer_kib_max = 64.0\n",
            "FILE:2: nvmf.transfer_kib_max: this is the floating point `64.0`, expected a power of two from 4 to 1024",
        ),
        (
            "[memory]\narena_mib = \"64\"\n",
            "FILE:2: memory.arena_mib: this is the string \"64\", expected a number from 8 to 65536",
        ),
        (
            "[nbd]\nlisten = [\"127.0.0.1:10809\"]\n",
            "FILE:2: nbd.listen[0]: '127.0.0.1:10809' is not where one can listen; write tcp://ADDRESS:PORT or unix:///PATH",
        ),
        (
            "node_name = 5\n",
            "FILE:1: node_name: this is the integer `5`, expected text in quotes",
        ),
        (
            "[device]\nuri = \"malloc:///m\"\n",
            "FILE:1: device: this is a table, expected a list, e.g. [\"a\", \"b\"]; each device is a section [[device]]",
        ),
        (
            "[[device]]\nshare = true\n",
            "FILE:1: device[0]: has no uri; add it",
        ),
        (
            "[reactors]\ndriver = \"spdk\"\n",
            "FILE:2: reactors.driver: 'spdk' is not a driver; use auto, uring or epoll",
        ),
        (
            "[reactors]\ncpus = \"2-1\"\n",
            "FILE:2: reactors.cpus: '2-1' runs backwards; write 1-2",
        ),
        (
            "[reactors]\ncpus = \"0-900\"\n",
            "FILE:2: reactors.cpus: '0-900' names 901 CPUs; name 1 to 256, one for each reactor",
        ),
        (
            "[reactors]\ncpus = \"0-4294967295\"\n",
            "FILE:2: reactors.cpus: there is no CPU 4294967295; CPUs are numbered from 0 to at most 4095",
        ),
        (
            "[reactors]\ncpus = \"0;1\"\n",
            "FILE:2: reactors.cpus: '0;1' is not a CPU list; write e.g. 1,2,10-20",
        ),
        (
            "state_dir = \"\"\n",
            "FILE:1: state_dir: is empty; name a directory, or leave it out for the default one",
        ),
        (
            "[reactors]\ncpus = \"9\"\n",
            "FILE:2: reactors.cpus: CPU 9 does not exist or is not allowed to this process; use some of 0,1,2,3",
        ),
        (
            "[grpc]\nlisten = \"localhost\"\n",
            "FILE:2: grpc.listen: 'localhost' is not ADDR:PORT; write an IP address and a port, e.g. 0.0.0.0:10124 or \
             [::]:10124",
        ),
        (
            "[nvmf]\nin_capsule_bytes = 4097\n",
            "FILE:2: nvmf.in_capsule_bytes: 4097 is not acceptable; give a multiple of 16 from 512 to 65536",
        ),
        (
            "[nvmf]\ntransfer_kib_max = 96\n",
            "FILE:2: nvmf.transfer_kib_max: 96 is not acceptable; give a power of two from 4 to 1024",
        ),
        (
            "[nvmf]\nconnections_max = 10\nhost_connections_max = 11\n",
            "FILE:3: nvmf.host_connections_max: 11 is above nvmf.connections_max (10); lower it",
        ),
        (
            "[nvmf]\nconnections_max = 10\naddress_connections_max = 11\n",
            "FILE:3: nvmf.address_connections_max: 11 is above nvmf.connections_max (10); lower it",
        ),
        (
            "[nvmf]\nkeep_alive_s_min = 60\nkeep_alive_s_max = 30\n",
            "FILE:2: nvmf.keep_alive_s_min: 60 is above nvmf.keep_alive_s_max (30); lower it",
        ),
        (
            "[nvmf]\nadvertise = \"x\"\n",
            "FILE:2: nvmf.advertise: 'x' is not an IP address; give one of this machine, e.g. 10.0.0.7, or leave it out",
        ),
        (
            "[nvmf]\nadvertise = \"0.0.0.0\"\n",
            "FILE:2: nvmf.advertise: 0.0.0.0 is not an address hosts can connect to; give one of this machine, e.g. \
             10.0.0.7, or leave it out",
        ),
        (
            "[nvmf]\nadvertise = \"::\"\n",
            "FILE:2: nvmf.advertise: :: is not an address hosts can connect to; give one of this machine, e.g. \
             10.0.0.7, or leave it out",
        ),
        (
            "[nvmf]\nadvertise = \"ff02::1\"\n",
            "FILE:2: nvmf.advertise: ff02::1 is not an address hosts can connect to; give one of this machine, e.g. \
             10.0.0.7, or leave it out",
        ),
        (
            "[grpc]\nlisten = \"127.0.0.1:9000\"\n[metrics]\nlisten = \"127.0.0.1:9000\"\n",
            "FILE:2: grpc.listen: 127.0.0.1:9000 takes the port of metrics.listen (127.0.0.1:9000); give one of them \
             another port",
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:10124\"\n",
            "FILE:2: metrics.listen: 127.0.0.1:10124 takes the port of grpc.listen (default) ([::]:10124); give one of \
             them another port",
        ),
        (
            "[grpc]\nlisten = \"0.0.0.0:8420\"\n",
            "FILE:2: grpc.listen: 0.0.0.0:8420 takes the port of nvmf.listen (default) ([::]:8420); give one of them \
             another port",
        ),
        (
            "[nbd]\nlisten = [\"unix:///run/x\", \"tcp://127.0.0.1:8420\"]\n",
            "FILE:2: nbd.listen: 127.0.0.1:8420 takes the port of nvmf.listen (default) ([::]:8420); give one of them \
             another port",
        ),
        (
            "[nbd]\nlisten = [\"tcp://[::]:9\", \"tcp://127.0.0.1:9\"]\n",
            "FILE:2: nbd.listen: 127.0.0.1:9 is named twice; remove one",
        ),
        (
            "[nvmf]\nlisten = []\n",
            "FILE:2: nvmf.listen: 0 addresses; give 1 to 16",
        ),
        (
            "[nvmf]\nlisten = [\"[::]\", \"[::]:8420\"]\n",
            "FILE:2: nvmf.listen: [::]:8420 is named twice; remove one",
        ),
        (
            "[memory]\nram_disks_mib_max = 1857\n",
            "FILE:2: memory.ram_disks_mib_max: 1857 MiB beside 64 MiB of I/O memory leave too little of the 2048 MiB this \
             process may use; give at most 1856",
        ),
        (
            "[memory]\narena_mib = 4096\n",
            "FILE:2: memory.arena_mib: 1 reactors with 4096 MiB each do not fit in three quarters of the 2048 MiB this \
             process may use; give at most 1536, or fewer reactors",
        ),
        (
            "[log]\nformat = \"xml\"\n",
            "FILE:2: log.format: 'xml' is not a log format; use human, compact or json, with color, nocolor, date, \
             nodate, host or nohost, separated by commas",
        ),
        (
            "[log]\nformat = \"json,human\"\n",
            "FILE:2: log.format: 'json,human' says both json and human; leave one out",
        ),
        (
            "[log]\nformat = \"host, json,nohost\"\n",
            "FILE:2: log.format: 'host, json,nohost' says both host and nohost; leave one out",
        ),
        (
            "[log]\nlevel = \"info,[span\"\n",
            "FILE:2: log.level: 'info,[span' is not a log filter ('[span' has no ']'); write e.g. info or warn,engine=debug",
        ),
        (
            "[log]\nlevel = \"inf\"\n",
            "FILE:2: log.level: 'inf' is not a log filter ('inf' is none of off, error, warn, info, debug, trace); \
             write e.g. info or warn,engine=debug",
        ),
        (
            "[log]\nlevel = \"\"\n",
            "FILE:2: log.level: '' is not a log filter (it names no level); write e.g. info or warn,engine=debug",
        ),
    ] {
        assert_eq!(refusal(text), line);
    }
}

#[test]
fn golden_lines_of_refused_flags() {
    let cases: [(Overrides, &str); 8] = [
        (
            Overrides {
                grpc: Some("x".into()),
                ..Overrides::default()
            },
            "command line: --grpc: 'x' is not ADDR:PORT; write an IP address and a port, e.g. 0.0.0.0:10124 or \
             [::]:10124",
        ),
        (
            Overrides {
                mask: Some("0xz".into()),
                ..Overrides::default()
            },
            "command line: -m: '0xz' is not a CPU mask; write e.g. 0x3 for CPUs 0 and 1",
        ),
        (
            Overrides {
                grpc_port: Some("70000".into()),
                ..Overrides::default()
            },
            "command line: --grpc-port: '70000' is not a port; give a number from 0 to 65535",
        ),
        (
            Overrides {
                grpc: Some("127.0.0.1:1".into()),
                grpc_port: Some("3".into()),
                ..Overrides::default()
            },
            "command line: --grpc-port: is given beside --grpc, which says where the API is served; leave one out",
        ),
        (
            Overrides {
                grpc: Some("127.0.0.1:1".into()),
                grpc_endpoint: Some("127.0.0.1".into()),
                ..Overrides::default()
            },
            "command line: --grpc-endpoint: is given beside --grpc, which says where the API is served; leave one out",
        ),
        (
            Overrides {
                interface: Some("name:eth9".into()),
                ..Overrides::default()
            },
            "command line: -T: no interface matches 'name:eth9'; there are: lo (127.0.0.1), eth0 (fe80::1), eth0 \
             (10.1.2.3)",
        ),
        (
            Overrides {
                log_level: Some(String::new()),
                ..Overrides::default()
            },
            "command line: --log-level: '' is not a log filter (it names no level); write e.g. info or \
             warn,engine=debug",
        ),
        (
            Overrides {
                tcp_congestion: Some("no such".into()),
                ..Overrides::default()
            },
            "command line: --tcp-congestion: 'no such' is not a congestion control algorithm; see \
             /proc/sys/net/ipv4/tcp_available_congestion_control",
        ),
    ];
    for (flags, line) in cases {
        assert_eq!(
            Config::load(&flags, &environment())
                .unwrap_err()
                .to_string(),
            line
        );
    }
}
