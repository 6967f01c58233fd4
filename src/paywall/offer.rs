//! The offer that goes with a 402: the price, and what a card may be charged.

use crate::config::{Config, RouteConfig, label};
use crate::db::now_micros;
use crate::domain::{Currency, Micros, RequestId};
use crate::ledger::ClientState;
use crate::pricing::{Listing, Quote};
use crate::protocol::stripe402;
use crate::protocol::{
    self, Challenge, Credential, Dialects, Filling, Offer, Offered, Pack, SealKeys, Standing, TopUp,
    Verifying, Written,
};
use crate::top_up::amounts::{Amounts, Range};

use super::refusal::{Refusal, frozen_words};

/// What is sold, as far as an offer shows it.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// Scheme and host that callers see.
    pub origin: &'a str,
    /// The request path.
    pub path: &'a str,
    /// For people.
    pub description: Option<&'a str>,
    /// Media type of the answer.
    pub mime_type: Option<&'a str>,
    /// What it costs. `None`: credit alone is sold.
    pub quote: Option<&'a Quote>,
}

impl Resource<'_> {
    pub(crate) fn url(&self) -> String {
        [self.origin, self.path].concat()
    }

    fn price(&self) -> Micros {
        self.quote.map_or(Micros::ZERO, Quote::most)
    }
}

/// Makes offers, and has them written in every protocol that is spoken.
#[derive(Debug, Clone)]
pub struct Offers {
    /// Published in every offer.
    pub publishable_key: String,
    /// Knows what may be charged.
    pub amounts: Amounts,
    /// The protocols.
    pub dialects: Dialects,
    /// What challenges are sealed with.
    pub seal_keys: SealKeys,
}

impl Offers {
    /// Of every amount.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.amounts.currency()
    }

    /// The offer of a resource. `state` is told only to whoever presented a valid clientId. What it offers to that wallet is
    /// accepted when it is sent back; where nothing would be, nothing is offered.
    fn offer(&self, resource: Resource<'_>, state: Option<&ClientState>) -> Offer {
        let range = self.amounts.range(resource.price(), state).ok();
        Offer {
            description: resource.description.map(str::to_owned),
            mime_type: resource.mime_type.map(str::to_owned),
            currency: self.currency(),
            price: resource.price(),
            quote: resource.quote.map(Quote::digest),
            publishable_key: self.publishable_key.clone(),
            top_up: range.map(|range| TopUp {
                least: range.least,
                most: range.most,
                packs: self.packs(range, state),
            }),
            balance: state.map(ClientState::credit),
            standing: state.and_then(standing),
        }
    }

    /// The 402 of one request in parts: the offer and why it is not served.
    #[must_use]
    pub fn write(
        &self,
        resource: Resource<'_>,
        refusal: &protocol::Refusal,
        state: Option<&ClientState>,
        request_id: &str,
    ) -> Written {
        let challenge = self.dialects.challenge(&self.offer(resource, state), refusal, &self.seal_keys);
        challenge.filled(&Filling::new(&resource.url(), request_id, now()))
    }

    /// The 402 of a request that presents nothing, ready but for its holes: what most callers get first must cost next to nothing.
    #[must_use]
    pub fn challenge(&self, resource: Resource<'_>) -> Challenge {
        let refusal = Refusal::PaymentRequired.told(None);
        self.dialects.challenge(&self.offer(resource, None), &refusal, &self.seal_keys)
    }

    /// Whether a credential is good for a quote, as far as its protocol can see that by itself.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, credential: &Credential, quote: &Quote) -> Result<(), Refusal> {
        let verifying = Verifying { now: now(), seal_keys: &self.seal_keys };
        (credential.dialect.verify)(credential, quote, &verifying).map_err(Refusal::from)
    }

    /// Says of each route whose offer a header cannot hold whole what its header leaves out.
    #[must_use]
    pub fn shortened(config: &Config) -> Vec<String> {
        let offers = Self {
            publishable_key: config.stripe.publishable_key.clone(),
            amounts: Amounts::new(config.top_up.clone(), config.currency),
            dialects: protocol::SPOKEN,
            // Nobody gets these offers.
            seal_keys: SealKeys::new([0; 32], Vec::new()),
        };
        config.routes.iter().filter_map(|route| offers.shortened_of(route, &config.public_url)).collect()
    }

    fn shortened_of(&self, route: &RouteConfig, origin: &str) -> Option<String> {
        let rule = route.charge.rule()?;
        let listing =
            Listing::new(route.rule().name(), rule, self.currency(), route.charged_statuses.clone().into());
        let quote = std::sync::Arc::new(listing).list_quote();
        let (description, mime_type) = (route.description.as_deref(), route.mime_type.as_deref());
        let resource = Resource { origin, path: &route.pattern, description, mime_type, quote: Some(&quote) };
        let (offer, refusal) = (self.offer(resource, None), Refusal::PaymentRequired.told(None));
        let offered = Offered { offer: &offer, refusal: &refusal, others: &[], seal_keys: &self.seal_keys };
        let (url, id) = (resource.url(), RequestId::new().to_string());
        let left_out = stripe402::left_out(&offered, &Filling::new(&url, &id, now()))?;
        let methods: Vec<&str> = route.methods.iter().map(String::as_str).collect();
        Some(format!(
            "The offer of {} {} is too long for a header, because proxies take heads of 4 KiB: its header has {} top-up options \
             without labels{}. Its body has everything. A shorter description, and fewer or shorter labels, would fit.",
            methods.join(","),
            route.pattern,
            match left_out.kept {
                kept if kept == left_out.options => format!("all {kept}"),
                kept => format!("only {kept} of {}", left_out.options),
            },
            if left_out.is_description_cut { ", and only the beginning of the description" } else { "" },
        ))
    }

    /// The smallest amount, and the packs above it that are accepted.
    fn packs(&self, range: Range, state: Option<&ClientState>) -> Vec<Pack> {
        let packs = &self.amounts.limits().options;
        let debt = state.map_or(Micros::ZERO, |state| state.debt);
        let pack = |amount: Micros, bonus: Micros, label: String| Pack {
            amount,
            // What repays a debt is not there to be spent.
            credits: amount.saturating_sub(debt).checked_add(bonus).unwrap_or(amount),
            label,
        };
        let Range { least, most } = range;
        let first = packs.iter().find(|pack| pack.amount == least).map_or_else(
            || {
                let bonus = self.amounts.bonus_for(least);
                pack(least, bonus, label(least, bonus, self.currency()))
            },
            |known| pack(known.amount, known.bonus, known.label.clone()),
        );
        let larger = packs.iter().filter(|pack| pack.amount > least && pack.amount <= most);
        std::iter::once(first)
            .chain(larger.map(|known| pack(known.amount, known.bonus, known.label.clone())))
            .collect()
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    now_micros().div_euclid(1_000_000)
}

/// A sentence, and why nothing can be spent, if that is so.
pub(crate) fn with_standing(message: &str, state: Option<&ClientState>) -> String {
    match state.and_then(frozen_words) {
        Some(standing) => format!("{message} {standing}"),
        None => message.to_owned(),
    }
}

/// What keeps a wallet from spending what it holds.
pub(crate) fn standing(state: &ClientState) -> Option<Standing> {
    state.is_frozen().then(|| Standing { spendable: state.spendable(), debt: state.debt })
}
