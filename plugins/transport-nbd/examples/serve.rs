//! Serves a RAM disk over NBD until its standard input ends: `serve SOCKET MIB`. For trying clients and comparing servers;
//! it runs the export on the test host.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read;
use std::path::PathBuf;

use sdk::export::ExportSettings;
use support::Server;
use support::disk::DiskSpec;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(mib)) = (arguments.next(), arguments.next()) else {
        panic!("usage: serve SOCKET MIB");
    };
    let settings = ExportSettings {
        listen: vec![format!("unix://{path}")],
        ..ExportSettings::default()
    };
    let spec = DiskSpec {
        mib: mib.parse().expect("a number of MiB"),
        ..DiskSpec::default()
    };
    let server = Server::with(&settings, PathBuf::from(path), 1, vec![spec]);
    server.tell(|engine| engine.disk().notes = false);
    let mut input = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut input);
}
