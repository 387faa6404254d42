//! The stories told to a real kernel, one a file, in the order they run.

use vm_tests::Scenario;

mod allow_list;
mod boot;
mod connect;
mod crash;
mod device_loss;
mod discard;
mod discover;
mod ext4;
mod faults;
mod features;
mod file_system;
mod identify;
mod inside;
mod logs;
mod namespaces;
mod reservations;
mod resize;
mod verify;
mod xfs;

/// Every scenario, cheap and basic ones first.
pub(crate) const ALL: &[&Scenario] = &[
    &boot::SCENARIO,
    &discover::SCENARIO,
    &connect::SCENARIO,
    &identify::SCENARIO,
    &logs::SCENARIO,
    &features::SCENARIO,
    &ext4::SCENARIO,
    &xfs::SCENARIO,
    &discard::SCENARIO,
    &verify::SCENARIO,
    &resize::SCENARIO,
    &namespaces::SCENARIO,
    &reservations::SCENARIO,
    &allow_list::SCENARIO,
    &faults::SCENARIO,
    &crash::SCENARIO,
    &inside::SCENARIO,
    &device_loss::SCENARIO,
];

/// Status code (type and code, without retry hints) in what nvme-cli prints for a failed command.
pub(crate) fn nvme_status(text: &str) -> Option<u16> {
    let digits = text.rsplit_once("(0x")?.1.split(')').next()?;
    // Bits 10:8 are the status code type, 7:0 the code; more, retry delay and do-not-retry stand above.
    Some(u16::from_str_radix(digits, 16).ok()? & 0x7ff)
}
