//! The state matrix, stored as text so that a review shows the changed cell.

use nvme_tcp::state::{Phase, Refusal, Role, next};
use nvme_tcp_pdu::PduType;
use std::fmt::Write;

#[test]
fn the_matrix_is_the_reviewed_one() {
    // TCP Transport 1.0c §3.6.2: PDU types and their directions.
    let mut matrix = String::new();
    for role in [Role::Controller, Role::Host] {
        for phase in Phase::ALL {
            write!(matrix, "{role:?} {phase:?}:").expect("text");
            for pdu_type in PduType::ALL {
                match next(role, phase, pdu_type) {
                    Ok(next) => write!(matrix, " {}→{next:?}", pdu_type.name()),
                    Err(Refusal::UnexpectedPdu) => write!(matrix, " {}✗", pdu_type.name()),
                    Err(Refusal::NotReceiving) => write!(matrix, " {}·", pdu_type.name()),
                }
                .expect("text");
            }
            matrix.push('\n');
        }
    }
    let reviewed = include_str!("states.txt");
    assert_eq!(matrix, reviewed, "\n{matrix}");
}
