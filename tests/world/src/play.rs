//! Random lives of a pool: operations, a cut, opening again, comparing, and on.

use std::fmt;

use pool_core::{Mutation, Status, check};

use crate::disk::Keep;
use crate::model::Model;
use crate::rng::Rng;
use crate::world::{Reader, World, new_disks};

/// How long and how hard to play.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Cuts in a row.
    pub lives: u64,
    /// Events between cuts, at most.
    pub events: u64,
    /// Chance in a thousand, at each write that completes, of looking at a cut right there on the side.
    pub side_cuts: u64,
    /// Disks.
    pub disks: u64,
    /// Chance in a thousand that a flush or a write of metadata fails.
    pub errors: u64,
    /// Chance in a thousand that a request gets stuck for a while.
    pub stuck: u64,
    /// Which operations are played: 1 as first, 2 with thick replicas, parts of blocks, and discards passed on, 3 with scrubs and growth, 4 with disks
    /// that leave, doubled metadata, claims and crowded pools.
    pub mix: u64,
    /// The bug to play with.
    pub mutation: Mutation,
    /// Whether to keep what happened since the last cut, for the report.
    pub trace: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            lives: 3,
            events: 400,
            side_cuts: 20,
            disks: 1,
            errors: 0,
            stuck: 0,
            mix: 4,
            mutation: Mutation::None,
            trace: false,
        }
    }
}

/// A failure, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The plan.
    pub plan: Plan,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            lives,
            events,
            side_cuts,
            disks,
            errors,
            stuck,
            mix,
            mutation,
            ..
        } = self.plan;
        write!(
            f,
            "cargo run -p world -- play --seed {} --lives {lives} --events {events} --side-cuts {side_cuts} --disks {disks} --errors {errors} --stuck {stuck} --mix {mix} --mutation {mutation:?}: {}",
            self.seed, self.what
        )
    }
}

/// What was played.
#[derive(Clone, Copy, Debug, Default)]
pub struct Played {
    /// Cuts compared with the model.
    pub cuts: u64,
    /// Device writes completed.
    pub writes: u64,
    /// Operations answered with an expected error.
    pub refused: u64,
}

/// Plays `seed`.
///
/// # Errors
/// The first thing found wrong.
pub fn play(seed: u64, plan: Plan) -> Result<Played, Failure> {
    let mut rng = Rng::new(seed);
    let mut played = Played::default();
    let atomic_unit = if rng.below(2) == 0 { 512 } else { 4096 };
    let is_crowded = plan.mix > 3 && rng.below(3) == 0;
    let (least, more) = if is_crowded { (620, 150) } else { (680, 600) };
    let sizes: Vec<u64> = (0..plan.disks).map(|_| least + rng.below(more)).collect();
    let journal_blocks = [18, 26, 48][rng.below(3) as usize];
    let mut disks = new_disks(&sizes, atomic_unit, journal_blocks);
    if plan.mix > 1 {
        for disk in &mut disks {
            disk.discards = rng.below(2) == 0;
        }
    }
    let mut model = Model::default();
    let failure = |what: String| Failure {
        seed,
        plan,
        what: what.trim_start().to_owned(),
    };
    let mut last = String::new();
    for _ in 0..plan.lives {
        let mut world = World::open(disks, model, rng.number(), plan.mutation);
        if plan.mix > 3 {
            if rng.below(3) == 0 {
                world.claim(rng.number() as u32 | 1);
            }
            world.is_crowded = is_crowded;
        }
        world.trace = plan.trace.then(Vec::new);
        world
            .wait_open()
            .map_err(|error| failure(format!("does not open: {error}")))?;
        world.compare_after_cut();
        if let Some(what) = world.wrong {
            return Err(failure(format!("{last}\n{what}")));
        }
        world.errors = plan.errors;
        world.stuck = plan.stuck;
        let events = 1 + rng.below(plan.events);
        for _ in 0..events {
            let before = world.writes_done;
            event(&mut world, &mut rng, plan.mix);
            if world.wrong.is_some() || matches!(world.pool.status(), Status::Failed(_)) {
                break;
            }
            if world.writes_done != before && rng.per_mille(plan.side_cuts) {
                let aside = look_aside(&world, &mut rng, &mut played);
                aside.map_err(|what| {
                    failure(format!(
                        "{}\n{what}",
                        world.trace.clone().unwrap_or_default().join("\n")
                    ))
                })?;
            }
        }
        if let Some(wrong) = world.wrong {
            return Err(failure(format!(
                "{}\n{wrong}",
                world.trace.unwrap_or_default().join("\n")
            )));
        }
        last = world.trace.take().unwrap_or_default().join("\n");
        played.writes += world.writes_done;
        played.refused += world.refused;
        disks = cut(&world, &mut rng);
        model = world.model;
    }
    verify(disks, model, rng.number(), plan.mutation, true)
        .map_err(|what| failure(format!("{last}\n{what}")))?;
    played.cuts += plan.lives + 1;
    Ok(played)
}

