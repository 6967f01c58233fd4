//! The decision what to do about an offer: pure, so that every rule about the holder's money is in one table.

use crate::domain::{ClientKey, Currency, Micros, PaymentMethodId, Units};

use super::offer::Offer;
use super::wallet::{Account, Pending};

/// Without `--max-top-up` a smallest pack may cost at most this many times Stripe's smallest charge: 20.00 in US dollars.
const DEFAULT_PACK_IN_MINIMUM_CHARGES: i64 = 40;

/// What the holder allows, in major units of whatever currency a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The most that one request may cost.
    pub max_price: Micros,
    /// The most that may be charged to cards at one server in total, remembered in the wallet. `None`: one smallest pack.
    pub max_top_up: Option<Micros>,
}

impl Default for Budget {
    /// 0.10 a request and one smallest pack per server.
    fn default() -> Self {
        Self { max_price: Micros::new(100_000).unwrap_or(Micros::ZERO), max_top_up: None }
    }
}

/// What to do about a 402.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Repeat the request with this key.
    Spend(ClientKey),
    /// Repeat the request with a card.
    Card(CardPlan),
    /// Stop.
    Refuse(Refusal),
}

/// How to pay by card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardPlan {
    /// The payment method whose outcome is unknown, which is repeated; `None` asks for a new one.
    pub resume: Option<PaymentMethodId>,
    /// What to charge.
    pub top_up: Units,
    /// The wallet to credit; `None` makes the server issue a new key.
    pub client: Option<ClientKey>,
}

/// Why we do not pay. Each text names the flag that would allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One request costs too much.
    #[error(
        "this request costs {price} {currency}, above the limit of {limit} {currency} for one request; --max-price {price} allows it", limit = currency.decimal(*limit), price = currency.decimal(*price)
    )]
    Price {
        /// Asked.
        price: Micros,
        /// Allowed.
        limit: Micros,
        /// Of both.
        currency: Currency,
    },
    /// The total at this server would exceed `--max-top-up`.
    #[error(
        "a top-up of {top_up} {currency} would bring the total charged to cards at this server to {total} {currency}, above the limit of {limit} {currency}; --max-top-up {total} allows it", limit = currency.decimal(*limit), top_up = currency.decimal(*top_up), total = currency.decimal(*total)
    )]
    TopUpTotal {
        /// This charge.
        top_up: Micros,
        /// With earlier ones.
        total: Micros,
        /// Allowed.
        limit: Micros,
        /// Of all three.
        currency: Currency,
    },
    /// Without the flag only one smallest pack is bought per server.
    #[error(
        "the balance does not suffice, and a further top-up of {top_up} {currency} would bring the total charged to cards at this server to {total} {currency}; without --max-top-up only one smallest pack is bought per server; --max-top-up {total} allows it", top_up = currency.decimal(*top_up), total = currency.decimal(*total)
    )]
    SecondPack {
        /// This charge.
        top_up: Micros,
        /// With earlier ones.
        total: Micros,
        /// Of both.
        currency: Currency,
    },
    /// Without the flag a smallest pack that costs a lot is not bought.
    #[error(
        "the smallest top-up at this server is {top_up} {currency}, above {limit} {currency}, the most that is charged without --max-top-up; --max-top-up {top_up} allows it", limit = currency.decimal(*limit), top_up = currency.decimal(*top_up)
    )]
    LargePack {
        /// This charge.
        top_up: Micros,
        /// Allowed.
        limit: Micros,
        /// Of both.
        currency: Currency,
    },
    /// Asking again could charge a second time.
    #[error(
        "the outcome of a top-up of {top_up} {currency} at this server is unknown, and its credit may be spent already, so repeating it could charge the card a second time, {total} {currency} in total; --max-top-up {total} allows it, and --forget-pending gives the payment up when the seller says that it was not charged", top_up = currency.decimal(*top_up), total = currency.decimal(*total)
    )]
    MayChargeTwice {
        /// One charge.
        top_up: Micros,
        /// The worst case.
        total: Micros,
        /// Of both.
        currency: Currency,
    },
    /// A client has one currency; a second one would escape the limits.
    #[error(
        "cards were charged in another currency ({known}) at this server before, now it asks for {asked}; --wallet OTHER_FILE starts anew"
    )]
    OtherCurrency {
        /// In the wallet.
        known: String,
        /// In the offer.
        asked: Currency,
    },
    /// There is nothing to pay with.
    #[error(
        "this request costs {price} {currency} from a prepaid balance, and a top-up of {top_up} {currency} is needed; --card-file FILE or --payment-method pm_… pays it", price = currency.decimal(*price), top_up = currency.decimal(*top_up)
    )]
    NoCard {
        /// Of the request.
        price: Micros,
        /// The smallest.
        top_up: Micros,
        /// Of both.
        currency: Currency,
    },
    /// The server refuses, and a card would not help.
    #[error("the server refuses the payment ({code}): {message}")]
    Server {
        /// Stable code.
        code: String,
        /// The server's sentence.
        message: String,
    },
}

