//! The rules against what they are for, written down a second time and without cleverness.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::TopUpPack;
use crate::paywall::Refusal;
use crate::paywall::offer::{Offers, Resource};
use crate::pricing::{Listing, PriceRule, StatusSet};
use crate::protocol::stripe402::PaymentRequired;
use crate::protocol::{SPOKEN, SealKeys};

/// Settings that the configuration accepts, the dearest price that may be sold under them, and by how much the balance limit is
/// above what it must be.
#[derive(Debug, Clone)]
struct Shop {
    amounts: Amounts,
    dearest: Micros,
}

fn micros(number: i64) -> Micros {
    Micros::new(number).unwrap()
}

fn shop() -> impl Strategy<Value = Shop> {
    let currencies = prop::sample::select(vec!["usd", "jpy", "kwd", "isk", "huf", "mga"]);
    let packs = prop::collection::vec((1i64..40, 0i64..8), 1..5);
    let spare = prop_oneof![Just(0i64), 0i64..5, 0i64..500];
    (currencies, 0i64..20, packs, 0i64..60, spare, 1i64..1_000_000, 0i64..3).prop_map(
        |(code, above_least, steps, beyond, spare, price, price_grain)| {
            let currency: Currency = code.parse().unwrap();
            let step = currency.charge_step().get();
            let least = currency.min_charge().get().div_euclid(step) + 1;
            let (mut amount, mut bonus) = (least + above_least, 0);
            let mut options = Vec::new();
            for (further, more) in steps {
                bonus += more;
                // Bonuses are finer than a coin now and then.
                let bonus = micros(bonus * step / 2 / 100 * 100);
                options.push(TopUpPack { amount: micros(amount * step), bonus, label: String::new() });
                amount += further;
            }
            let last = options.last().unwrap();
            let maximum = micros(last.amount.get() + beyond * step);
            let grain = [1, 100, step][usize::try_from(price_grain).unwrap()];
            let dearest = micros((price * grain).rem_euclid(maximum.get()) + 1);
            let mut limits = TopUpConfig {
                minimum: options[0].amount,
                maximum,
                max_balance: Micros::MAX,
                refund_on_fraud_warning: false,
                reconcile_every: Duration::from_secs(1),
                compare_every: Duration::from_secs(1),
                options,
            };
            let needed = limits.room_for(dearest, currency).max(maximum);
            limits.max_balance = micros(needed.get() + spare * step / 7);
            Shop { amounts: Amounts::new(limits, currency), dearest }
        },
    )
}

/// A wallet, near the limits more often than elsewhere.
fn wallet(shop: &Shop) -> impl Strategy<Value = Option<ClientState>> + use<> {
    let limits = shop.amounts.limits().clone();
    let (currency, dearest) = (shop.amounts.currency(), shop.dearest);
    let (top, most) = (limits.max_balance.get(), limits.maximum.get());
    let credit = prop_oneof![
        Just(0),
        0..=dearest.get(),
        (dearest.get() - 3).max(0)..=dearest.get(),
        0..=top,
        (top - most).max(0)..=top + most
    ];
    let debt = prop_oneof![3 => Just(0), 1 => 1..=most, 1 => 1..=most * 4];
    (any::<bool>(), credit, 0i64..=100, debt, 0u8..20).prop_map(
        move |(is_known, credit, share, debt, frozen)| {
            let bonus = i64::try_from(i128::from(credit) * i128::from(share) / 100).unwrap();
            is_known.then(|| ClientState {
                paid: micros(credit - bonus),
                bonus: micros(bonus),
                debt: micros(debt),
                frozen: frozen == 0,
                ..ClientState::new(currency)
            })
        },
    )
}

/// Whether a charge does what it is for, word by word.
fn is_right(shop: &Shop, amount: Micros, price: Micros, state: Option<&ClientState>) -> bool {
    let limits = shop.amounts.limits();
    let (credit, debt) = state.map_or((0, 0), |state| (state.credit().get(), state.debt.get()));
    let charged = amount.get();
    let can_be_charged = shop.amounts.currency().micros_to_minor(amount).is_some();
    let (repaid, bonus) = (debt.min(charged), shop.amounts.bonus_for(amount).get());
    let lets_through =
        |charged: i64| price.is_zero() || (charged >= debt && credit + charged - debt >= price.get());
    let step = shop.amounts.currency().charge_step().get();
    // No smaller charge would do.
    let is_least = charged == limits.minimum.get() || !lets_through(charged - step);
    let after = credit + charged - repaid + bonus;
    !state.is_some_and(|state| state.frozen)
        && can_be_charged
        && amount >= limits.minimum
        && amount <= limits.maximum
        && lets_through(charged)
        && (after <= limits.max_balance.get() || (debt > 0 && is_least))
}

