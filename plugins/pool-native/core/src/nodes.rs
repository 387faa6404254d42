//! Tree nodes and bitmaps: reading them from either copy.

use std::rc::Rc;

use pool_format::{Bitmap, Node, NodePtr, SlabKind, SlabRecord};

use crate::api::{Done, DoneResult, Source, Target};
use crate::device::Purpose;
use crate::pool::{Pool, Wait};

impl Pool {
    /// Asks for a node that is not in memory, once.
    pub(crate) fn load_node(&mut self, pointer: NodePtr) -> Wait {
        if self.loading_nodes.insert(pointer.address) {
            self.read_node(pointer, 0);
        }
        Wait::Node(pointer.address)
    }

    fn read_node(&mut self, pointer: NodePtr, copy: usize) {
        let slab = self.space.geometry.slab_of(pointer.address);
        let is_meta = self
            .space
            .slabs
            .get(slab as usize)
            .is_some_and(|slab| slab.kind == SlabKind::Meta);
        match self.space.locate(pointer.address, copy).filter(|_| is_meta) {
            Some(place) => {
                self.devices
                    .read(place, 1, Target::Core, Purpose::Node { pointer, copy })
            }
            None => self.node_lost(pointer),
        }
    }

    fn node_lost(&mut self, pointer: NodePtr) {
        self.loading_nodes.remove(&pointer.address);
        self.lost_nodes.insert(pointer.address);
        self.wake(Wait::Node(pointer.address));
    }

    pub(crate) fn handle_node(&mut self, pointer: NodePtr, copy: usize, result: DoneResult) {
        let bytes = match result {
            Ok(Done::Bytes(bytes)) => bytes,
            Ok(Done::Nothing | Done::Crcs(_) | Done::Merged { .. }) | Err(_) => Vec::new(),
        };
        match Node::parse(&bytes, &self.uuid, &pointer) {
            Ok(node) => {
                if copy == 1
                    && !self.is_read_only()
                    && let Some(place) = self.space.locate(pointer.address, 0)
                {
                    self.devices
                        .write(place, Source::Core(bytes), Purpose::Repair);
                }
                self.loading_nodes.remove(&pointer.address);
                self.nodes.insert(&pointer, Rc::new(node));
                self.wake(Wait::Node(pointer.address));
            }
            Err(_) if copy == 0 => self.read_node(pointer, 1),
            Err(_) => self.node_lost(pointer),
        }
    }

    /// Asks for the bitmap of a slab that is not in memory, once.
    pub(crate) fn load_bitmap(&mut self, slab: u32) -> Wait {
        let record = self.space.slabs[slab as usize];
        if record.bitmap_crc == 0 {
            let empty = Bitmap::new(self.space.geometry.slab_blocks);
            self.space.load(slab, empty);
            return Wait::Now;
        }
        if self.loading_bitmaps.insert(slab) {
            self.read_bitmap(slab, 0);
        }
        Wait::Bitmap(slab)
    }

    fn read_bitmap(&mut self, slab: u32, copy: u32) {
        let version = u32::from(self.space.slabs[slab as usize].bitmap_version);
        let offset = self.space.geometry.bitmap(version, copy);
        let address = self.space.geometry.address(slab, offset);
        match self.space.locate(address, 0) {
            Some(place) => {
                self.devices
                    .read(place, 1, Target::Core, Purpose::Bitmap { slab, copy })
            }
            None => self.fault(),
        }
    }

    pub(crate) fn handle_bitmap(&mut self, slab: u32, copy: u32, result: DoneResult) {
        let record = self.space.slabs[slab as usize];
        let bytes = match result {
            Ok(Done::Bytes(bytes)) => bytes,
            Ok(Done::Nothing | Done::Crcs(_) | Done::Merged { .. }) | Err(_) => Vec::new(),
        };
        let names = (slab, record.generation, record.bitmap_crc);
        match Bitmap::parse(&bytes, &self.uuid, names, self.space.geometry.slab_blocks) {
            Ok(bitmap) => {
                self.loading_bitmaps.remove(&slab);
                self.space.load(slab, bitmap);
                self.wake(Wait::Bitmap(slab));
            }
            Err(_) if copy == 0 => self.read_bitmap(slab, 1),
            Err(_) => self.bitmap_lost(slab),
        }
    }

    /// What is in use in the slab is known from the maps alone: nothing of it is given away any more, until a repair rebuilds the bitmap.
    fn bitmap_lost(&mut self, slab: u32) {
        let mut all = Bitmap::new(self.space.geometry.slab_blocks);
        for block in 0..self.space.geometry.slab_blocks {
            all.set(block, true);
        }
        self.loading_bitmaps.remove(&slab);
        self.lost_bitmaps.insert(slab);
        self.space.load(slab, all);
        let record = self.space.slabs[slab as usize];
        self.space.set_slab(slab, SlabRecord { free: 0, ..record });
        self.wake(Wait::Bitmap(slab));
    }
}