impl Refusal {
    /// The flag that would allow it.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Price { .. } => Some("--max-price"),
            Self::TopUpTotal { .. }
            | Self::SecondPack { .. }
            | Self::LargePack { .. }
            | Self::MayChargeTwice { .. } => Some("--max-top-up"),
            Self::OtherCurrency { .. } => Some("--wallet"),
            Self::NoCard { .. } => Some("--card-file"),
            Self::Server { .. } => None,
        }
    }
}

/// Decides what to do about `offer`, which answered a request that carried `presented`.
#[must_use]
pub fn decide(
    offer: &Offer,
    account: &Account,
    presented: Option<&ClientKey>,
    budget: &Budget,
    has_card: bool,
) -> Decision {
    let price = offer.price.to_micros();
    if price > budget.max_price {
        let (limit, currency) = (budget.max_price, offer.currency);
        return Decision::Refuse(Refusal::Price { price, limit, currency });
    }
    if let Some(key) = &account.client_key
        && presented != Some(key)
    {
        return Decision::Spend(key.clone());
    }
    // Anything else that a server says about a key is not cured by charging a card.
    let card_helps =
        matches!(offer.code.as_str(), "" | "payment_required" | "insufficient_credits" | "unknown_client");
    if presented.is_some() && !card_helps {
        let (code, message) = (offer.code.clone(), offer.message.clone());
        return Decision::Refuse(Refusal::Server { code, message });
    }
    let client = account.client_key.clone().filter(|_| offer.code != "unknown_client");
    let planned = match &account.pending {
        Some(pending) => resume(offer, account, pending, budget),
        None => first_charge(offer, account, budget, has_card),
    };
    match planned {
        Ok((resume, top_up)) => Decision::Card(CardPlan { resume, top_up, client }),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

type Charge = (Option<PaymentMethodId>, Units);

fn first_charge(
    offer: &Offer,
    account: &Account,
    budget: &Budget,
    has_card: bool,
) -> Result<Charge, Refusal> {
    let (top_up, currency) = (offer.min_top_up.to_micros(), offer.currency);
    let charged = charged_before(account, currency)?;
    let total = charged.checked_add(top_up).unwrap_or(Micros::MAX);
    match budget.max_top_up {
        Some(limit) if total > limit => return Err(Refusal::TopUpTotal { top_up, total, limit, currency }),
        Some(_) => {}
        None if !charged.is_zero() => return Err(Refusal::SecondPack { top_up, total, currency }),
        None => {
            let limit = default_pack_limit(currency);
            if top_up > limit {
                return Err(Refusal::LargePack { top_up, limit, currency });
            }
        }
    }
    if !has_card {
        return Err(Refusal::NoCard { price: offer.price.to_micros(), top_up, currency });
    }
    Ok((None, offer.min_top_up))
}

fn resume(offer: &Offer, account: &Account, pending: &Pending, budget: &Budget) -> Result<Charge, Refusal> {
    if pending.currency != offer.currency {
        let known = pending.currency.code().to_owned();
        return Err(Refusal::OtherCurrency { known, asked: offer.currency });
    }
    may_repeat(offer.price, account, pending, budget)?;
    Ok((Some(pending.payment_method.clone()), pending.top_up))
}

/// Whether the pending payment method may be presented (again) for a request at `price`.
///
/// A payment method is charged whenever the balance does not suffice. When lost answers may have spent the credit already,
/// repeating could therefore charge a second time; the budget must then allow two charges.
///
/// # Errors
/// [`Refusal::MayChargeTwice`] when it does not.
pub fn may_repeat(
    price: Units,
    account: &Account,
    pending: &Pending,
    budget: &Budget,
) -> Result<(), Refusal> {
    let (top_up, currency) = (pending.top_up.to_micros(), pending.currency);
    let spent = pending.maybe_spent.to_micros().checked_add(price.to_micros());
    if pending.maybe_spent == Units::ZERO || spent.is_some_and(|spent| spent <= top_up) {
        return Ok(());
    }
    let charged = charged_before(account, currency)?;
    let twice = top_up.checked_add(top_up).and_then(|two| two.checked_add(charged));
    let total = twice.unwrap_or(Micros::MAX);
    match budget.max_top_up {
        Some(limit) if total <= limit => Ok(()),
        _ => Err(Refusal::MayChargeTwice { top_up, total, currency }),
    }
}

fn charged_before(account: &Account, currency: Currency) -> Result<Micros, Refusal> {
    if let Some(known) = account.charged.keys().find(|known| known.as_str() != currency.code()) {
        return Err(Refusal::OtherCurrency { known: known.clone(), asked: currency });
    }
    Ok(account.charged.get(currency.code()).copied().unwrap_or(Units::ZERO).to_micros())
}

/// The most that is charged without `--max-top-up`.
fn default_pack_limit(currency: Currency) -> Micros {
    let limit = currency.min_charge().get().checked_mul(DEFAULT_PACK_IN_MINIMUM_CHARGES);
    limit.and_then(Micros::new).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests;
