//! Outcomes that come later: of refunds, and of charges whose balance transaction is late.

use super::super::books::Books;
use super::super::error::Refusal;
use super::{charging, refunds};

/// How long they take on the simulator's clock.
pub(super) const LATER_SECONDS: i64 = 60;

/// Brings about everything that is due.
///
/// # Errors
/// When the system gives no randomness for an id; what is due stays due.
pub(in super::super) fn bring(books: &mut Books) -> Result<(), Refusal> {
    while let Some(id) = books.due() {
        let succeeds =
            books.refunds.get(&id).and_then(|refund| refund.settles).map(|settles| settles.succeeds);
        match succeeds {
            Some(succeeds) => drop(refunds::finish(books, &id, succeeds)?),
            None => charging::settle(books, &id)?,
        }
    }
    Ok(())
}
