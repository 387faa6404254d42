//! Real clients against the export: what they see, write, read back and verify. A client that is not installed is skipped
//! with a printed reason.

#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::Server;
use support::disk::DiskSpec;

/// A directory of its own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nbd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether `program` is there; says so if not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs a client, which must succeed, and gives its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the client starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}\n{text}\n{errors}"
    );
    text
}

fn pattern(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// An image of `mib` MiB with data in every fourth 64 KiB.
fn write_image(path: &str, mib: usize) -> Vec<u8> {
    let mut image = vec![0; mib << 20];
    for (at, piece) in image.chunks_mut(64 << 10).enumerate() {
        if at % 4 == 0 {
            piece.copy_from_slice(&pattern(64 << 10));
            piece[..8].copy_from_slice(&(at as u64).to_be_bytes());
        }
    }
    std::fs::write(path, &image).expect("written");
    image
}

#[test]
fn nbdinfo_sees_the_export_as_it_is() {
    if !has("nbdinfo") {
        return;
    }
    let server = Server::start(DiskSpec::default());
    for uri in [
        server.uri("disk"),
        format!("nbd://{}/disk", server.tcp_address()),
        // The only export is the default one.
        server.uri(""),
    ] {
        let text = run("nbdinfo", &[&uri]);
        for line in [
            "protocol: newstyle-fixed without TLS, using structured packets",
            "export-size: 67108864 (64M)",
            "base:allocation",
            "is_read_only: false",
            "can_cache: true",
            "can_df: true",
            "can_fast_zero: true",
            "can_flush: true",
            "can_fua: true",
            "can_multi_conn: true",
            "can_trim: true",
            "can_zero: true",
            "block_size_minimum: 512",
            "block_size_preferred: 4096",
            "block_size_maximum: 1048576",
        ] {
            assert!(text.contains(line), "no '{line}' in\n{text}");
        }
    }
    let list = run("nbdinfo", &["--list", &server.uri("")]);
    assert!(list.contains("export=\"disk\""), "{list}");
    assert!(list.contains("description: 64 MiB of RAM"), "{list}");
    let size = run("nbdinfo", &["--size", &server.uri("disk")]);
    assert_eq!(size.trim(), "67108864");
    let map = run("nbdinfo", &["--map", &server.uri("disk")]);
    assert!(map.contains("hole,zero"), "{map}");
}

#[test]
fn nbdinfo_is_refused_an_export_that_is_not_there() {
    if !has("nbdinfo") {
        return;
    }
    let server = Server::start(DiskSpec::default());
    let output = Command::new("nbdinfo")
        .arg(server.uri("nothing"))
        .output()
        .expect("nbdinfo starts");
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("No such file or directory"), "{errors}");
}

#[test]
fn a_read_only_export_says_so() {
    if !has("nbdinfo") {
        return;
    }
    let server = Server::start(DiskSpec {
        read_only: true,
        block_size: 4096,
        ..DiskSpec::default()
    });
    let text = run("nbdinfo", &[&server.uri("disk")]);
    for line in [
        "is_read_only: true",
        "can_trim: false",
        "can_zero: false",
        "block_size_minimum: 4096",
    ] {
        assert!(text.contains(line), "no '{line}' in\n{text}");
    }
}

fn nbdcopy_round_trip(lends: bool, over_tcp: bool) {
    let name = format!("copy-{lends}-{over_tcp}");
    let scratch = Scratch::new(&name);
    let (there, back) = (scratch.file("there"), scratch.file("back"));
    let image = write_image(&there, 64);
    let server = Server::start(DiskSpec {
        lends,
        ..DiskSpec::default()
    });
    let uri = if over_tcp {
        format!("nbd://{}/disk", server.tcp_address())
    } else {
        server.uri("disk")
    };
    run("nbdcopy", &["--flush", &there, &uri]);
    let opened = server.tell(|engine| engine.opened.len());
    assert!(opened >= 2, "nbdcopy used {opened} connections");
    run("nbdcopy", &[&uri, &back]);
    assert_eq!(std::fs::read(&back).expect("a copy"), image);
    // Zeroes were written as such, and a flush came by one connection.
    let seen = server.tell(|engine| engine.disk().seen.clone());
    assert!(seen.iter().any(|(op, _)| op.starts_with("zero")));
    assert!(seen.iter().any(|(op, _)| *op == "flush"));
}

#[test]
fn nbdcopy_brings_an_image_there_and_back() {
    if !has("nbdcopy") {
        return;
    }
    nbdcopy_round_trip(true, false);
    nbdcopy_round_trip(false, true);
}