/// A cut at this moment: everything, nothing, or any part of what is not durable; sometimes only the engine dies.
fn cut(world: &World, rng: &mut Rng) -> Vec<crate::disk::Disk> {
    let style = rng.below(6);
    if style == 0 {
        return world.disks.iter().map(crate::disk::Disk::killed).collect();
    }
    world.cut(&mut |_, _| match style {
        1 => Keep::None,
        2 => Keep::All,
        3 => Keep::Torn(rng.number()),
        _ => match rng.below(4) {
            0 => Keep::Torn(rng.number()),
            1 => Keep::None,
            _ => Keep::All,
        },
    })
}

/// Looks at what a cut right here would leave, without cutting.
fn look_aside(world: &World, rng: &mut Rng, played: &mut Played) -> Result<(), String> {
    played.cuts += 1;
    let (_, mutation) = world.setup();
    let disks = cut(world, rng);
    verify(
        disks,
        world.model.clone(),
        rng.number(),
        mutation,
        rng.below(3) == 0,
    )
}

/// Opens, compares, and with `to_the_end` lets everything come to rest and checks the space.
///
/// # Errors
/// What was wrong.
pub fn verify(
    disks: Vec<crate::disk::Disk>,
    model: Model,
    seed: u64,
    mutation: Mutation,
    to_the_end: bool,
) -> Result<(), String> {
    // Trees, tables and bitmaps of a root agree, whatever was going on.
    match check(&mut Reader(&disks)) {
        Ok(report) if report.is_sound() => {}
        Ok(report) => return Err(format!("after the cut: {report:?}")),
        Err(error) => return Err(format!("the check after the cut finds: {error}")),
    }
    let is_whole = !disks.iter().any(|disk| disk.is_shrunk);
    if disks.len() == 2 && is_whole && mutation == Mutation::None && seed.is_multiple_of(8) {
        let gone = (seed >> 8) as usize % 2;
        crate::faults::read_without(&disks, &model, gone, seed)
            .map_err(|what| format!("after the cut, without disk {gone}: {what}"))?;
    }
    let mut world = World::open(disks, model, seed, mutation);
    world
        .wait_open()
        .map_err(|error| format!("does not open after the cut: {error}"))?;
    world.compare_after_cut();
    if to_the_end && world.wrong.is_none() {
        world.check_space();
        if world.wrong.is_none() {
            world.compare_after_cut();
        }
    }
    world.wrong.map_or(Ok(()), Err)
}

