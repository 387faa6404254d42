//! What the report looks like.

use super::*;
use crate::bench::cases::{FILE, MALLOC, NBD};
use crate::bench::load::Sample;

fn measured(contender: Contender, iops: f64) -> Measured {
    Measured {
        contender,
        samples: vec![
            Sample {
                iops,
                latency_us: 8e6 / iops,
                cpu_us: 1e6 / iops,
            };
            15
        ],
        syscalls: Some(0.5),
        allocations: None,
    }
}

fn ram_case() -> Case {
    Case {
        section: Section::Ram(Initiator::Ours),
        point: MALLOC[1].0,
        prediction: Some(MALLOC[1].1),
        measured: vec![
            measured(Contender::Ours, 400_000.0),
            measured(Contender::Spdk, 320_000.0),
            measured(Contender::Limit, 500_000.0),
        ],
    }
}

fn report(results: &Results) -> String {
    markdown(results)
}

#[test]
fn rates_ratios_and_goals_stand_in_one_row() {
    let results = Results {
        cases: vec![ram_case()],
        ..Results::default()
    };
    let text = report(&results);
    assert!(
        text.contains(
            "| 4k-read-d8 | 530 | 400.0 | – | 320.0 | 500.0 | 1.25 [1.25, 1.25], goal 1.20 \
             | 0.80 [0.80, 0.80] | – |"
        ),
        "{text}"
    );
    assert!(
        text.contains(
            "| 4k-read-d8 | 1.70 | 2.50 / – / 3.12 / 2.00 | 0.50 | 0.50 / – / 0.50 / 0.50 \
             | – / – / – / – | 20.0 / – / 25.0 / 16.0 |"
        ),
        "{text}"
    );
}

#[test]
fn a_missed_goal_is_marked() {
    let mut case = ram_case();
    case.measured[0] = measured(Contender::Ours, 330_000.0);
    let text = report(&Results {
        cases: vec![case],
        ..Results::default()
    });
    assert!(text.contains("goal 1.20 **missed**"), "{text}");
}

#[test]
fn every_row_has_as_many_cells_as_its_heading() {
    let file = Case {
        section: Section::File(Driver::Uring),
        point: FILE[0],
        prediction: None,
        measured: vec![
            measured(Contender::Ours, 8_000.0),
            measured(Contender::Fio, 10_000.0),
        ],
    };
    let plugins = Case {
        section: Section::Plugins,
        point: MALLOC[0].0,
        prediction: None,
        measured: vec![
            measured(Contender::Ours, 100_000.0),
            measured(Contender::Dynamic, 94_000.0),
        ],
    };
    let nbd = Case {
        section: Section::Nbd,
        point: NBD[0],
        prediction: None,
        measured: vec![
            measured(Contender::Ours, 40_000.0),
            measured(Contender::Nbdkit, 50_000.0),
            measured(Contender::Qemu, 20_000.0),
        ],
    };
    let results = Results {
        notes: vec!["a note".to_owned()],
        cases: vec![ram_case(), plugins, nbd, file],
        table_calls: vec![TableCall {
            operation: "flush".to_owned(),
            direct_ns: 2.0,
            tables_ns: 14.5,
            direct_instructions: Some(20.0),
            tables_instructions: None,
        }],
        idle: vec![Idle {
            server: "ours, one host connected",
            cpu_percent: 0.2,
            resident_mib: 250.0,
            has_goal: true,
        }],
    };
    let text = report(&results);
    let mut columns = 0;
    for line in text.lines() {
        let cells = line.matches('|').count();
        match (line.starts_with('|'), columns) {
            (false, _) => columns = 0,
            (true, 0) => columns = cells,
            (true, _) => assert_eq!(cells, columns, "{line}"),
        }
    }
    assert!(
        text.contains("200.0 [200.0, 200.0] (11), goal ≤ 20 **missed**"),
        "{text}"
    );
    assert!(text.contains("| 250 | 120 | < 200 **missed** |"), "{text}");
    assert!(
        text.contains("| 0.940 [0.940, 0.940] **missed** | 10.00 / 10.64 | 1.064"),
        "{text}"
    );
    assert!(
        text.contains(
            "| 40.0 | 50.0 | 20.0 | 0.80 [0.80, 0.80], goal 0.95 **missed** \
             | 2.00 [2.00, 2.00], goal 0.95 | 25.00 / 20.00 / 50.00 \
             | 1.25 [1.25, 1.25], goal ≤ 1.00 **missed** |"
        ),
        "{text}"
    );
    assert!(
        text.contains("| flush | 2.0 | 14.5 | 12.5, goal ≤ 20 | 20 / – |"),
        "{text}"
    );
}

#[test]
fn sections_without_cases_are_left_out() {
    assert_eq!(report(&Results::default()), "");
}

#[test]
fn json_holds_every_sample() {
    let value = samples(&Results {
        cases: vec![ram_case()],
        ..Results::default()
    });
    let iops = value.pointer("/cases/0/measured/1/iops").unwrap();
    assert_eq!(iops.as_array().unwrap().len(), 15);
    assert_eq!(
        value.pointer("/cases/0/name").unwrap(),
        "malloc/io-engine-perf/4k-read-d8"
    );
}
