//! Buffers of one reactor in the hands of a plugin on another.
//!
//! A [`Buf`] belongs to its reactor's thread. What goes to the other is a [`Loan`]: where its bytes are. The plugin gets a buffer
//! over the same bytes whose release tells the loan's [`Return`], on the plugin's thread; the bytes' own buffer stays with
//! the queue that lent it, untouched until the end of the operation says that the loan came back.
#![expect(
    unsafe_code,
    reason = "two threads take turns with the same bytes; this is the one place where they change hands"
)]

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

use sdk::buf::{Buf, BufHome};

/// The bytes of a buffer, on their way to another thread.
pub(super) struct Loan {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the address is used by one thread at a time: the lender leaves the buffer alone until the loan is back
// (`IsolatedQueue`), and the borrower is done with it by then (`Return`). Decided in docs/adr/0005.
unsafe impl Send for Loan {}

impl Loan {
    /// Lends the bytes of `buf` in use. Its owner leaves it alone, and does not give it back, until the loan came back; if that
    /// never comes, never.
    pub(super) fn of(buf: &mut Buf) -> Self {
        Self {
            len: buf.len(),
            ptr: NonNull::from(&mut **buf).cast(),
        }
    }

    /// The buffer a plugin gets. Dropping it, or releasing it across the tables, tells `home`.
    pub(super) fn open(self, home: &Rc<Return>) -> Buf {
        home.state.set(State::Lent(self.ptr));
        // SAFETY: the bytes are those of a buffer that `of` was given, aligned and initialised as any buffer's; its owner
        // keeps it as it is until `home` has been told, so that nothing else reaches them and they stay mapped.
        unsafe { Buf::from_raw(self.ptr, self.len, self.len, home.clone()) }
    }
}

/// Whether a loan came back. Of the borrower's thread.
#[derive(Default)]
pub(super) struct Return {
    state: Cell<State>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Back,
    Lent(NonNull<u8>),
}

impl Return {
    /// Whether the bytes lent last are nobody's on this thread.
    pub(super) fn is_back(&self) -> bool {
        self.state.get() == State::Back
    }

    /// Whether `buf` is the loan, and not a buffer of the plugin's own.
    pub(super) fn is_of(&self, buf: &Buf) -> bool {
        matches!(self.state.get(), State::Lent(ptr) if std::ptr::eq(ptr.as_ptr(), buf.as_ptr()))
    }
}

impl BufHome for Return {
    fn give_back(&self, _: NonNull<u8>, _: usize) {
        self.state.set(State::Back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_has_the_same_bytes_and_tells_when_it_is_back() {
        let mut own = Buf::from_heap(4096);
        own.fill(1);
        let loan = Loan::of(&mut own);
        let borrower = std::thread::spawn(move || {
            let home = Rc::new(Return::default());
            let mut lent = loan.open(&home);
            assert!(!home.is_back() && home.is_of(&lent) && lent.len() == 4096);
            assert!(!home.is_of(&Buf::from_heap(4096)));
            assert!(lent.iter().all(|byte| *byte == 1));
            lent.fill(2);
            drop(lent);
            home.is_back()
        });
        assert!(borrower.join().unwrap());
        assert!(own.iter().all(|byte| *byte == 2));
    }
}