/// One thing happens: a disk finishes something, the host wants something, or time passes.
fn event(world: &mut World, rng: &mut Rng, mix: u64) {
    let wants = rng.below(100);
    if wants < 60 && world.finish_one() {
        return;
    }
    if wants < 62 {
        world.pass(rng.below(800));
        return;
    }
    if world.outstanding() >= 12 {
        world.finish_one();
        return;
    }
    let volumes: Vec<u64> = {
        let usable = world
            .model
            .volumes
            .iter()
            .filter(|(_, volume)| volume.id.is_some() && !volume.is_going);
        usable.map(|(number, _)| *number).collect()
    };
    if volumes.is_empty() || volumes.len() < 2 && rng.per_mille(300) {
        let is_thick = mix > 1 && rng.below(if world.is_crowded { 2 } else { 4 }) == 0;
        let most = match (is_thick, world.is_crowded) {
            (true, true) => 150,
            (true, false) => 40,
            (false, true) => 400,
            (false, false) => 80,
        };
        world.create_as(10 + rng.below(most) as usize, is_thick);
        return;
    }
    let volume = volumes[rng.below(volumes.len() as u64) as usize];
    host(world, rng, (volume, volumes.len()), mix);
}

fn host(world: &mut World, rng: &mut Rng, (volume, volumes): (u64, usize), mix: u64) {
    let size = world.model.volumes[&volume].cells.len();
    let is_replica = world.model.volumes[&volume].is_replica;
    let is_resizing = world.model.volumes[&volume].other_size.is_some();
    // A few hot blocks, so that things happen to the same ones.
    let span = if rng.below(3) == 0 { size.min(6) } else { size };
    let block = rng.below(span as u64) as usize;
    let is_long = rng.below(8) == 0 || world.is_crowded && rng.below(2) == 0;
    let most = if is_long { 20 } else { 3 };
    let count = (1 + rng.below(most) as usize).min(size - block);
    if world.is_crowded && is_replica && !is_resizing && rng.below(4) == 0 {
        return world.write(volume, block, 20.min(size - block), false);
    }
    if mix > 1 && is_replica && !is_resizing && rng.below(10) == 0 {
        let first = rng.below(8) as u8;
        let sectors = (first, 1 + rng.below(8 - u64::from(first)) as u8);
        return world.write_part(volume, block, sectors, rng.per_mille(80));
    }
    if mix > 2 {
        match rng.below(60) {
            0..=3 => return world.ask_scrub(),
            4 if world.disks.len() < if mix > 3 { 5 } else { 4 } => {
                return world.add_disk(480 + rng.below(300));
            }
            5 => {
                let disks = world.pool.disks().len() as u64;
                return world.grow_disk(rng.below(disks) as usize, 5 + rng.below(200));
            }
            _ => {}
        }
    }
    if mix > 3 && world.pool.disks().len() > 1 && rng.below(12) == 0 {
        return disks(world, rng);
    }
    match rng.below(100) {
        0..=39 if is_replica && !is_resizing => {
            world.write(volume, block, count, rng.per_mille(80))
        }
        40..=59 if !is_resizing => world.read(volume, block, count),
        60..=69 if is_replica && !is_resizing => world.unmap(volume, block, count),
        70..=79 => world.flush(),
        80..=85 if volumes < 7 && !is_resizing => world.copy(volume),
        86..=88 if volumes > 2 || rng.below(4) == 0 => world.delete(volume),
        89..=91 if is_replica && !is_resizing => world.resize(volume, 5 + rng.below(90) as usize),
        92..=93 => world.ask_checkpoint(),
        94..=95 => world.ask_seal(),
        _ => world.pass(rng.below(1500)),
    }
}

/// Something is done to the disks of a pool of several: mostly one is emptied, on and on, and then removed or kept.
fn disks(world: &mut World, rng: &mut Rng) {
    let count = world.pool.disks().len() as u64;
    let leaving = world.pool.leaving();
    let disk = match leaving.first() {
        Some(leaving) if rng.below(5) > 0 => usize::from(leaving.disk),
        Some(_) | None => rng.below(count) as usize,
    };
    let is_empty = leaving
        .iter()
        .any(|leaving| usize::from(leaving.disk) == disk && leaving.slabs == 0);
    match rng.below(12) {
        0 => world.keep_disk(disk),
        1 => world.remove_disk(disk),
        2 | 3 => world.double(),
        _ if is_empty => world.remove_disk(disk),
        _ => world.evacuate(disk),
    }
}
