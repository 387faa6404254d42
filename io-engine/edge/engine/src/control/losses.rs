//! Losses: devices that lost writes which hosts were told are done.
//!
//! What it decides: that hosts hear of a loss also after the engine was restarted, or crashed, between the loss and their next
//! flush; and when nobody needs to hear any more. What it does not: which writes are lost and how a host is told, by a flush
//! that fails once (the shard).
//!
//! Invariants:
//! - A loss is stored as soon as the data plane tells of it, with the hosts that know, and each host that comes to know.
//! - A remembered device is served only after the data plane was told of its loss.
//! - The record goes with its device, or by an operator's word ([`Engine::rescan_bdev`]); never by itself: a host that has not
//!   been here since may still believe its writes.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::dataplane::{DeviceInfo, Problem};
use crate::store::{Change, LossRecord};

/// Pause before a record that could not be stored is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Engine {
    /// Starts to store losses as they happen, until the engine is gone.
    pub(super) fn watch_losses(self: &Arc<Self>) {
        let (engine, plane) = (Arc::downgrade(self), Arc::clone(&self.plane.0));
        tokio::spawn(async move {
            loop {
                plane.changed().await;
                loop {
                    let Some(engine) = engine.upgrade() else {
                        return;
                    };
                    let Err(problem) = engine.store_losses().await else {
                        break;
                    };
                    tracing::error!(%problem, "a loss of writes is not stored, and would be forgotten by a restart");
                    drop(engine);
                    tokio::time::sleep(RETRY).await;
                }
            }
        });
    }

    /// Stores what the data plane knows of losses.
    async fn store_losses(&self) -> Result<(), Problem> {
        let _alone = self.losses.lock().await;
        for (handle, told) in self.plane().losses().await {
            let Some(name) = self.device_name(handle) else {
                continue;
            };
            let known = self.read().losses.get(&name).cloned();
            let record = LossRecord { told };
            if known.as_ref() == Some(&record) {
                continue;
            }
            if known.is_none() {
                tracing::warn!(
                    device = %name,
                    "writes hosts were told are done may be lost with the device; each host hears it by one failed flush"
                );
            }
            self.persist(vec![Change::PutLoss(name.clone(), record.clone())])
                .await?;
            self.write().losses.insert(name, record);
        }
        Ok(())
    }

    /// Has the data plane tell hosts of what was lost with a device before it was opened, if anything was.
    ///
    /// # Errors
    /// The device must not be served then: hosts would believe writes that are gone.
    pub(super) async fn tell_of_loss(&self, name: &str, info: &DeviceInfo) -> Result<(), Problem> {
        let record = self.read().losses.get(name).cloned();
        match record {
            Some(LossRecord { told }) => self.plane().set_loss(info.handle, Some(told)).await,
            None => Ok(()),
        }
    }

    /// Nobody is to be told of what was lost with a device any more.
    pub(super) async fn accept_loss(&self, name: &str) -> Result<(), Problem> {
        let _alone = self.losses.lock().await;
        let handle = self.read().open_device(name)?.1.handle;
        self.persist(vec![Change::RemoveLoss(name.to_owned())])
            .await?;
        self.plane().set_loss(handle, None).await?;
        if self.write().losses.remove(name).is_some() {
            tracing::info!(device = %name, "loss of writes accepted; hosts are not told of it any more");
        }
        Ok(())
    }

    /// Forgets the loss of a device that is gone.
    pub(super) async fn forget_loss(&self, name: &str) -> Result<(), Problem> {
        let _alone = self.losses.lock().await;
        let was_there = self.write().losses.remove(name).is_some();
        if !was_there {
            return Ok(());
        }
        self.persist(vec![Change::RemoveLoss(name.to_owned())])
            .await
    }
}

/// What an operator is told of a device with a loss.
pub(super) fn warning(name: &str) -> String {
    format!(
        "writes its hosts were told are done may be lost; each host hears it by one failed flush. When all know, or need not: \
         io-engine-client bdev rescan --accept-loss {name}"
    )
}
