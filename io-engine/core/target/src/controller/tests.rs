//! The controller's state table and what a write to CC amounts to.

use nvme_spec::register::Cc;

use super::{CcWrite, Phase, Registers};
use crate::connect::capabilities;
use crate::subsystem::Kind;

#[test]
fn the_state_table_is_as_reviewed() {
    // Base 2.0c §3.5.3, §3.6.1, §3.7.2.
    let phases = [
        Phase::Disabled,
        Phase::Ready,
        Phase::ShuttingDown,
        Phase::ShutDown,
        Phase::Fatal,
    ];
    let writes = [
        CcWrite::Enable,
        CcWrite::EnableUnsupported,
        CcWrite::Reset,
        CcWrite::Shutdown,
        CcWrite::Nothing,
    ];
    let mut table = String::new();
    for phase in phases {
        for write in writes {
            table += &format!("{phase:?} + {write:?}: {:?}\n", phase.after(write));
        }
    }
    assert_eq!(
        table,
        "Disabled + Enable: Enter(Ready)\n\
         Disabled + EnableUnsupported: Enter(Fatal)\n\
         Disabled + Reset: Stay\n\
         Disabled + Shutdown: Enter(ShutDown)\n\
         Disabled + Nothing: Stay\n\
         Ready + Enable: Stay\n\
         Ready + EnableUnsupported: Stay\n\
         Ready + Reset: ResetTo(Disabled)\n\
         Ready + Shutdown: DrainTo(ShuttingDown)\n\
         Ready + Nothing: Stay\n\
         ShuttingDown + Enable: Stay\n\
         ShuttingDown + EnableUnsupported: Stay\n\
         ShuttingDown + Reset: ResetTo(Disabled)\n\
         ShuttingDown + Shutdown: Stay\n\
         ShuttingDown + Nothing: Stay\n\
         ShutDown + Enable: Enter(Ready)\n\
         ShutDown + EnableUnsupported: Enter(Fatal)\n\
         ShutDown + Reset: ResetTo(Disabled)\n\
         ShutDown + Shutdown: Stay\n\
         ShutDown + Nothing: Stay\n\
         Fatal + Enable: Stay\n\
         Fatal + EnableUnsupported: Stay\n\
         Fatal + Reset: ResetTo(Disabled)\n\
         Fatal + Shutdown: Stay\n\
         Fatal + Nothing: Stay\n"
    );
}

#[test]
fn a_write_to_cc_is_read_against_the_old_value() {
    // Base 2.0c §3.1.3.5.
    let classify = |old: Cc, new: Cc, kind| {
        let registers = Registers {
            cap: capabilities(kind, 128),
            cc: old,
            phase: Phase::Disabled,
        };
        registers.classify(new, kind)
    };
    let on = Cc::enable(0);
    for (old, new, kind, expected) in [
        (Cc(0), on, Kind::Nvm, CcWrite::Enable),
        (Cc(0), Cc::enable(6), Kind::Nvm, CcWrite::Enable),
        (Cc(0), Cc::enable(1), Kind::Nvm, CcWrite::EnableUnsupported),
        (Cc(0), Cc(1), Kind::Nvm, CcWrite::EnableUnsupported),
        (Cc(0), Cc(1), Kind::Discovery, CcWrite::Enable),
        (
            Cc(0),
            Cc(1 | 1 << 7),
            Kind::Discovery,
            CcWrite::EnableUnsupported,
        ),
        (
            Cc(0),
            Cc(on.0 | 1 << 11),
            Kind::Nvm,
            CcWrite::EnableUnsupported,
        ),
        (on, Cc(0), Kind::Nvm, CcWrite::Reset),
        (on, Cc(0).with_shn(1), Kind::Nvm, CcWrite::Reset),
        (on, on.with_shn(1), Kind::Nvm, CcWrite::Shutdown),
        (on, on.with_shn(2), Kind::Nvm, CcWrite::Shutdown),
        (on.with_shn(1), on.with_shn(2), Kind::Nvm, CcWrite::Nothing),
        (on, on, Kind::Nvm, CcWrite::Nothing),
        (Cc(0), Cc(0).with_shn(1), Kind::Nvm, CcWrite::Shutdown),
    ] {
        assert_eq!(classify(old, new, kind), expected, "{old:?} to {new:?}");
    }
}
