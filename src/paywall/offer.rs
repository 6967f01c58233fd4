//! The offer that goes with a 402: the price, and what a card may be charged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::{Currency, Micros, RequestId};
use crate::ledger::ClientState;
use crate::protocol::stripe402::{
    MAX_OFFER_BYTES, PaymentRequired, Requirement, Resource, SAVED_CARD, Standing, TopUpOption, VERSION,
    X402_VERSION, encode, shorter_url,
};
use crate::top_up::amounts::{Amounts, Range};

use super::refusal::{Refusal, frozen_words};
use crate::config::{Config, RouteConfig, label};

/// What is sold, as far as an offer shows it.
#[derive(Debug, Clone, Copy)]
pub struct Sale<'a> {
    /// Scheme and host that callers see.
    pub origin: &'a str,
    /// The request path.
    pub path: &'a str,
    /// For people.
    pub description: Option<&'a str>,
    /// Media type of the answer.
    pub mime_type: Option<&'a str>,
    /// The exact price.
    pub price: Micros,
}

impl Sale<'_> {
    fn url(&self) -> String {
        [self.origin, self.path].concat()
    }
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
        let range = self.amounts.range(sale.price, state).ok();
        PaymentRequired {
            stripe402_version: VERSION,
            x402_version: X402_VERSION,
            resource: Resource {
                url: sale.url(),
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
            standing: standing_of(state),
            saved_card: SAVED_CARD.to_owned(),
        }
    }

    /// The offer of a request that presents nothing, ready to be sent but for its URL and number: what most callers get first
    /// must cost next to nothing.
    ///
    /// # Panics
    /// Never: an offer names its URL, and its request after that.
    #[must_use]
    pub fn challenge(&self, sale: Sale<'_>) -> Challenge {
        let offer = self.write(Sale { origin: "", path: URL, ..sale }, &Refusal::PaymentRequired, None, ID);
        Challenge { whole: Template::of(&offer), short: Template::of(&offer.shortened()) }
    }

    /// Says of each route whose offer a header cannot hold whole what its header leaves out.
    #[must_use]
    pub fn shortened(config: &Config) -> Vec<String> {
        let offers = Self {
            publishable_key: config.stripe.publishable_key.clone(),
            amounts: Amounts::new(config.top_up.clone(), config.currency),
        };
        config.routes.iter().filter_map(|route| offers.shortened_of(route, &config.public_url)).collect()
    }

    fn shortened_of(&self, route: &RouteConfig, origin: &str) -> Option<String> {
        let price = route.charge.rule()?.most();
        let (description, mime_type) = (route.description.as_deref(), route.mime_type.as_deref());
        let sale = Sale { origin, path: &route.pattern, description, mime_type, price };
        let offer = self.write(sale, &Refusal::PaymentRequired, None, &RequestId::new().to_string());
        if fits(&json_of(&offer)) {
            return None;
        }
        let (short, options) = (offer.shortened(), offer.top_up_options.len());
        let methods: Vec<&str> = route.methods.iter().map(String::as_str).collect();
        let is_cut = short
            .accepts
            .iter()
            .zip(&offer.accepts)
            .any(|(short, whole)| short.description != whole.description);
        Some(format!(
            "The offer of {} {} is too long for a header, because proxies take heads of 4 KiB: its header has {} top-up options \
             without labels{}. Its body has everything. A shorter description, and fewer or shorter labels, would fit.",
            methods.join(","),
            route.pattern,
            match short.top_up_options.len() {
                kept if kept == options => format!("all {options}"),
                kept => format!("only {kept} of {options}"),
            },
            if is_cut { ", and only the beginning of the description" } else { "" },
        ))
    }

    fn requirement(&self, sale: Sale<'_>, range: Range) -> Requirement {
        Requirement {
            scheme: "stripe".to_owned(),
            network: format!("stripe:{}", self.currency().code()),
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

/// What keeps a wallet from spending what it holds.
pub(crate) fn standing_of(state: Option<&ClientState>) -> Standing {
    let frozen = state.filter(|state| state.is_frozen());
    Standing {
        spendable: frozen.map(|state| state.spendable().to_units_floor().get()),
        frozen: frozen.map(|_| true),
        debt: state.and_then(owed),
    }
}

/// An offer as its body has it.
pub(crate) fn json_of(offer: &PaymentRequired) -> String {
    serde_json::to_string(offer).unwrap_or_default()
}

/// The header of an offer whose body is `json`.
pub(crate) fn header_of(offer: &PaymentRequired, json: &str) -> String {
    if fits(json) {
        return STANDARD.encode(json);
    }
    let mut short = offer.shortened();
    short.resource.url = shorter_url(&short.resource.url).to_owned();
    encode(&short)
}

fn fits(json: &str) -> bool {
    json.len() <= MAX_OFFER_BYTES
}

/// Stand for the URL and the request's number; no setting can hold them, because settings have no control characters.
const URL: &str = "\u{7f}url\u{7f}";
const ID: &str = "\u{7f}id\u{7f}";

/// See [`Offers::challenge`].
#[derive(Debug, Clone)]
pub struct Challenge {
    whole: Template,
    /// For the header, where the whole does not fit.
    short: Template,
}

impl Challenge {
    /// Body and header for one request, the same as [`Offers::write`] makes them.
    #[must_use]
    pub fn written(&self, sale: Sale<'_>, request_id: &str) -> (String, String) {
        let url = sale.url();
        let body = self.whole.filled(&url, request_id);
        let header = match fits(&body) {
            true => STANDARD.encode(&body),
            false => STANDARD.encode(self.short.filled(shorter_url(&url), request_id)),
        };
        (body, header)
    }
}

/// An offer as JSON, without its URL and its request's number.
#[derive(Debug, Clone)]
struct Template([String; 3]);

impl Template {
    fn of(offer: &PaymentRequired) -> Self {
        let json = serde_json::to_string(offer).expect("an offer is representable as JSON");
        let (before, rest) = json.split_once(URL).expect("an offer names its URL");
        let (between, after) = rest.split_once(ID).expect("an offer names its request after its URL");
        Self([before, between, after].map(str::to_owned))
    }

    fn filled(&self, url: &str, request_id: &str) -> String {
        let Self([before, between, after]) = self;
        let quoted = serde_json::to_string(url).unwrap_or_default();
        // Both have quotes around them: the parts, and the URL as JSON.
        let escaped = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        [before, escaped, between, request_id, after].concat()
    }
}
