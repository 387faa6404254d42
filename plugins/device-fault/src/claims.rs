//! Names in use, so that two fault devices never have the same one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdk::block::OpenError;

/// The names a driver has open.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeSet<String>>>);

/// A claimed name; dropping it frees the name.
pub(crate) struct Claim {
    claims: Claims,
    name: String,
}

impl Claims {
    /// Claims `name`, or says who has it: always this process.
    ///
    /// # Errors
    /// [`OpenError::InUse`].
    pub(crate) fn claim(&self, name: String) -> Result<Claim, OpenError> {
        if !self.names().insert(name.clone()) {
            return Err(OpenError::InUse {
                what: format!("fault:///{name}"),
                holder: format!("this process (pid {})", std::process::id()),
            });
        }
        Ok(Claim {
            claims: self.clone(),
            name,
        })
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The claimed name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.names().remove(&self.name);
    }
}