#[test]
fn qemu_img_converts_compares_and_maps_holes() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new("qemu-img");
    let image = scratch.file("image");
    write_image(&image, 64);
    let server = Server::start(DiskSpec::default());
    let uri = server.uri("disk");
    let raw = ["-f", "raw", "-O", "raw"];
    run(
        "qemu-img",
        &[&["convert", "-n"][..], &raw, &[&image, &uri]].concat(),
    );
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &image, &uri],
    );
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    let holes = map.matches("\"zero\": true, \"data\": false").count();
    let data = map.matches("\"zero\": false, \"data\": true").count();
    assert_eq!((holes, data), (256, 256), "{map}");
    let info = run("qemu-img", &["info", &uri]);
    assert!(info.contains("64 MiB"), "{info}");
}

#[test]
fn qemu_io_writes_verifies_trims_and_zeroes() {
    if !has("qemu-io") {
        return;
    }
    let server = Server::start(DiskSpec {
        lends: false,
        ..DiskSpec::default()
    });
    let uri = server.uri("disk");
    let commands = [
        "write -P 0x5a 0 8M",
        "read -P 0x5a 0 8M",
        "write -f -P 0x11 4k 512",
        "read -P 0x11 4k 512",
        "write -z -u 1M 1M",
        "read -P 0 1M 1M",
        "write -z 3M 64k",
        "read -P 0 3M 64k",
        "discard 5M 1M",
        "aio_write -P 0x77 16M 1M",
        "aio_write -P 0x78 17M 1M",
        "aio_flush",
        "read -P 0x77 16M 1M",
        "read -P 0x78 17M 1M",
        "read -P 0x5a 6M 2M",
        "flush",
        "write -P 1 512 512",
        "read -P 1 512 512",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("verification failed"), "{text}");
    assert!(!text.contains("failed"), "{text}");
    let seen = server.tell(|engine| engine.disk().seen.clone());
    for op in ["zero", "zero kept", "discard", "write fua", "flush"] {
        assert!(seen.iter().any(|(name, _)| *name == op), "no {op}");
    }
}

#[test]
fn qemu_io_is_told_what_a_read_only_export_refuses() {
    if !has("qemu-io") {
        return;
    }
    let server = Server::start(DiskSpec {
        read_only: true,
        ..DiskSpec::default()
    });
    let uri = server.uri("disk");
    let text = run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0 0 1M", &uri],
    );
    assert!(text.contains("read 1048576/1048576"), "{text}");
}

fn fio(server: &Server, name: &str, options: &[&str]) -> String {
    let scratch = Scratch::new(name);
    let uri = format!("--uri={}", server.uri("disk"));
    let aux = format!("--aux-path={}", scratch.0.display());
    let all = ["--name=t", "--ioengine=nbd", &uri, &aux, "--size=32M"];
    run("fio", &[&all[..], options].concat())
}

/// Whether fio is there and was built with its NBD engine.
fn has_fio() -> bool {
    if !has("fio") {
        return false;
    }
    let engines = run("fio", &["--enghelp"]);
    let found = engines.lines().any(|line| line.trim() == "nbd");
    if !found {
        println!("skipped: fio was built without its nbd engine");
    }
    found
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !has_fio() {
        return;
    }
    for lends in [true, false] {
        let server = Server::start(DiskSpec {
            lends,
            ..DiskSpec::default()
        });
        let verify = ["--verify=crc32c", "--do_verify=1"];
        let mixed = ["--rw=randwrite", "--iodepth=32", "--bsrange=4k-256k"];
        fio(&server, "fio-mixed", &[&mixed[..], &verify].concat());
        let small = ["--rw=randwrite", "--iodepth=16", "--bs=4k", "--numjobs=1"];
        fio(&server, "fio-small", &[&small[..], &verify].concat());
        let trim = ["--rw=randtrim", "--bs=64k", "--iodepth=8"];
        fio(&server, "fio-trim", &trim);
        let seen = server.tell(|engine| engine.disk().seen.clone());
        assert!(seen.iter().any(|(op, _)| *op == "discard"));
    }
}

#[test]
fn a_resized_volume_shows_its_size_to_the_next_client() {
    if !has("nbdinfo") {
        return;
    }
    let server = Server::start(DiskSpec::default());
    let size = || run("nbdinfo", &["--size", &server.uri("disk")]);
    assert_eq!(size().trim(), "67108864");
    server.tell(|engine| engine.resize(96));
    assert_eq!(size().trim(), "100663296");
}

#[test]
fn the_socket_file_goes_with_its_server() {
    let mut server = Server::start(DiskSpec::default());
    let path: PathBuf = server.socket.clone();
    assert!(Path::new(&path).exists());
    server.stop();
    assert!(!Path::new(&path).exists());
}
