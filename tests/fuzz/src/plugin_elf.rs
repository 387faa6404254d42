//! Files that may be plugins, read for their descriptor before anything of them runs.
//!
//! Oracle: no panic; what is accepted, and a refusal, is text that prints; a descriptor is found again in the same file with
//! bytes behind it.
//!
//! The first byte says what the rest is: a file, the notes of a well-formed one, or the contents of its one note.

use plugin_host::{Refusal, Why, check, read_bytes};
use sdk::text::is_printable;

/// Bytes of an ELF header.
const HEADER: usize = 64;
/// Bytes of a program header.
const PROGRAM: usize = 56;

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else {
        return;
    };
    let file = match form % 3 {
        0 => rest.to_vec(),
        1 => with_notes(rest),
        _ => with_notes(&note(rest)),
    };
    let found = match read_bytes(&file) {
        Ok(found) => found,
        Err(why) => return prints(why),
    };
    for text in [&found.name, &found.version, &found.vendor, &found.serves] {
        assert!(text.chars().all(is_printable), "{text:?}");
    }
    if let Err(why) = check(&found) {
        prints(why);
    }
    let longer = [&file[..], &[0; 9]].concat();
    match read_bytes(&longer) {
        Ok(again) => assert_eq!(again, found),
        Err(why) => panic!("refused with bytes behind it: {why}"),
    }
}

fn prints(why: Why) {
    let what = "file.so".into();
    let line = Refusal { what, why }.to_string();
    assert!(line.chars().all(is_printable), "{line:?}");
}

/// A shared object for this machine that holds `notes` and nothing else.
fn with_notes(notes: &[u8]) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let mut file = vec![0; HEADER + PROGRAM];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16..18].copy_from_slice(&3u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
    file[54..56].copy_from_slice(&(PROGRAM as u16).to_le_bytes());
    file[56..58].copy_from_slice(&1u16.to_le_bytes());
    file[HEADER..HEADER + 4].copy_from_slice(&4u32.to_le_bytes());
    let place = ((HEADER + PROGRAM) as u64).to_le_bytes();
    file[HEADER + 8..HEADER + 16].copy_from_slice(&place);
    file[HEADER + 32..HEADER + 40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    file[HEADER + 48..HEADER + 56].copy_from_slice(&4u64.to_le_bytes());
    file.extend_from_slice(notes);
    file
}

/// A note of ours with these contents.
fn note(contents: &[u8]) -> Vec<u8> {
    let name = abi::IOE_NOTE_NAME.as_bytes();
    let sizes = [name.len() as u32, contents.len() as u32, abi::IOE_NOTE_TYPE];
    let mut note: Vec<u8> = sizes
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    for part in [name, contents] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}
