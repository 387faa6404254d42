//! Copy-on-write trees of maps and dead lists: looking up, and merging changes in.
//!
//! Does not read: a node that is not in memory is a [`Miss`], and the caller comes back when it is. Merging needs every node it touches in
//! memory first ([`Merge::missing`]), and cannot fail after.

use std::collections::BTreeMap;
use std::rc::Rc;

use pool_format::{Extent, INNER_MAX, Inner, LEAF_MAX, Node, NodeBody, NodePtr, Uuid};

use crate::overlay::{Change, Placed};

/// A node that has to be read first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Miss(pub(crate) NodePtr);

/// Nodes in memory, least recently used out first.
pub(crate) struct NodeCache {
    nodes: BTreeMap<u64, (Rc<Node>, u32, u64)>,
    by_use: BTreeMap<u64, u64>,
    tick: u64,
    most: usize,
}

impl NodeCache {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            nodes: BTreeMap::new(),
            by_use: BTreeMap::new(),
            tick: 0,
            most: most.max(16),
        }
    }

    pub(crate) fn find(&mut self, pointer: &NodePtr) -> Option<Rc<Node>> {
        let (node, crc, used) = self.nodes.get_mut(&pointer.address)?;
        if *crc != pointer.crc {
            return None;
        }
        self.by_use.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.by_use.insert(self.tick, pointer.address);
        Some(Rc::clone(node))
    }

    pub(crate) fn insert(&mut self, pointer: &NodePtr, node: Rc<Node>) {
        self.forget(pointer.address);
        self.tick += 1;
        self.by_use.insert(self.tick, pointer.address);
        self.nodes
            .insert(pointer.address, (node, pointer.crc, self.tick));
        while self.nodes.len() > self.most {
            let Some((_, address)) = self.by_use.pop_first() else {
                break;
            };
            self.nodes.remove(&address);
        }
    }

    pub(crate) fn forget(&mut self, address: u64) {
        if let Some((_, _, used)) = self.nodes.remove(&address) {
            self.by_use.remove(&used);
        }
    }
}

/// The run of keys from `key` on, at most `max`: where they lie, or that they lie nowhere.
pub(crate) fn find(
    cache: &mut NodeCache,
    root: Option<NodePtr>,
    key: u64,
    max: u64,
) -> Result<(u64, Option<Placed>), Miss> {
    let Some(mut pointer) = root else {
        return Ok((max, None));
    };
    let mut max = max;
    loop {
        let node = cache.find(&pointer).ok_or(Miss(pointer))?;
        match &node.body {
            NodeBody::Inner(entries) => {
                let at = child_of(entries, key);
                if let Some(next) = entries.get(at + 1) {
                    max = max.min(next.key - key);
                }
                pointer = entries[at].child;
            }
            NodeBody::Leaf(entries) => return Ok(find_in_leaf(entries, key, max)),
        }
    }
}

fn child_of(entries: &[Inner], key: u64) -> usize {
    entries
        .partition_point(|entry| entry.key <= key)
        .saturating_sub(1)
}

fn find_in_leaf(entries: &[Extent], key: u64, max: u64) -> (u64, Option<Placed>) {
    let next = entries.partition_point(|entry| entry.key <= key);
    if let Some(entry) = next.checked_sub(1).map(|at| &entries[at]) {
        let skip = key - entry.key;
        if skip < u64::from(entry.len) {
            let len = (u64::from(entry.len) - skip).min(max);
            return (len, Some((entry.address + skip, entry.birth)));
        }
    }
    let len = entries
        .get(next)
        .map_or(max, |entry| max.min(entry.key - key));
    (len, None)
}

/// A merge of changes into one tree.
pub(crate) struct Merge<'a> {
    /// Id of the map, written into its nodes.
    pub(crate) map: u64,
    /// Birth of nodes written.
    pub(crate) birth: u64,
    /// Nodes the merge may touch.
    pub(crate) loaded: &'a BTreeMap<u64, Rc<Node>>,
    /// Nodes written by this merge so far.
    pub(crate) dirty: &'a mut BTreeMap<u64, Node>,
    /// Free addresses.
    pub(crate) spare: &'a mut Vec<u64>,
    /// Nodes of the old tree that the new one does not use.
    pub(crate) displaced: &'a mut Vec<NodePtr>,
}

/// Nodes under `root` that `changes` touch and `have` does not know; the number touched, when it knows all.
pub(crate) fn touched(
    root: Option<NodePtr>,
    changes: &[Change],
    have: &mut dyn FnMut(&NodePtr) -> Option<Rc<Node>>,
) -> Result<usize, Miss> {
    let Some(root) = root else {
        return Ok(0);
    };
    let node = have(&root).ok_or(Miss(root))?;
    let mut count = 1;
    if let NodeBody::Inner(entries) = &node.body {
        for (at, entry) in entries.iter().enumerate() {
            let part = clip(changes, range_of(entries, at, (0, u64::MAX)));
            if !part.is_empty() {
                count += touched(Some(entry.child), &part, have)?;
            }
        }
    }
    Ok(count)
}