fn case() -> impl Strategy<Value = (Shop, Option<ClientState>, Micros, Vec<i64>)> {
    shop().prop_flat_map(|shop| {
        let price = prop_oneof![Just(0), 1..=shop.dearest.get(), Just(shop.dearest.get())];
        let most = shop.amounts.limits().maximum.get();
        let tries = prop::collection::vec(0..=most * 2, 20);
        (Just(shop.clone()), wallet(&shop), price.prop_map(micros), tries)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// What is accepted is right, and what is right is accepted.
    #[test]
    fn what_is_accepted_is_right((shop, state, price, tries) in case()) {
        let (amounts, step) = (&shop.amounts, shop.amounts.currency().charge_step().get());
        let least = amounts.limits().minimum.get();
        let edges = amounts.range(price, state.as_ref()).ok().into_iter()
            .flat_map(|range| [range.least.get(), range.most.get()])
            .chain(amounts.limits().options.iter().map(|pack| pack.amount.get()));
        let near = edges.flat_map(|edge| [edge - step, edge, edge + step, edge + 1]).collect::<Vec<_>>();
        let in_coins = tries.iter().map(|amount| amount - amount % step);
        for amount in in_coins.chain(near).chain(tries.iter().copied()).chain([least]).filter(|amount| *amount > 0) {
            let amount = micros(amount);
            let accepted = amounts.choose(Some(amount), price, state.as_ref());
            prop_assert_eq!(accepted.is_ok(), is_right(&shop, amount, price, state.as_ref()), "{} {:?}", amount, accepted);
        }
    }

    /// What a 402 offers is accepted when it is sent back, everything between its ends is, and nothing that is accepted is missing.
    #[test]
    fn what_is_offered_is_accepted_and_what_is_accepted_is_offered((shop, state, price, tries) in case()) {
        let amounts = &shop.amounts;
        let offers = Offers {
            publishable_key: "pk_test_a".to_owned(),
            amounts: amounts.clone(),
            dialects: SPOKEN,
            seal_keys: SealKeys::new([7; 32], Vec::new()),
        };
        let charged = std::sync::Arc::new(StatusSet::default_charged());
        let listing = Listing::new("GET /".to_owned(), PriceRule::Fixed(price), amounts.currency(), charged);
        let quote = std::sync::Arc::new(listing).list_quote();
        let quote = (!price.is_zero()).then_some(&quote);
        let resource = Resource { origin: "", path: "/", description: None, mime_type: None, quote };
        let told = Refusal::InsufficientCredits.told(state.as_ref());
        let written = offers.write(resource, &told, state.as_ref(), "r");
        let offer: PaymentRequired = serde_json::from_str(&written.body).unwrap();
        let sent_back = |units: i64| {
            let amount = crate::domain::Units::new(units).unwrap().to_micros();
            amounts.choose(Some(amount), price, state.as_ref())
        };
        let unnamed = amounts.choose(None, price, state.as_ref());
        let Some(requirement) = offer.accepts.first() else {
            prop_assert!(offer.top_up_options.is_empty());
            prop_assert!(unnamed.is_err());
            for amount in tries.into_iter().filter(|amount| *amount > 0) {
                prop_assert!(amounts.choose(Some(micros(amount)), price, state.as_ref()).is_err());
            }
            return Ok(());
        };
        let (least, most) = (requirement.min_top_up, requirement.max_top_up.unwrap());
        prop_assert_eq!(unnamed.map(|amount| amount.to_units_floor().get()), Ok(least));
        for option in &offer.top_up_options {
            prop_assert!(sent_back(option.amount).is_ok(), "{:?}", option);
            prop_assert!((least..=most).contains(&option.amount));
        }
        let step = amounts.currency().charge_step().to_units_floor().get();
        for amount in tries {
            let between = least + amount.rem_euclid((most - least) / step + 1) * step;
            prop_assert!(sent_back(between).is_ok(), "{} in {}..={}", between, least, most);
            let accepted = amounts.choose(Some(micros(amount)), price, state.as_ref()).is_ok();
            prop_assert!(!accepted || (least * 100..=most * 100).contains(&amount));
        }
        for pack in &amounts.limits().options {
            let is_offered = offer.top_up_options.iter().any(|option| option.amount == pack.amount.to_units_floor().get());
            prop_assert_eq!(is_offered, amounts.choose(Some(pack.amount), price, state.as_ref()).is_ok());
        }
    }

    /// Under accepted settings every wallet can go on: one that owes nothing pays the dearest price with one top-up, and one that
    /// owes can pay a part of it.
    #[test]
    fn every_wallet_can_go_on((shop, state, _, _) in case()) {
        let state = state.map(|state| ClientState { frozen: false, ..state });
        let owes = state.is_some_and(|state| !state.debt.is_zero());
        let can_pay = state.is_some_and(|state| state.credit() >= shop.dearest);
        if owes {
            prop_assert!(shop.amounts.choose(None, Micros::ZERO, state.as_ref()).is_ok());
        } else if !can_pay {
            prop_assert!(shop.amounts.choose(None, shop.dearest, state.as_ref()).is_ok());
        }
    }
}
