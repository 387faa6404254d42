//! The command `pool` on images the world has made and hurt: what it says, what it exits with, what it changes.

use std::fs;
use std::path::PathBuf;

use pool_core::Mutation;
use pool_tool::Outcome;
use world::disk::Disk;
use world::faults::settled_pool;
use world::forge::Image;
use world::model::Model;
use world::world::value_of;
use world::{Rng, World};

/// A pool in files of its own.
struct Files {
    directory: PathBuf,
    disks: Vec<PathBuf>,
    model: Model,
}

impl Files {
    fn new(name: &str, disks: &[Disk], model: Model) -> Self {
        let directory = std::env::temp_dir().join(format!("pool-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let image = Image::new(disks);
        let mut paths = Vec::new();
        for (disk, blocks) in disks.iter().map(Disk::blocks).enumerate() {
            let path = directory.join(format!("disk{disk}"));
            let all = (0..blocks).map(|block| image.block((disk, block)));
            let all: Vec<_> = all.collect();
            fs::write(&path, all.concat()).expect("an image is written");
            paths.push(path);
        }
        Self {
            directory,
            disks: paths,
            model,
        }
    }

    /// Runs `pool` with these words and then the disks.
    fn pool(&self, words: &[&str]) -> (Outcome, String) {
        self.pool_on(words, &self.disks)
    }

    fn pool_on(&self, words: &[&str], disks: &[PathBuf]) -> (Outcome, String) {
        let paths = disks.iter().map(|path| path.display().to_string());
        let words: Vec<String> = words
            .iter()
            .map(|word| (*word).to_owned())
            .chain(paths)
            .collect();
        let mut out = Vec::new();
        let outcome = pool_tool::run(&words, &mut out).expect("memory can be written");
        (outcome, String::from_utf8(out).expect("text"))
    }

    fn change(&self, disk: usize, block: usize, change: impl Fn(&mut [u8])) {
        let mut bytes = fs::read(&self.disks[disk]).expect("the image");
        change(&mut bytes[block * 4096..(block + 1) * 4096]);
        fs::write(&self.disks[disk], bytes).expect("the image");
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        let read = |path| fs::read(path).expect("the image");
        self.disks.iter().map(read).collect()
    }

    /// Compares every exported file with the model; answers blocks that differ.
    fn differing(&self, export: &PathBuf) -> usize {
        let mut differing = 0;
        let mut files = 0;
        for entry in fs::read_dir(export).expect("the export") {
            let path = entry.expect("the export").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let id: u64 = name
                .split('-')
                .next()
                .expect("an id")
                .parse()
                .expect("an id");
            let volume = self.model.volumes.values().find(|v| v.id == Some(id));
            let volume = volume.expect("a volume of the model");
            let bytes = fs::read(&path).expect("a raw file");
            assert_eq!(bytes.len(), volume.cells.len() * 4096);
            for (cell, block) in volume.cells.iter().zip(bytes.chunks(4096)) {
                differing += usize::from(!cell.allows(&value_of(block), 0));
            }
            files += 1;
        }
        assert_eq!(files, self.model.volumes.len());
        differing
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn pool_of(seed: u64, disks: usize, has_tail: bool) -> (Vec<Disk>, Model) {
    let mut rng = Rng::new(seed);
    loop {
        let (found, model) = settled_pool(&mut rng, has_tail);
        if found.len() == disks {
            return (found, model);
        }
    }
}

fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.starts_with(start))
        .collect()
}

#[test]
fn a_clean_pool_is_clean_and_untouched() {
    for (disks, has_tail) in [(1, false), (1, true), (2, false), (2, true)] {
        let (found, model) = pool_of(1, disks, has_tail);
        let files = Files::new(&format!("clean{disks}{has_tail}"), &found, model);
        let before = files.bytes();
        let (outcome, said) = files.pool(&["check"]);
        assert_eq!(outcome, Outcome::Clean, "{said}");
        let (outcome, said) = files.pool(&["check", "--repair"]);
        assert_eq!(outcome, Outcome::Clean, "{said}");
        let export = files.directory.join("export");
        let (outcome, said) = files.pool(&["check", "--export", &export.display().to_string()]);
        assert_eq!(outcome, Outcome::Clean, "{said}");
        assert_eq!(files.differing(&export), 0);
        let (outcome, said) = files.pool(&["dump"]);
        assert_eq!(outcome, Outcome::Clean, "{said}");
        assert_eq!(lines(&said, "object ").len(), files.model.volumes.len());
        assert_eq!(files.bytes(), before, "nothing was written");
    }
}

/// Each block of metadata in turn: what is wrong is named once, repaired from its other copy, and then gone.
#[test]
fn a_bad_copy_is_named_once_and_repaired() {
    let (disks, model) = pool_of(2, 2, true);
    let places = Image::new(&disks).places().to_vec();
    let files = Files::new("copies", &disks, model);
    let before = files.bytes();
    let mut seen = std::collections::BTreeSet::new();
    for (disk, block) in places.into_iter().step_by(3) {
        let block = block as usize;
        files.change(disk, block, |bytes| bytes[40] ^= 1);
        let (outcome, said) = files.pool(&["check", "--quick"]);
        let faults: Vec<String> = lines(&said, "fault: ")
            .iter()
            .map(|s| (*s).to_owned())
            .collect();
        assert!(faults.len() <= 1, "one block, {faults:?}");
        if let Some(fault) = faults.first() {
            assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
            seen.insert(
                fault
                    .split([' ', ':'])
                    .nth(2)
                    .unwrap_or_default()
                    .to_owned(),
            );
            let (outcome, said) = files.pool(&["check", "--repair"]);
            assert_eq!(outcome, Outcome::Repaired, "{said}");
            assert_eq!(lines(&said, "repaired: ").len(), 1, "{said}");
            assert_eq!(files.bytes(), before, "as it was");
        } else {
            // An older root, an older bitmap: nobody needs it.
            assert_eq!(outcome, Outcome::Clean, "{said}");
            files.change(disk, block, |bytes| bytes[40] ^= 1);
        }
    }
    assert!(seen.len() >= 5, "kinds of faults: {seen:?}");
}

#[test]
fn rot_is_named_and_left_alone() {
    let (disks, model) = pool_of(3, 1, false);
    let cell = (0..)
        .find(|block| model.volumes[&1].cells[*block].entries[0].value != [0; 8])
        .expect("something is written");
    let value = model.volumes[&1].cells[cell].entries[0].value;
    let image = Image::new(&disks);
    let mut all = 0..disks[0].blocks() as usize;
    let place = all
        .position(|block| value_of(&image.block((0, block as u64))) == value)
        .expect("it lies somewhere");
    let files = Files::new("rot", &disks, model);
    files.change(0, place, |bytes| bytes[100] ^= 4);
    let before = files.bytes();
    for words in [vec!["check"], vec!["check", "--repair"]] {
        let (outcome, said) = files.pool(&words);
        assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
        let rot = lines(&said, "rot: ");
        assert_eq!(rot.len(), 1, "{said}");
        assert!(
            rot[0].contains(&format!("v1 (object 1) block {cell}")),
            "{said}"
        );
        assert_eq!(files.bytes(), before, "the only copy is not touched");
    }
    let (outcome, _) = files.pool(&["check", "--quick"]);
    assert_eq!(outcome, Outcome::Clean, "metadata is well");
    let export = files.directory.join("export");
    let (outcome, said) = files.pool(&["check", "--export", &export.display().to_string()]);
    assert_eq!(outcome, Outcome::FaultsLeft);
    assert!(said.contains("1 blocks missing"), "{said}");
    let users = rot_users(&said);
    assert!(files.differing(&export) <= users, "no more than the block");
}

fn rot_users(said: &str) -> usize {
    lines(said, "rot: ")[0].matches("object").count()
}

#[test]
fn wrong_bitmaps_are_rebuilt() {
    let (mut disks, model) = pool_of(4, 1, false);
    let places = Image::new(&disks).places().to_vec();
    let mut leaks = 0;
    for (disk, block) in places {
        let mut image = Image::new(&disks);
        let bytes = image.block((disk, block));
        if &bytes[4..8] != b"BMP1" {
            continue;
        }
        // Sets a bit, and all checks up to the root.
        image.set(
            (disk, block),
            44,
            [bytes[44], bytes[45], bytes[46] | 1 << 3, bytes[47]],
        );
        image.reseal((disk, block), 0);
        let files = Files::new(&format!("bitmap{block}"), &image.disks, model.clone());
        let (outcome, said) = files.pool(&["check"]);
        if lines(&said, "fault: blocks ").is_empty() {
            continue;
        }
        leaks += 1;
        assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
        let (outcome, said) = files.pool(&["check", "--repair"]);
        assert_eq!(outcome, Outcome::Repaired, "{said}");
        let (outcome, said) = files.pool(&["check"]);
        assert_eq!(outcome, Outcome::Clean, "{said}");
        let export = files.directory.join("export");
        files.pool(&["check", "--export", &export.display().to_string()]);
        assert_eq!(files.differing(&export), 0);
    }
    assert!(leaks > 0, "no bitmap that counts was found");
    disks.clear();
}

/// Both copies of every bitmap are gone: what is in use is known from the maps.
#[test]
fn lost_bitmaps_are_rebuilt_and_lost_trees_are_not_hidden() {
    let (disks, model) = pool_of(5, 1, true);
    let image = Image::new(&disks);
    let files = Files::new("lost", &disks, model);
    for (disk, block) in image.places() {
        if &image.block((*disk, *block))[4..8] == b"BMP1" {
            files.change(*disk, *block as usize, |bytes| bytes.fill(0xEE));
        }
    }
    let (outcome, said) = files.pool(&["check"]);
    assert_eq!(outcome, Outcome::FaultsLeft);
    assert!(said.contains("every copy is bad"), "{said}");
    let (outcome, said) = files.pool(&["check", "--repair"]);
    assert_eq!(outcome, Outcome::Repaired, "{said}");
    let (outcome, said) = files.pool(&["check"]);
    assert_eq!(outcome, Outcome::Clean, "{said}");
    let export = files.directory.join("export");
    files.pool(&["check", "--export", &export.display().to_string()]);
    assert_eq!(files.differing(&export), 0);

    for (disk, block) in image.places() {
        if &image.block((*disk, *block))[4..8] == b"NOD1" {
            files.change(*disk, *block as usize, |bytes| bytes.fill(0xEE));
        }
    }
    let before = files.bytes();
    let (outcome, said) = files.pool(&["check", "--repair"]);
    assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
    assert!(said.contains("both copies are bad"), "{said}");
    assert_eq!(
        files.bytes(),
        before,
        "nothing is freed that a lost tree may use"
    );
}

#[test]
fn what_cannot_be_opened_says_so() {
    let (disks, model) = pool_of(6, 2, false);
    let files = Files::new("not", &disks, model);
    let (outcome, said) = files.pool_on(&["check"], &files.disks[..1]);
    assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
    assert!(said.contains("disk 1 of the pool is missing"), "{said}");
    let before = files.bytes();
    let (outcome, said) = files.pool_on(&["check", "--repair"], &files.disks[..1]);
    assert_eq!(outcome, Outcome::FaultsLeft, "{said}");
    assert_eq!(files.bytes(), before);
    let blank = files.directory.join("blank");
    fs::write(&blank, vec![0; 1 << 20]).expect("a file");
    let (outcome, _) = files.pool_on(&["check"], &[blank]);
    assert_eq!(outcome, Outcome::NotOpened);
    let (outcome, _) = files.pool_on(&["check"], &[files.directory.join("none")]);
    assert_eq!(outcome, Outcome::NotOpened);
    let (outcome, _) = files.pool(&["mend"]);
    assert_eq!(outcome, Outcome::Usage);
    let held = fs::File::open(&files.disks[0]).expect("the image");
    held.lock().expect("a lock");
    let (outcome, said) = files.pool(&["check"]);
    assert_eq!(outcome, Outcome::NotOpened);
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn a_dump_says_which_disk_leaves_and_who_holds_them() {
    let (disks, model) = pool_of(8, 2, false);
    let mut world = World::open(disks, model, 1, Mutation::None);
    world.claim(77);
    world.wait_open().expect("opens");
    world.evacuate(0);
    world.settle();
    assert_eq!(world.wrong, None);
    let left = world.pool.leaving()[0].slabs;
    let files = Files::new("leaving", &world.disks, world.model);
    let (outcome, said) = files.pool(&["dump"]);
    assert_eq!(outcome, Outcome::Clean, "{said}");
    let line = format!("disk 0 is leaving: {left} slabs left to move");
    assert!(said.contains(&line), "{said}");
    assert!(said.contains("claim: process 77 on host c1c1"), "{said}");
    let (outcome, said) = files.pool(&["check"]);
    assert_eq!(outcome, Outcome::Clean, "{said}");
}
