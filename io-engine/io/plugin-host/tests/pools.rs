//! A kind of pool through its tables: what is said on one side is heard on the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use plugin_host::PluginHost;
use sdk::block::{Device, OpenError};
use sdk::plugin::Plugin;
use sdk::pool::{
    Identity, NewVolume, Pool, PoolDriver, PoolSpec, PoolUsage, VolumeInfo, VolumeKind,
};
use sdk::services::Services;

const PLUGIN: Plugin = Plugin {
    serves: "shelf",
    pools: Some(kinds),
    ..Plugin::new("shelf", "1", "tests")
};

fn kinds() -> Vec<Box<dyn PoolDriver>> {
    vec![Box::new(Shelves)]
}

/// Pools that keep names only; their volumes are RAM disks of the engine's.
struct Shelves;

struct Shelf {
    spec: PoolSpec,
    services: Arc<dyn Services>,
    volumes: BTreeMap<Identity, VolumeInfo>,
}

fn unsuitable(what: &str, reason: String) -> OpenError {
    OpenError::Unsuitable {
        what: what.to_owned(),
        reason,
    }
}

impl PoolDriver for Shelves {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn create(
        &self,
        spec: &PoolSpec,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Pool>, OpenError> {
        if spec.disks.is_empty() {
            return Err(unsuitable(&spec.name, format!("{spec:?}")));
        }
        Ok(Box::new(Shelf {
            spec: spec.clone(),
            services: services.clone(),
            volumes: BTreeMap::new(),
        }))
    }

    fn import(&self, spec: &PoolSpec, _: &Arc<dyn Services>) -> Result<Box<dyn Pool>, OpenError> {
        assert!(spec.name != "panic", "told to panic");
        Err(OpenError::NotFound(spec.disks.join(" ")))
    }
}

impl Shelf {
    fn entry(&mut self, uuid: &Identity) -> Result<&mut VolumeInfo, OpenError> {
        let entry = self.volumes.get_mut(uuid);
        entry.ok_or_else(|| OpenError::NotFound(format!("volume {}", uuid[0])))
    }

    fn derive(
        &mut self,
        of: &Identity,
        uuid: &Identity,
        name: &str,
        kind: VolumeKind,
    ) -> Result<(), OpenError> {
        let bytes = self.entry(of)?.bytes;
        let info = VolumeInfo {
            uuid: *uuid,
            name: name.to_owned(),
            kind,
            is_thin: true,
            bytes,
            used_bytes: 0,
        };
        self.volumes.insert(*uuid, info);
        Ok(())
    }
}

impl Pool for Shelf {
    fn usage(&mut self) -> Result<PoolUsage, OpenError> {
        Ok(PoolUsage {
            disks: self.spec.disks.len() as u32,
            capacity_bytes: 1 << 40,
            used_bytes: 3,
            committed_bytes: self.volumes.values().map(|volume| volume.bytes).sum(),
            cluster_bytes: self.spec.cluster_bytes.unwrap_or(4096),
            volumes: self.volumes.len() as u64,
        })
    }

    fn volume(&mut self, index: u64) -> Option<VolumeInfo> {
        self.volumes.values().nth(index as usize).cloned()
    }

    fn create_volume(&mut self, volume: &NewVolume<'_>) -> Result<(), OpenError> {
        let info = VolumeInfo {
            uuid: volume.uuid,
            name: volume.name.to_owned(),
            kind: VolumeKind::Volume,
            is_thin: volume.is_thin,
            bytes: volume.bytes,
            used_bytes: 7,
        };
        match self.volumes.insert(volume.uuid, info) {
            None => Ok(()),
            Some(_) => Err(OpenError::InUse {
                what: volume.name.to_owned(),
                holder: self.spec.name.clone(),
            }),
        }
    }

    fn destroy_volume(&mut self, uuid: &Identity) -> Result<(), OpenError> {
        self.entry(uuid)?;
        self.volumes.remove(uuid);
        Ok(())
    }

    fn resize_volume(&mut self, uuid: &Identity, bytes: u64) -> Result<(), OpenError> {
        self.entry(uuid)?.bytes = bytes;
        Ok(())
    }

    fn open_volume(&mut self, uuid: &Identity) -> Result<Box<dyn Device>, OpenError> {
        let info = self.entry(uuid)?.clone();
        let uri = format!("malloc:///{}?size_mb={}", info.name, info.bytes >> 20);
        self.services.open_device(&uri)
    }

    fn snapshot(&mut self, of: &Identity, uuid: &Identity, name: &str) -> Result<(), OpenError> {
        self.derive(of, uuid, name, VolumeKind::Snapshot { of: *of })
    }

    fn clone_snapshot(
        &mut self,
        of: &Identity,
        uuid: &Identity,
        name: &str,
    ) -> Result<(), OpenError> {
        self.derive(of, uuid, name, VolumeKind::Clone { of: *of })
    }

