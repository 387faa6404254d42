//! `fault:///NAME?device=URI`: opening, and what the device says about itself.

use std::sync::Arc;

use sdk::block::{Capabilities, Device, DeviceDriver, Geometry, OpenError, QueueSeed};
use sdk::services::Services;
use sdk::uri::{DeviceUri, UriError};
use units::{BlockRange, Blocks};

use crate::claims::{Claim, Claims};
use crate::command::{obey, parse_rule};
use crate::limits::{NAME_LEN_MAX, OVERLAY_MB, OVERLAY_MB_MAX};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::queue::FaultSeed;
use crate::shared::Shared;

/// Serves `fault`.
#[derive(Default)]
pub(crate) struct FaultDriver {
    claims: Claims,
}

/// What the URI says.
struct Params {
    place: String,
    name: String,
    below: String,
    rules: String,
    seed: u64,
    overlay_mb: u64,
    uuid: Option<[u8; 16]>,
}

impl Params {
    fn take(mut uri: DeviceUri) -> Result<Self, UriError> {
        let name = device_name(&uri)?;
        let below = uri.take("device").unwrap_or_default();
        if below.is_empty() {
            let expected = "the URI of the device below, with '&' written as %26";
            return Err(uri.bad("device", below, expected));
        }
        let rules = uri.take("rules").unwrap_or_default();
        let seed = uri.take_number("seed")?.unwrap_or(0);
        let overlay_mb = uri.take_number("overlay_mb")?.unwrap_or(OVERLAY_MB);
        if !(1..=OVERLAY_MB_MAX).contains(&overlay_mb) {
            let value = overlay_mb.to_string();
            return Err(uri.bad("overlay_mb", value, "1 to 1024 MiB"));
        }
        let uuid = uri.take_uuid()?;
        uri.finish()?;
        Ok(Self {
            place: format!("fault:///{name}"),
            name,
            below,
            rules,
            seed,
            overlay_mb,
            uuid,
        })
    }
}

fn device_name(uri: &DeviceUri) -> Result<String, UriError> {
    let refused = |reason| UriError::Malformed {
        uri: uri.text().to_owned(),
        reason,
    };
    if !uri.authority().is_empty() {
        return Err(refused(
            "names a host; a fault device has three slashes: fault:///name?device=URI",
        ));
    }
    let name = uri.path().strip_prefix('/').unwrap_or("");
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(refused(
            "needs a name of 1 to 255 bytes; write fault:///name?device=URI",
        ));
    }
    Ok(name.to_owned())
}

impl DeviceDriver for FaultDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["fault"]
    }

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        Params::take(uri).map(drop)
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        Err(OpenError::Unsuitable {
            what: uri.text().to_owned(),
            reason: "it stands on another device, which only the engine can open".to_owned(),
        })
    }

    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let params = Params::take(uri)?;
        let claim = self.claims.claim(params.name)?;
        let inner = services.open_device(&params.below)?;
        let mut plan = Plan::new(params.seed);
        let names = [claim.name(), inner.name()];
        let refused = |reason: String| OpenError::Unsuitable {
            what: params.place.clone(),
            reason: format!("parameter 'rules': {reason}"),
        };
        let texts = params.rules.split(';').map(str::trim);
        for text in texts.filter(|text| !text.is_empty()) {
            let rule = parse_rule(text, &names).map_err(|error| refused(error.to_string()))?;
            plan.add(rule)
                .map_err(|error| refused(crate::command::CommandError::from(error).to_string()))?;
        }
        let overlay = Overlay::new(inner.geometry().block_size, params.overlay_mb << 20);
        Ok(Box::new(FaultDevice {
            uuid: params.uuid.or(inner.uuid()),
            inner,
            shared: Arc::new(Shared::new(plan, overlay, services.clone())),
            claim,
        }))
    }
}

struct FaultDevice {
    inner: Box<dyn Device>,
    shared: Arc<Shared>,
    uuid: Option<[u8; 16]>,
    claim: Claim,
}

impl Device for FaultDevice {
    fn name(&self) -> &str {
        self.claim.name()
    }

    fn product_name(&self) -> &'static str {
        "Fault device"
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            volatile_cache: true,
            ..self.inner.capabilities()
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        let inner = self.inner.open_queue()?;
        Ok(Box::new(FaultSeed {
            inner,
            shared: self.shared.clone(),
            geometry: self.inner.geometry(),
        }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        let geometry = self.inner.resize(blocks)?;
        let end = geometry.blocks.0;
        let beyond = BlockRange::new(end, u64::MAX - end);
        self.shared.with(|state| state.overlay.drop_blocks(beyond));
        Ok(geometry)
    }

    fn handle_command(&mut self, command: &str) -> Result<String, OpenError> {
        let names = [self.claim.name(), self.inner.name()];
        obey(&self.shared, &names, command).map_err(|error| OpenError::Unsuitable {
            what: format!("fault:///{} command", self.claim.name()),
            reason: error.to_string(),
        })
    }
}
