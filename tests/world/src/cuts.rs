//! Cuts over subsets: what is durable after a cut is any part of what was not flushed, and each part is looked at.
//!
//! All subsets while few blocks are volatile; above, none, all, each one alone, each one missing, and samples. What was looked at is
//! remembered: the same image with the same knowledge of the host is not looked at again.

use std::collections::HashSet;

use pool_core::Mutation;

use crate::disk::Keep;
use crate::model::Model;
use crate::play::verify;
use crate::rng::Rng;
use crate::world::{World, new_disks};

/// Samples where not all subsets are looked at.
const SAMPLES: u64 = 12;

/// What is durable, by disk and write, and what the host knew.
type Seen = (Vec<u64>, Vec<u64>, u64);

/// Looks at cuts.
pub struct Explorer {
    /// Most volatile blocks of which every subset is looked at.
    pub all_up_to: usize,
    /// The bug to look with.
    pub mutation: Mutation,
    /// Cuts looked at.
    pub cuts: u64,
    /// Moments at which every subset was looked at, by the number of volatile blocks.
    pub in_full: Vec<u64>,
    seen: HashSet<Seen>,
    rng: Rng,
}

impl Explorer {
    /// One that has seen nothing.
    pub fn new(all_up_to: usize, seed: u64, mutation: Mutation) -> Self {
        Self {
            all_up_to,
            mutation,
            cuts: 0,
            in_full: vec![0; all_up_to + 1],
            seen: HashSet::new(),
            rng: Rng::new(seed),
        }
    }

    /// Looks at the cuts possible at this moment.
    ///
    /// # Errors
    /// What is wrong after one of them.
    pub fn cut_here(&mut self, world: &World) -> Result<(), String> {
        let volatile: Vec<Vec<u64>> = world.disks.iter().map(|disk| disk.volatile()).collect();
        let count: usize = volatile.iter().map(Vec::len).sum();
        if count <= self.all_up_to {
            self.in_full[count] += 1;
            for subset in 0..1_u64 << count {
                self.look(world, &volatile, &|at| subset >> at & 1 != 0)?;
            }
            return Ok(());
        }
        self.look(world, &volatile, &|_| false)?;
        self.look(world, &volatile, &|_| true)?;
        for one in 0..count {
            self.look(world, &volatile, &|at| at == one)?;
            self.look(world, &volatile, &|at| at != one)?;
        }
        for _ in 0..SAMPLES {
            let bits: Vec<bool> = (0..count).map(|_| self.rng.below(2) == 0).collect();
            self.look(world, &volatile, &|at| bits[at])?;
        }
        Ok(())
    }

    fn look(
        &mut self,
        world: &World,
        volatile: &[Vec<u64>],
        keeps: &dyn Fn(usize) -> bool,
    ) -> Result<(), String> {
        let all = volatile.iter().enumerate();
        let all = all.flat_map(|(disk, ids)| ids.iter().map(move |id| (disk as u64) << 48 | id));
        let kept: Vec<u64> = all
            .enumerate()
            .filter(|(at, _)| keeps(*at))
            .map(|(_, id)| id)
            .collect();
        let versions = world.disks.iter().map(|disk| disk.version).collect();
        let key = (versions, kept, world.changes);
        if !self.seen.insert(key.clone()) {
            return Ok(());
        }
        self.cuts += 1;
        let disks = world.cut(&mut |disk, index| {
            let at: usize = volatile[..disk].iter().map(Vec::len).sum::<usize>() + index;
            if keeps(at) { Keep::All } else { Keep::None }
        });
        let to_the_end = self.rng.below(16) == 0;
        verify(
            disks,
            world.model.clone(),
            self.rng.number(),
            self.mutation,
            to_the_end,
        )
        .map_err(|what| {
            format!(
                "after {} writes, of {volatile:?} only {:?} kept: {what}",
                world.writes_done, key.1
            )
        })
    }

