//! Names in use, so that one RAM disk is never opened twice through a driver.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::OpenError;

/// The names a driver has open.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeSet<String>>>);

/// A claimed name; dropping it frees the name.
pub(crate) struct Claim {
    claims: Claims,
    scheme: &'static str,
    name: String,
}

impl Claims {
    /// Claims `name`, or says who has it: RAM disks are private, so that is always this process.
    pub(crate) fn claim(&self, scheme: &'static str, name: &str) -> Result<Claim, OpenError> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.to_owned()) {
            return Err(OpenError::InUse {
                what: format!("{scheme}:///{name}"),
                holder: format!("this process (pid {})", std::process::id()),
            });
        }
        drop(names);
        Ok(Claim {
            claims: self.clone(),
            scheme,
            name: name.to_owned(),
        })
    }
}

impl Claim {
    /// The claimed name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device's URI without parameters.
    pub(crate) fn uri(&self) -> String {
        format!("{}:///{}", self.scheme, self.name)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut names = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}