    fn grow(&mut self, disk: Option<&str>) -> Result<(), OpenError> {
        self.spec.disks.extend(disk.map(str::to_owned));
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<String>, OpenError> {
        let odd = self
            .volumes
            .values()
            .filter(|volume| volume.bytes % 4096 != 0);
        Ok(odd
            .map(|volume| format!("'{}' is odd", volume.name))
            .collect())
    }

    fn close(self: Box<Self>, destroy: bool) -> Result<(), OpenError> {
        match destroy && !self.volumes.is_empty() {
            true => Err(unsuitable(&self.spec.name, "has volumes".to_owned())),
            false => Ok(()),
        }
    }
}

fn host() -> PluginHost {
    let host = PluginHost::new(None, None);
    host.add(&device_mem::PLUGIN).unwrap();
    host.add(&PLUGIN).unwrap();
    host
}

fn spec(name: &str, disks: &[&str]) -> PoolSpec {
    PoolSpec {
        name: name.to_owned(),
        uuid: Some([9; 16]),
        disks: disks.iter().map(|disk| (*disk).to_owned()).collect(),
        cluster_bytes: Some(65_536),
    }
}

fn words<T>(result: Result<T, OpenError>) -> String {
    result.err().expect("a refusal").to_string()
}

#[test]
fn a_kind_of_pool_is_listed_and_not_taken_twice() {
    let host = host();
    let listed = host.plugin("shelf").unwrap();
    assert_eq!(
        (listed.kinds, listed.pools.as_slice()),
        (abi::IOE_KIND_POOL, &["shelf".to_owned()][..])
    );
    assert!(host.pool("shelf").is_some() && host.pool("rack").is_none());
    let refusal = host.add(&PLUGIN).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "plugin shelf refused: it brings kind of pool 'shelf', which plugin 'shelf' has; unload one of them"
    );
}

#[test]
fn everything_a_pool_does_crosses() {
    let host = host();
    let (kind, services) = (host.pool("shelf").unwrap(), host.services("test"));
    let mut pool = kind
        .create(&spec("p", &["aio:///a", "aio:///b"]), &services)
        .unwrap();
    let (a, b, c) = ([1; 16], [2; 16], [3; 16]);
    let new = NewVolume {
        uuid: a,
        name: "vol",
        bytes: 8 << 20,
        is_thin: true,
    };
    pool.create_volume(&new).unwrap();
    assert_eq!(words(pool.create_volume(&new)), "vol: in use by p");
    pool.snapshot(&a, &b, "snap").unwrap();
    pool.clone_snapshot(&b, &c, "clone").unwrap();
    pool.grow(Some("aio:///c")).unwrap();
    pool.grow(None).unwrap();
    let usage = pool.usage().unwrap();
    assert_eq!(
        usage,
        PoolUsage {
            disks: 3,
            capacity_bytes: 1 << 40,
            used_bytes: 3,
            committed_bytes: 24 << 20,
            cluster_bytes: 65_536,
            volumes: 3
        }
    );
    let listed: Vec<VolumeInfo> = (0..).map_while(|at| pool.volume(at)).collect();
    let shown: Vec<_> = listed
        .iter()
        .map(|volume| (volume.name.as_str(), volume.kind, volume.used_bytes))
        .collect();
    assert_eq!(
        shown,
        [
            ("vol", VolumeKind::Volume, 7),
            ("snap", VolumeKind::Snapshot { of: a }, 0),
            ("clone", VolumeKind::Clone { of: b }, 0),
        ]
    );
    let device = pool.open_volume(&a).unwrap();
    assert_eq!(device.geometry().bytes(), 8 << 20);
    drop(device);
    assert!(pool.check().unwrap().is_empty());
    pool.resize_volume(&c, 4097).unwrap();
    assert_eq!(pool.check().unwrap(), ["'clone' is odd"]);
    pool.destroy_volume(&c).unwrap();
    assert_eq!(
        words(pool.destroy_volume(&c)),
        "volume 3: not found; check the path, or create it first"
    );
    assert_eq!(words(pool.close(true)), "p: has volumes");
    let empty = kind.create(&spec("q", &["aio:///a"]), &services).unwrap();
    empty.close(true).unwrap();
}

#[test]
fn refusals_and_panics_stay_on_their_side() {
    let host = host();
    let (kind, services) = (host.pool("shelf").unwrap(), host.services("test"));
    let refused = words(kind.create(&spec("p", &[]), &services));
    assert!(
        refused.starts_with("p: PoolSpec { name: \"p\", uuid: Some([9, 9"),
        "{refused}"
    );
    let none = words(kind.import(&spec("p", &["a", "b"]), &services));
    assert_eq!(none, "a b: not found; check the path, or create it first");
    let panicked = words(kind.import(&spec("panic", &[]), &services));
    assert_eq!(
        panicked,
        "panic: the plugin panicked; its log line says where"
    );
    assert!(kind.create(&spec("p", &["a"]), &services).is_ok());
}
