//! The offer that goes with a 402: the price, and what a card may be charged.

use crate::domain::{Currency, Micros};
use crate::ledger::ClientState;
use crate::protocol::stripe402::{PaymentRequired, Requirement, Resource, SAVED_CARD, TopUpOption, VERSION};
use crate::top_up::amounts::{Amounts, Range};

use super::refusal::{Refusal, frozen_words};
use crate::config::label;

/// What is sold, as far as an offer shows it.
#[derive(Debug, Clone, Copy)]
pub struct Sale<'a> {
    /// The request path.
    pub path: &'a str,
    /// For people.
    pub description: Option<&'a str>,
    /// Media type of the answer.
    pub mime_type: Option<&'a str>,
    /// The exact price.
    pub price: Micros,
}

/// Writes offers.
#[derive(Debug, Clone)]
pub struct Offers {
    /// Published in every offer.
    pub publishable_key: String,
    /// Knows what may be charged.
    pub amounts: Amounts,
}

impl Offers {
    /// Of every amount.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.amounts.currency()
    }

    /// The offer for one request. `state` is told only to whoever presented a valid clientId. What it offers to that wallet is
    /// accepted when it is sent back; where nothing would be, nothing is offered.
    #[must_use]
    pub fn write(
        &self,
        sale: Sale<'_>,
        refusal: &Refusal,
        state: Option<&ClientState>,
        request_id: &str,
    ) -> PaymentRequired {
        let answer = refusal.answer();
        let frozen = state.filter(|state| state.is_frozen());
        let range = self.amounts.range(sale.price, state).ok();
        PaymentRequired {
            stripe402_version: VERSION,
            resource: Resource {
                url: sale.path.to_owned(),
                description: sale.description.map(str::to_owned),
                mime_type: sale.mime_type.map(str::to_owned),
            },
            accepts: range.iter().map(|range| self.requirement(sale, *range)).collect(),
            error: (*refusal != Refusal::PaymentRequired).then(|| answer.code.to_owned()),
            top_up_options: range.map(|range| self.options(range, state)).unwrap_or_default(),
            message: with_standing(&refusal.message_for(state), state),
            code: answer.code.to_owned(),
            retryable: answer.retryable,
            who_acts: answer.who_acts.word().to_owned(),
            request_id: request_id.to_owned(),
            balance: state.map(|state| state.credit().to_units_floor().get()),
            spendable: frozen.map(|state| state.spendable().to_units_floor().get()),
            frozen: frozen.map(|_| true),
            debt: state.and_then(owed),
            saved_card: SAVED_CARD.to_owned(),
        }
    }

    /// The offer of a request that presents nothing, ready to be sent but for its path and number: what most callers get first
    /// must cost next to nothing.
    ///
    /// # Panics
    /// Never: an offer names its path, and its request after that.
    #[must_use]
    pub fn challenge(&self, sale: Sale<'_>) -> Challenge {
        let offer = self.write(Sale { path: PATH, ..sale }, &Refusal::PaymentRequired, None, ID);
        let json = serde_json::to_string(&offer).expect("an offer is representable as JSON");
        let (before, rest) = json.split_once(PATH).expect("an offer names its path");
        let (between, after) = rest.split_once(ID).expect("an offer names its request after its path");
        Challenge { parts: [before, between, after].map(str::to_owned) }
    }

    fn requirement(&self, sale: Sale<'_>, range: Range) -> Requirement {
        Requirement {
            scheme: "stripe".to_owned(),
            currency: self.currency().code().to_owned(),
            amount: sale.price.to_units_ceil().get(),
            min_top_up: range.least.to_units_ceil().get(),
            publishable_key: self.publishable_key.clone(),
            description: sale.description.map(str::to_owned),
            price: Some(self.currency().decimal(sale.price)),
            max_top_up: Some(range.most.to_units_floor().get()),
        }
    }

    /// The smallest amount, and the packs above it that are accepted.
    fn options(&self, range: Range, state: Option<&ClientState>) -> Vec<TopUpOption> {
        let packs = &self.amounts.limits().options;
        let debt = state.map_or(Micros::ZERO, |state| state.debt);
        let option = |amount: Micros, bonus: Micros, label: String| TopUpOption {
            amount: amount.to_units_ceil().get(),
            // What repays a debt is not there to be spent.
            credits: amount.saturating_sub(debt).checked_add(bonus).unwrap_or(amount).to_units_floor().get(),
            label,
        };
        let Range { least, most } = range;
        let first = packs.iter().find(|pack| pack.amount == least).map_or_else(
            || {
                let bonus = self.amounts.bonus_for(least);
                option(least, bonus, label(least, bonus, self.currency()))
            },
            |pack| option(pack.amount, pack.bonus, pack.label.clone()),
        );
        let larger = packs.iter().filter(|pack| pack.amount > least && pack.amount <= most);
        std::iter::once(first)
            .chain(larger.map(|pack| option(pack.amount, pack.bonus, pack.label.clone())))
            .collect()
    }
}

/// A sentence, and why nothing can be spent, if that is so.
pub(crate) fn with_standing(message: &str, state: Option<&ClientState>) -> String {
    match state.and_then(frozen_words) {
        Some(standing) => format!("{message} {standing}"),
        None => message.to_owned(),
    }
}

/// What a wallet owes, in units, rounded up. `None`: nothing.
pub(crate) fn owed(state: &ClientState) -> Option<i64> {
    (!state.debt.is_zero()).then(|| state.debt.to_units_ceil().get())
}

/// Stand for the path and the request's number; no setting can hold them, because settings have no control characters.
const PATH: &str = "\u{7f}path\u{7f}";
const ID: &str = "\u{7f}id\u{7f}";

/// See [`Offers::challenge`].
#[derive(Debug, Clone)]
pub struct Challenge {
    parts: [String; 3],
}

impl Challenge {
    /// The offer as JSON, for one request. `path` and `request_id` as in [`Offers::write`].
    #[must_use]
    pub fn json(&self, path: &str, request_id: &str) -> String {
        let [before, between, after] = &self.parts;
        let quoted = serde_json::to_string(path).unwrap_or_default();
        // Both have quotes around them: the parts, and the path as JSON.
        let escaped = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        [before, escaped, between, request_id, after].concat()
    }
}
