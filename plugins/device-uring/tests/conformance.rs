//! The device suite on files: on disk with `O_DIRECT`, in memory without it, with short transfers and out of order.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::path::Path;

use conformance::host::TestHost;
use conformance::{Options, run_device};
use sdk::block::DeviceDriver;

fn driver() -> Box<dyn DeviceDriver> {
    device_uring::drivers().remove(0)
}

fn set_size(path: &str, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.set_len(bytes).expect("room");
}

fn path_of(uri: &str) -> &str {
    let place = uri.split('?').next().expect("a place");
    place.split_once("://").expect("a scheme").1
}

fn run(directory: &Path, scheme: &str, query: &str, host: fn() -> TestHost) {
    let directory = tempfile::tempdir_in(directory).expect("a directory");
    let count = Cell::new(0);
    let make = || {
        count.set(count.get() + 1);
        let path = directory.path().join(format!("disk {}", count.get()));
        File::create_new(&path)
            .expect("a new file")
            .set_len(8 << 20)
            .expect("room");
        let link = directory.path().join(format!("link {}", count.get()));
        std::fs::hard_link(&path, link).expect("a second name");
        (driver(), format!("{scheme}://{}{query}", path.display()))
    };
    let options = Options {
        resize: Some(Box::new(|uri, geometry| {
            set_size(path_of(uri), geometry.bytes());
            None
        })),
        aliases: Box::new(|uri| {
            let path = path_of(uri);
            vec![
                format!("aio://{path}"),
                format!("uring://{path}"),
                format!("aio:///proc/self/root{path}"),
                format!("aio://{}", path.replace("disk ", "link ")),
            ]
        }),
        bad_uris: vec![
            "aio://".to_owned(),
            "aio:///".to_owned(),
            "aio:///no/such/file".to_owned(),
            "aio:///tmp".to_owned(),
            "aio:///dev/null".to_owned(),
            "aio://host/tmp/x".to_owned(),
            "aio:///tmp/x?blk_size=1024".to_owned(),
            "aio:///tmp/x?blk_size=big".to_owned(),
            "aio:///tmp/x?uuid=1".to_owned(),
        ],
        host: Box::new(move || Box::new(host())),
        ..Options::default()
    };
    run_device(&make, &options);
}

/// The build's own scratch directory, which is on a disk as a rule.
fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

#[test]
fn a_file_on_a_disk_conforms() {
    run(disk(), "aio", "?blk_size=4096", TestHost::new);
    run(disk(), "uring", "", TestHost::new);
}

#[test]
fn a_file_in_memory_conforms() {
    run(Path::new("/dev/shm"), "aio", "", TestHost::new);
}

#[test]
fn a_file_conforms_whatever_the_order_of_completions() {
    run(Path::new("/dev/shm"), "uring", "?blk_size=4096", || {
        let mut host = TestHost::new();
        host.shuffle(7);
        host
    });
}

#[test]
fn a_file_conforms_when_transfers_are_short() {
    run(Path::new("/dev/shm"), "uring", "", || {
        let mut host = TestHost::new();
        host.limit_moves(Some(3000));
        host
    });
}
