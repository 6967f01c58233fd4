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
        "this request costs {price} {currency}, above the limit of {limit} {currency} for one request; --max-price {price} allows it"
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
        "a top-up of {top_up} {currency} would bring the total charged to cards at this server to {total} {currency}, above the limit of {limit} {currency}; --max-top-up {total} allows it"
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
        "the balance is used up, and a further top-up of {top_up} {currency} would bring the total charged to cards at this server to {total} {currency}; without --max-top-up only one smallest pack is bought per server; --max-top-up {total} allows it"
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
        "the smallest top-up at this server is {top_up} {currency}, above {limit} {currency}, the most that is charged without --max-top-up; --max-top-up {top_up} allows it"
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
        "the outcome of a top-up of {top_up} {currency} at this server is unknown, and its credit may be spent already, so repeating it could charge the card a second time, {total} {currency} in total; --max-top-up {total} allows it, and --forget-pending gives the payment up when the seller says that it was not charged"
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
        "this request costs {price} {currency} from a prepaid balance, and a top-up of {top_up} {currency} is needed; --card-file FILE or --payment-method pm_… pays it"
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
mod tests {
    use super::*;
    use crate::agent::testing::{header_of, key, offer_json, pending};

    fn offer(price: i64, min_top_up: i64, code: &str) -> Offer {
        let json = offer_json();
        let mut offer = Offer::from_header(&header_of(&json)).expect("valid");
        offer.price = Units::new(price).expect("units");
        offer.min_top_up = Units::new(min_top_up).expect("units");
        offer.code = code.to_owned();
        offer
    }

    fn account(client: Option<&str>, charged: i64, pending: Option<Pending>) -> Account {
        let mut account = Account { client_key: client.map(key), pending, ..Account::default() };
        if charged > 0 {
            account.charged.insert("usd".to_owned(), Units::new(charged).expect("units"));
        }
        account
    }

    fn budget(max_top_up: Option<&str>) -> Budget {
        let max_top_up = max_top_up.map(|text| Micros::parse_major(text).expect("amount"));
        Budget { max_top_up, ..Budget::default() }
    }

    /// A short name for what was decided.
    fn name(decision: &Decision) -> &'static str {
        match decision {
            Decision::Spend(_) => "spend",
            Decision::Card(CardPlan { resume: Some(_), .. }) => "resume",
            Decision::Card(CardPlan { client: Some(_), .. }) => "card for client",
            Decision::Card(_) => "card",
            Decision::Refuse(Refusal::Price { .. }) => "price",
            Decision::Refuse(Refusal::TopUpTotal { .. }) => "total",
            Decision::Refuse(Refusal::SecondPack { .. }) => "second",
            Decision::Refuse(Refusal::LargePack { .. }) => "large",
            Decision::Refuse(Refusal::MayChargeTwice { .. }) => "twice",
            Decision::Refuse(Refusal::OtherCurrency { .. }) => "currency",
            Decision::Refuse(Refusal::NoCard { .. }) => "no card",
            Decision::Refuse(Refusal::Server { .. }) => "server",
        }
    }

    #[test]
    fn the_table_of_decisions() {
        let none = || account(None, 0, None);
        let known = |charged| account(Some("pck_a"), charged, None);
        let waiting = |maybe_spent| account(None, 0, Some(pending(50_000, maybe_spent)));
        let presented = key("pck_a");
        let sent = Some(&presented);
        let table = [
            ("a first purchase", offer(500, 50_000, ""), none(), None, None, true, "card"),
            ("no card at hand", offer(500, 50_000, ""), none(), None, None, false, "no card"),
            ("exactly the price limit", offer(1_000, 50_000, ""), none(), None, None, true, "card"),
            ("one unit above it", offer(1_001, 50_000, ""), none(), None, None, true, "price"),
            ("the limit binds the balance, too", offer(1_001, 1, ""), known(1), None, None, true, "price"),
            ("exactly the default pack", offer(500, 200_000, ""), none(), None, None, true, "card"),
            ("a larger pack", offer(500, 200_001, ""), none(), None, None, true, "large"),
            ("which a flag allows", offer(500, 200_100, ""), none(), None, Some("20.01"), true, "card"),
            ("a known key goes first", offer(500, 50_000, ""), known(50_000), None, None, true, "spend"),
            (
                "a spent one",
                offer(500, 50_000, "insufficient_credits"),
                known(50_000),
                sent,
                None,
                true,
                "second",
            ),
            (
                "a second pack that is allowed",
                offer(500, 50_000, "insufficient_credits"),
                known(50_000),
                sent,
                Some("10"),
                true,
                "card for client",
            ),
            (
                "a second pack above the total",
                offer(500, 50_000, "insufficient_credits"),
                known(50_000),
                sent,
                Some("9.99"),
                true,
                "total",
            ),
            ("a key nobody knows", offer(500, 50_000, "unknown_client"), known(0), sent, None, true, "card"),
            (
                "a price above maxAmount",
                offer(500, 50_000, "price_above_max"),
                known(0),
                sent,
                None,
                true,
                "server",
            ),
            (
                "an unknown outcome needs no card",
                offer(500, 50_000, ""),
                waiting(0),
                None,
                None,
                false,
                "resume",
            ),
            ("credit left in any case", offer(500, 50_000, ""), waiting(49_500), None, None, false, "resume"),
            ("credit that may be gone", offer(500, 50_000, ""), waiting(49_501), None, None, true, "twice"),
            (
                "two charges are allowed",
                offer(500, 50_000, ""),
                waiting(49_501),
                None,
                Some("10"),
                false,
                "resume",
            ),
            (
                "one charge is allowed",
                offer(500, 50_000, ""),
                waiting(49_501),
                None,
                Some("9.99"),
                false,
                "twice",
            ),
        ];
        for (what, offer, account, presented, max_top_up, has_card, expected) in table {
            let decision = decide(&offer, &account, presented, &budget(max_top_up), has_card);
            assert_eq!(name(&decision), expected, "{what}: {decision:?}");
        }
    }

    #[test]
    fn a_second_currency_does_not_escape_the_limits() {
        let mut account = account(None, 0, None);
        account.charged.insert("eur".to_owned(), Units::new(1).expect("units"));
        let decision = decide(&offer(500, 50_000, ""), &account, None, &budget(Some("100")), true);
        assert_eq!(name(&decision), "currency");
        account.charged.clear();
        let mut waiting = pending(50_000, 0);
        waiting.currency = "eur".parse().expect("currency");
        account.pending = Some(waiting);
        let decision = decide(&offer(500, 50_000, ""), &account, None, &budget(Some("100")), true);
        assert_eq!(name(&decision), "currency");
    }

    #[test]
    fn every_limit_names_the_flag_that_lifts_it() {
        let decision = decide(&offer(2_500, 50_000, ""), &account(None, 0, None), None, &budget(None), true);
        let Decision::Refuse(refusal) = decision else { panic!("refused") };
        assert!(refusal.to_string().contains("--max-price 0.25 allows it"), "{refusal}");
        assert_eq!(refusal.flag(), Some("--max-price"));
        let spent = offer(500, 50_000, "insufficient_credits");
        let client = key("pck_a");
        let decision =
            decide(&spent, &account(Some("pck_a"), 50_000, None), Some(&client), &budget(None), true);
        let Decision::Refuse(refusal) = decision else { panic!("refused") };
        assert!(refusal.to_string().contains("--max-top-up 10.00 allows it"), "{refusal}");
    }
}