fn range_of(entries: &[Inner], at: usize, (low, high): (u64, u64)) -> (u64, u64) {
    let low = if at == 0 { low } else { entries[at].key };
    let high = entries.get(at + 1).map_or(high, |next| next.key);
    (low, high)
}

/// The parts of `changes` with keys from `low` to below `high`.
fn clip(changes: &[Change], (low, high): (u64, u64)) -> Vec<Change> {
    let first = changes.partition_point(|change| change.key + change.len <= low);
    let mut part = Vec::new();
    for change in &changes[first..] {
        if change.key >= high {
            break;
        }
        let start = change.key.max(low);
        let end = (change.key + change.len).min(high);
        let skip = start - change.key;
        part.push(Change {
            key: start,
            len: end - start,
            value: change.value.map(|(address, birth)| (address + skip, birth)),
        });
    }
    part
}

impl Merge<'_> {
    /// The root after `changes`, which are ascending and do not overlap.
    ///
    /// # Panics
    /// When a node that [`touched`] counts is not in `loaded`, or `spare` is too short.
    pub(crate) fn apply(&mut self, root: Option<NodePtr>, changes: &[Change]) -> Option<NodePtr> {
        let mut level = 0;
        let mut entries = match root {
            Some(root) => {
                level = root.height - 1;
                self.modify(root, (0, u64::MAX), changes)
            }
            None => self.write_leaves(merge_leaf(&[], changes), None),
        };
        while entries.len() > 1 {
            level += 1;
            entries = self.write_inner(level, entries, None);
        }
        entries.pop().map(|entry| entry.child)
    }

    fn modify(&mut self, pointer: NodePtr, range: (u64, u64), changes: &[Change]) -> Vec<Inner> {
        let (node, address) = match self.dirty.remove(&pointer.address) {
            Some(node) => (node, Some(pointer.address)),
            None => {
                self.displaced.push(pointer);
                let node = self.loaded.get(&pointer.address);
                (Node::clone(node.expect("loaded before merging")), None)
            }
        };
        match node.body {
            NodeBody::Leaf(entries) => self.write_leaves(merge_leaf(&entries, changes), address),
            NodeBody::Inner(entries) => {
                let mut children = Vec::new();
                for (at, entry) in entries.iter().enumerate() {
                    let range = range_of(&entries, at, range);
                    let part = clip(changes, range);
                    if part.is_empty() {
                        children.push(*entry);
                        continue;
                    }
                    let mut new = self.modify(entry.child, range, &part);
                    if let Some(first) = new.first_mut() {
                        first.key = entry.key;
                    }
                    children.append(&mut new);
                }
                self.write_inner(node.level, children, address)
            }
        }
    }

    fn place(&mut self, address: &mut Option<u64>) -> u64 {
        address
            .take()
            .or_else(|| self.spare.pop())
            .expect("enough addresses were set aside")
    }

    fn write(&mut self, level: u8, body: NodeBody, address: u64) -> NodePtr {
        let node = Node {
            map: self.map,
            birth: self.birth,
            level,
            body,
        };
        self.dirty.insert(address, node);
        NodePtr {
            address,
            birth: self.birth,
            crc: 0,
            height: level + 1,
        }
    }

    fn write_leaves(&mut self, entries: Vec<Extent>, mut address: Option<u64>) -> Vec<Inner> {
        let mut written = Vec::new();
        for piece in pieces(&entries, LEAF_MAX) {
            let place = self.place(&mut address);
            let child = self.write(0, NodeBody::Leaf(piece.to_vec()), place);
            written.push(Inner {
                key: piece[0].key,
                child,
            });
        }
        self.spare.extend(address);
        written
    }

    fn write_inner(
        &mut self,
        level: u8,
        children: Vec<Inner>,
        mut address: Option<u64>,
    ) -> Vec<Inner> {
        let mut written = Vec::new();
        for piece in pieces(&children, INNER_MAX) {
            let place = self.place(&mut address);
            let child = self.write(level, NodeBody::Inner(piece.to_vec()), place);
            written.push(Inner {
                key: piece[0].key,
                child,
            });
        }
        self.spare.extend(address);
        written
    }
}

/// Cuts `entries` into as few pieces of at most `most` as possible, of even length.
fn pieces<T>(entries: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    let count = entries.len().div_ceil(most).max(1);
    entries.chunks(entries.len().div_ceil(count).max(1))
}

/// `entries` of a leaf after `changes`.
fn merge_leaf(entries: &[Extent], changes: &[Change]) -> Vec<Extent> {
    let mut parts: Vec<Change> = Vec::with_capacity(entries.len() + 2 * changes.len());
    let mut low = 0;
    for change in changes {
        push_kept(&mut parts, entries, (low, change.key));
        if change.value.is_some() {
            parts.push(*change);
        }
        low = change.key + change.len;
    }
    push_kept(&mut parts, entries, (low, u64::MAX));
    join(&parts)
}

