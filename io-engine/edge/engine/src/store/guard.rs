//! Panics of the database turned into errors.
//!
//! A page that is not what the database wrote makes it panic in places. What it holds then is of no use, but the process is
//! none the worse: the store is given up with the file's name, and everything else goes on.
//!
//! Decides: that such a panic is silent (its text is in the error) and ends here. Does not: what is done about it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// A panic of this thread is expected, and told of as an error.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic of it is an error with the panic's text.
pub(super) fn guarded<T>(
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<Result<T, redb::Error>, String> {
    silence();
    let before = EXPECTED.replace(true);
    // Whatever the panic left half done is given up by every caller.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    outcome.map_err(|payload| text_of(&*payload))
}

/// As [`guarded`], with the panic as the error of a damaged file.
pub(super) fn damage_is_error<T>(
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    guarded(work).unwrap_or_else(|text| Err(redb::Error::Corrupted(text)))
}

/// Keeps the hook that prints panics from printing the expected ones.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A thread that is past its own variables expects none.
            if !EXPECTED.try_with(Cell::get).unwrap_or(false) {
                print(info);
            }
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("the database panicked").to_owned()
}