    /// Lets the disks finish everything, and looks at the cuts after each request.
    ///
    /// # Errors
    /// As [`Explorer::cut_here`], or what the world found wrong.
    pub fn finish(&mut self, world: &mut World) -> Result<(), String> {
        for _ in 0..4000 {
            if !world.finish_one() {
                return Ok(());
            }
            self.cut_here(world)?;
            if let Some(wrong) = &world.wrong {
                return Err(wrong.clone());
            }
        }
        Err("the disks never finish".to_owned())
    }
}

/// Something a script does.
pub type Step = (&'static str, fn(&mut World));

/// Runs `script` on a new pool of `disks` disks, cut at every moment; each step comes to rest before the next.
///
/// # Errors
/// The step and what was wrong.
pub fn run(script: &[Step], disks: u64, explorer: &mut Explorer) -> Result<(), String> {
    let sizes = vec![950; disks as usize];
    let mut devices = new_disks(&sizes, 512, 48);
    devices.iter_mut().for_each(|disk| disk.discards = true);
    let mut world = World::open(devices, Model::default(), disks, explorer.mutation);
    world.wait_open().map_err(|error| error.to_string())?;
    for (name, step) in script {
        step(&mut world);
        let mut act = || -> Result<(), String> {
            explorer.finish(&mut world)?;
            for _ in 0..4 {
                world.pass(1100);
                explorer.finish(&mut world)?;
            }
            Ok(())
        };
        act().map_err(|what| format!("{disks} disks, {name}: {what}"))?;
        if world.outstanding() > 0 {
            return Err(format!("{disks} disks, {name}: not answered"));
        }
    }
    world.check_space();
    world.wrong.map_or(Ok(()), Err)
}

/// Every operation that changes metadata.
pub const METADATA: &[Step] = &[
    ("create", |world| world.create(30)),
    ("write", |world| world.write(1, 0, 9, false)),
    ("flush", World::flush),
    ("overwrite before settling", |world| {
        world.write(1, 4, 3, true)
    }),
    ("checkpoint", World::ask_checkpoint),
    ("overwrite in place", |world| world.write(1, 2, 4, true)),
    ("write parts", |world| {
        world.write_part(1, 2, (3, 2), true);
        world.write_part(1, 20, (0, 1), true);
    }),
    ("seal", World::ask_seal),
    ("overwrite a sealed region", |world| {
        world.write(1, 1, 2, true)
    }),
    ("snapshot", |world| world.copy(1)),
    ("overwrite after a snapshot", |world| {
        world.write(1, 0, 5, true)
    }),
    ("checkpoint after a snapshot", World::ask_checkpoint),
    ("clone", |world| world.copy(2)),
    ("write to the clone", |world| world.write(3, 3, 3, true)),
    ("discard", |world| world.unmap(1, 0, 3)),
    ("shrink", |world| world.resize(1, 8)),
    ("delete the clone", |world| world.delete(3)),
    ("delete the snapshot", |world| world.delete(2)),
    ("create a thick one", |world| world.create_as(12, true)),
    ("write to it", |world| world.write(4, 0, 12, true)),
    ("its snapshot", |world| world.copy(4)),
    ("overwrite it", |world| world.write(4, 3, 6, true)),
    ("grow it", |world| world.resize(4, 20)),
    ("discard a part of it", |world| world.unmap(4, 0, 5)),
    ("delete it", |world| world.delete(4)),
    ("scrub", World::ask_scrub),
    ("grow a disk", |world| world.grow_disk(0, 150)),
    ("add a disk", |world| world.add_disk(500)),
    ("create in the new room", |world| world.create(200)),
    ("write to it", |world| world.write(6, 0, 30, true)),
    ("double metadata", World::double),
    ("empty the new disk", evacuate_last),
    ("write to what is moved", |world| {
        evacuate_last(world);
        world.write(6, 10, 30, true);
        world.write(6, 0, 10, false);
    }),
    ("take it back", |world| {
        world.keep_disk(world.pool.disks().len() - 1)
    }),
    ("empty it again", evacuate_last),
    ("empty it on", evacuate_last),
    ("empty it on and on", evacuate_last),
    ("empty it further", evacuate_last),
    ("remove it", |world| {
        world.remove_disk(world.pool.disks().len() - 1)
    }),
];

fn evacuate_last(world: &mut World) {
    world.evacuate(world.pool.disks().len() - 1);
}