fn push_kept(parts: &mut Vec<Change>, entries: &[Extent], (low, high): (u64, u64)) {
    let first = entries.partition_point(|entry| entry.key + u64::from(entry.len) <= low);
    for entry in &entries[first..] {
        if entry.key >= high {
            break;
        }
        let start = entry.key.max(low);
        let end = (entry.key + u64::from(entry.len)).min(high);
        parts.push(Change {
            key: start,
            len: end - start,
            value: Some((entry.address + (start - entry.key), entry.birth)),
        });
    }
}

/// Joins what continues its neighbour and cuts to the longest extent.
fn join(parts: &[Change]) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(parts.len());
    for part in parts {
        let Some((mut address, birth)) = part.value else {
            continue;
        };
        let (mut key, mut left) = (part.key, part.len);
        if let Some(last) = joined.last_mut() {
            let len = u64::from(last.len);
            if last.key + len == key && last.address + len == address && last.birth == birth {
                let more = left.min(u64::from(u16::MAX) - len);
                last.len += more as u16;
                (key, address, left) = (key + more, address + more, left - more);
            }
        }
        while left > 0 {
            let len = left.min(u64::from(u16::MAX));
            joined.push(Extent {
                key,
                len: len as u16,
                address,
                birth,
            });
            (key, address, left) = (key + len, address + len, left - len);
        }
    }
    joined
}

/// Emits the dirty nodes under `root`, children first, so that pointers carry their checks. Answers the root with its check.
pub(crate) fn finish(
    root: NodePtr,
    dirty: &mut BTreeMap<u64, Node>,
    (uuid, checkpoint): (&Uuid, u64),
    emitted: &mut Vec<(NodePtr, Rc<Node>, Vec<u8>)>,
) -> NodePtr {
    let Some(mut node) = dirty.remove(&root.address) else {
        return root;
    };
    if let NodeBody::Inner(entries) = &mut node.body {
        for entry in entries {
            entry.child = finish(entry.child, dirty, (uuid, checkpoint), emitted);
        }
    }
    let (bytes, crc) = node.emit(uuid, root.address, checkpoint);
    let pointer = NodePtr { crc, ..root };
    emitted.push((pointer, Rc::new(node), bytes));
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_merges_agree_with_an_array() {
        let mut state = 3_u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(11);
            (state >> 33) % below
        };
        let mut nodes = BTreeMap::new();
        let mut root = None;
        let mut plain: Vec<Option<Placed>> = vec![None; 4000];
        let mut next = 10_u64;
        for round in 1..60 {
            let mut overlay = crate::overlay::Overlay::default();
            for _ in 0..100 {
                let key = random(3990);
                let most = if random(20) == 0 { 4000 - key } else { 9 };
                let len = 1 + random(most).min(4000 - key - 1);
                let value = (random(4) > 0).then(|| (random(1 << 30) * 100, round));
                overlay.insert(1, key, len, value, 0);
                for i in 0..len {
                    plain[(key + i) as usize] = value.map(|(a, b)| (a + i, b));
                }
            }
            let changes = overlay.changes(1);
            let mut spare: Vec<u64> = (next..next + 200).collect();
            next += 200;
            let (mut dirty, mut displaced) = (BTreeMap::new(), Vec::new());
            let mut merge = Merge {
                map: 1,
                birth: round,
                loaded: &nodes,
                dirty: &mut dirty,
                spare: &mut spare,
                displaced: &mut displaced,
            };
            root = merge.apply(root, &changes);
            let mut emitted = Vec::new();
            root = root.map(|root| finish(root, &mut dirty, (&[0; 16], round), &mut emitted));
            assert!(dirty.is_empty(), "every node written is reachable");
            for pointer in displaced {
                nodes.remove(&pointer.address);
            }
            let mut cache = NodeCache::new(10_000);
            for (pointer, node, bytes) in emitted {
                assert_eq!(Node::parse(&bytes, &[0; 16], &pointer).as_ref(), Ok(&*node));
                nodes.insert(pointer.address, node);
            }
            load_all(&mut cache, &nodes, root);
            for (key, expected) in plain.iter().enumerate() {
                let found = find(&mut cache, root, key as u64, 1).expect("all in memory");
                assert_eq!(found.1, *expected, "key {key} in round {round}");
            }
        }
        assert!(root.is_some_and(|root| root.height > 1));
    }

    fn load_all(cache: &mut NodeCache, nodes: &BTreeMap<u64, Rc<Node>>, root: Option<NodePtr>) {
        let Some(root) = root else { return };
        let node = &nodes[&root.address];
        cache.insert(&root, Rc::clone(node));
        if let NodeBody::Inner(entries) = &node.body {
            for entry in entries {
                load_all(cache, nodes, Some(entry.child));
            }
        }
    }
}
