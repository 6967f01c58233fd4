//! `expand`: objects in the place of their ids. <https://docs.stripe.com/api/expanding_objects>

use serde_json::Value;

use super::books::Books;
use super::error::{ApiError, Refusal, shortened};
use super::params::Params;
use super::render;
use super::setups;

/// Fields that hold an id, or `data` on the way there.
const EXPANDABLE: [&str; 11] = [
    "data",
    "latest_charge",
    "latest_attempt",
    "setup_intent",
    "balance_transaction",
    "customer",
    "payment_method",
    "payment_intent",
    "charge",
    "source",
    "failure_balance_transaction",
];

/// `expand`, checked before anything is executed.
#[derive(Debug)]
pub(super) struct Expand<'a>(Vec<&'a str>);

impl<'a> Expand<'a> {
    /// Reads and checks the parameter.
    pub(super) fn read(params: Params<'a>) -> Result<Self, Refusal> {
        let paths = params.list("expand")?;
        for path in &paths {
            if path.split('.').count() > 4 {
                return Err(ApiError::parameter("expand", "You can expand at most four levels."));
            }
            if let Some(part) = path.split('.').find(|part| !EXPANDABLE.contains(part)) {
                let message = format!("This property cannot be expanded ({}).", shortened(part));
                return Err(ApiError::parameter("expand", message));
            }
        }
        Ok(Self(paths))
    }

    /// Puts objects in the place of the ids asked for.
    pub(super) fn apply(&self, books: &Books, mut value: Value) -> Value {
        for path in &self.0 {
            let parts: Vec<&str> = path.split('.').collect();
            expand(books, &mut value, &parts);
        }
        value
    }
}

fn expand(books: &Books, value: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(field) = value.get_mut(*first) else { return };
    if let Value::Array(rows) = field {
        rows.iter_mut().for_each(|row| expand(books, row, rest));
        return;
    }
    if let Some(object) = field.as_str().and_then(|id| any(books, id)) {
        *field = object;
    }
    expand(books, field, rest);
}

/// The object with that id, whatever it is.
fn any(books: &Books, id: &str) -> Option<Value> {
    match id.split_once('_')?.0 {
        "cus" => books.customers.get(id).map(render::customer),
        "pm" => books.methods.get(id).map(render::payment_method),
        "pi" => books.intents.get(id).map(|intent| render::payment_intent(books, intent)),
        "seti" => books.setups.get(id).map(|row| setups::setup_intent(books, row)),
        "setatt" => books.attempts.get(id).map(|row| setups::setup_attempt(books, row)),
        "ch" => books.charges.get(id).map(|row| render::charge(books, row)),
        "re" => books.refunds.get(id).map(render::refund),
        "dp" => books.disputes.get(id).map(|row| render::dispute(books, row)),
        "txn" => books.balance.get(id).map(render::balance_transaction),
        _ => None,
    }
}
