//! Wallets that a load test spends from, and the buyer that fills them with test cards.
//!
//! The hot loop only counts: each wallet knows how many requests its credit still covers, so that no request is refused for
//! want of credit. A wallet that is nearly empty asks for a successor, which the buyer makes beside the load, but only beside
//! the paid one.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{self, Notify};
use tokio::time::sleep;

use super::Problem;
use super::target::{Asked, Base, drain, reason};
use crate::agent::card::{Card, PAYING_TEST_NUMBERS};
use crate::agent::http::{Http, Outgoing};
use crate::agent::tokenise::StripeBase;
use crate::domain::PaymentMethodId;
use crate::protocol::stripe402::{PaymentPayload, PaymentResponse, VERSION, encode};

/// Wallets that are bought at the same time.
const AT_ONCE: usize = 4;
/// Wallets that are bought before the load at most, unless more were asked for.
const MOST_BEFORE: u64 = 64;
/// What prepaid402 charges at once by default, in units of the protocol: 500 of the currency.
const USUAL_MAXIMUM: i64 = 5_000_000;
/// One whole unit of any currency, which every card can be charged in multiples of.
const MAJOR: i64 = 10_000;
/// How often, and how soon, a payment is repeated whose outcome is not known yet.
const ATTEMPTS: u32 = 40;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A request that is paid, and how often it may still be sent.
struct Wallet {
    request: Bytes,
    bought: u64,
    left: u64,
}

struct Slot {
    wallet: Wallet,
    /// Whether a successor was asked for.
    asked: bool,
}

/// The wallets of one phase.
pub(super) struct Purse {
    slots: Vec<Mutex<Slot>>,
    spares: Mutex<Vec<Wallet>>,
    /// Successors that were asked for and are not in use yet.
    wanted: AtomicUsize,
    ask: Notify,
    /// Held while a wallet is bought, and while none may be.
    buying: sync::Mutex<()>,
    closed: AtomicBool,
    replaced: AtomicU64,
    bought_during: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// It holds keys.
impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purse").field("wallets", &self.slots.len()).finish_non_exhaustive()
    }
}

/// What became of the wallets in a phase.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    /// Wallets in use at any time.
    pub(super) wallets: usize,
    /// Requests that one new wallet pays.
    pub(super) requests_each: u64,
    /// Wallets that ran dry and were replaced.
    pub(super) replaced: u64,
    /// Wallets that were bought while the load ran.
    pub(super) bought_during: u64,
    /// Why no more could be bought.
    pub(super) problem: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it; and if so, counts are still counts.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Purse {
    fn new(wallets: Vec<Wallet>, spares: Vec<Wallet>) -> Self {
        Self {
            slots: wallets.into_iter().map(|wallet| Mutex::new(Slot { wallet, asked: false })).collect(),
            spares: Mutex::new(spares),
            wanted: AtomicUsize::new(0),
            ask: Notify::new(),
            buying: sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            replaced: AtomicU64::new(0),
            bought_during: AtomicU64::new(0),
            problem: Mutex::new(None),
        }
    }

    /// One that nothing can be paid from.
    #[cfg(test)]
    pub(super) fn empty() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// The next paid request, from this wallet or the next one that has credit.
    pub(super) fn take(&self, number: usize) -> Option<Bytes> {
        let count = self.slots.len();
        (0..count).find_map(|further| self.take_from(&self.slots[number.wrapping_add(further) % count]))
    }

    fn take_from(&self, slot: &Mutex<Slot>) -> Option<Bytes> {
        let mut slot = locked(slot);
        if slot.wallet.left == 0 {
            let wallet = locked(&self.spares).pop()?;
            self.replaced.fetch_add(1, Ordering::Relaxed);
            if slot.asked {
                self.wanted.fetch_sub(1, Ordering::Relaxed);
            }
            *slot = Slot { wallet, asked: false };
        }
        slot.wallet.left = slot.wallet.left.saturating_sub(1);
        if !slot.asked && slot.wallet.left <= slot.wallet.bought / 4 {
            slot.asked = true;
            self.wanted.fetch_add(1, Ordering::Relaxed);
            self.ask.notify_one();
        }
        Some(slot.wallet.request.clone())
    }

    /// Buys successors until the purse is closed. A failure ends the buying, and is told.
    pub(super) async fn refill(self: Arc<Self>, buyer: Arc<Buyer>) {
        loop {
            self.ask.notified().await;
            loop {
                let _buying = self.buying.lock().await;
                if self.closed.load(Ordering::Relaxed) {
                    return;
                }
                if locked(&self.spares).len() >= self.wanted.load(Ordering::Relaxed) {
                    break;
                }
                match buyer.buy_some(1).await {
                    Ok(wallets) => {
                        locked(&self.spares).extend(wallets);
                        self.bought_during.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(problem) => {
                        *locked(&self.problem) = Some(problem.to_string());
                        return;
                    }
                }
            }
        }
    }

    /// No wallet is bought while this is held, and none is being bought when it is given: buying belongs to what paying costs,
    /// so that it must not slow the other phases down, and not get ahead while they have their turn.
    pub(super) async fn rest(&self) -> sync::MutexGuard<'_, ()> {
        self.buying.lock().await
    }

    /// Ends [`Self::refill`] after what it is buying.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.ask.notify_one();
    }

    /// What became of the wallets.
    pub(super) fn spent(&self) -> Spent {
        Spent {
            wallets: self.slots.len(),
            requests_each: self.slots.first().map_or(0, |slot| locked(slot).wallet.bought),
            replaced: self.replaced.load(Ordering::Relaxed),
            bought_during: self.bought_during.load(Ordering::Relaxed),
            problem: locked(&self.problem).clone(),
        }
    }
}

/// Makes wallets, as an agent does: a card becomes a token at Stripe, and the first paid request a wallet.
pub(super) struct Buyer {
    http: Http,
    stripe: StripeBase,
    base: Base,
    path: String,
    outgoing: Outgoing,
    asked: Asked,
    /// Charges to try, largest first, and the first of them that was accepted.
    amounts: Vec<i64>,
    accepted: AtomicUsize,
    cards_used: AtomicUsize,
}

/// A paid answer: the wallet's receipt, and its status.
struct Paid {
    receipt: PaymentResponse,
    status: u16,
}

impl Buyer {
    /// A buyer of wallets that each pay for about `requests_each` requests, if the server charges that much at once.
    pub(super) fn new(
        http: Http,
        stripe: StripeBase,
        base: &Base,
        path: &str,
        asked: Asked,
        requests_each: u64,
    ) -> Result<Self, Problem> {
        let amounts = amounts(&asked, requests_each);
        Ok(Self {
            http,
            stripe,
            base: base.clone(),
            path: path.to_owned(),
            outgoing: base.outgoing(path)?,
            asked,
            amounts,
            accepted: AtomicUsize::new(0),
            cards_used: AtomicUsize::new(0),
        })
    }

    /// Fills a purse that pays for `requests`, and the status of a paid answer.
    pub(super) async fn fill(&self, wallets: usize, requests: u64) -> Result<(Purse, u16), Problem> {
        let (first, status) = self.buy_one().await?;
        let needed = requests.div_ceil(first.bought.max(1)).min(MOST_BEFORE);
        let needed = usize::try_from(needed).unwrap_or(usize::MAX).max(wallets);
        let mut all = vec![first];
        while all.len() < needed {
            all.extend(self.buy_some(AT_ONCE.min(needed - all.len())).await?);
        }
        let spares = all.split_off(wallets);
        Ok((Purse::new(all, spares), status))
    }

    /// Buys so many at the same time, at most as many as there are cards.
    async fn buy_some(&self, count: usize) -> Result<Vec<Wallet>, Problem> {
        let bought = join_all((0..count.min(PAYING_TEST_NUMBERS.len())).map(|_| self.buy_one())).await;
        bought.into_iter().map(|bought| bought.map(|(wallet, _)| wallet)).collect()
    }

    async fn buy_one(&self) -> Result<(Wallet, u16), Problem> {
        // Different numbers, because one card is charged for one payer at a time.
        let used = self.cards_used.fetch_add(1, Ordering::Relaxed);
        let number = PAYING_TEST_NUMBERS[used % PAYING_TEST_NUMBERS.len()];
        let failed = |why: String| Problem::Failed(format!("no wallet could be bought: {why}"));
        let card = Card::from_command_line(number, "12/34", "123").map_err(|e| failed(e.to_string()))?;
        let key = &self.asked.offer.publishable_key;
        let token = self.stripe.tokenise(key, card).await.map_err(|e| failed(e.to_string()))?;
        let Paid { receipt, status } = self.pay(&token).await.map_err(failed)?;
        let credit = receipt.credits_remaining.and_then(|units| u64::try_from(units).ok()).unwrap_or(0);
        let price = u64::try_from(self.asked.offer.price.get()).unwrap_or(0).max(1);
        // The price in units is rounded up, so this errs for fewer.
        let bought = credit / price;
        if bought == 0 {
            return Err(failed("the largest top-up pays for one request only".to_owned()));
        }
        let payment = PaymentPayload {
            stripe402_version: VERSION,
            payment_method_id: None,
            client_id: Some(receipt.client_id),
            top_up_amount: None,
            max_amount: None,
            new_wallet: None,
        };
        let request = self.base.render(&self.path, Some(&encode(&payment)));
        Ok((Wallet { request, bought, left: bought }, status))
    }

    /// Pays with the card, with the largest charge that the server accepts.
    async fn pay(&self, token: &PaymentMethodId) -> Result<Paid, String> {
        let mut which = self.accepted.load(Ordering::Relaxed);
        let mut attempt = 0;
        loop {
            let amount = self.amounts.get(which).copied();
            let payment = PaymentPayload {
                stripe402_version: VERSION,
                payment_method_id: Some(token.expose().to_owned()),
                client_id: None,
                top_up_amount: amount,
                max_amount: None,
                // A measurement needs many wallets, and has few cards.
                new_wallet: Some(true),
            };
            let sent = self.http.send(&self.outgoing, Some(&payment)).await;
            let mut answer = sent.map_err(|error| error.to_string())?;
            let receipt = answer.receipt.clone().filter(|receipt| !receipt.client_id.is_empty());
            if let Some(receipt) = receipt.filter(|receipt| receipt.success) {
                drain(&mut answer).await;
                self.accepted.fetch_max(which, Ordering::Relaxed);
                return Ok(Paid { receipt, status: answer.status.as_u16() });
            }
            let (code, text) = reason(&mut answer).await;
            drain(&mut answer).await;
            attempt += 1;
            match code.as_str() {
                // Too much for this server; nothing was charged.
                "invalid_payment" if which + 1 < self.amounts.len() => which += 1,
                // The same payment again finds the charge and does not pay twice.
                "topup_pending" | "topup_in_progress" | "busy" if attempt < ATTEMPTS => {
                    sleep(AGAIN_AFTER).await;
                }
                _ if answer.status.is_success() => {
                    return Err(format!("the server served without a receipt ({text})"));
                }
                _ => return Err(format!("the server answered {text}")),
            }
        }
    }
}

/// What to try to charge, largest first: what is needed, then what servers usually allow and offer, down to the smallest.
fn amounts(asked: &Asked, requests: u64) -> Vec<i64> {
    let (price, minimum) = (asked.offer.price.get(), asked.offer.min_top_up.get());
    let needed = i64::try_from(requests).unwrap_or(i64::MAX).saturating_mul(price);
    let whole = in_whole_units(needed.max(minimum));
    let mut amounts: Vec<i64> = asked.wire.top_up_options.iter().map(|pack| pack.amount).collect();
    amounts.extend([USUAL_MAXIMUM, minimum]);
    amounts.retain(|amount| (minimum..whole).contains(amount));
    amounts.push(whole);
    amounts.sort_unstable_by(|a, b| b.cmp(a));
    amounts.dedup();
    amounts
}

/// Rounded up to whole units of the currency.
fn in_whole_units(amount: i64) -> i64 {
    (amount.saturating_add(MAJOR - 1) / MAJOR).saturating_mul(MAJOR)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::offer::Offer;
    use crate::cli::bench::target::client;
    use crate::protocol::stripe402::decode_payment_required;

    fn asked(packs: &[i64]) -> Asked {
        let packs: Vec<_> =
            packs.iter().map(|amount| json!({"amount": amount, "credits": amount, "label": ""})).collect();
        let header = encode(&json!({
            "stripe402Version": 1, "resource": {"url": "/x"}, "topUpOptions": packs,
            "accepts": [{
                "scheme": "stripe", "currency": "usd", "amount": 500, "minTopUp": 5_500, "publishableKey": "pk_test_a"
            }]
        }));
        Asked {
            offer: Offer::from_header(header.as_bytes()).expect("an offer"),
            wire: decode_payment_required(header.as_bytes()).expect("an offer"),
        }
    }

    #[test]
    fn the_charge_is_what_is_needed_or_the_most_that_is_accepted() {
        assert_eq!(amounts(&asked(&[]), 0), [10_000, 5_500]);
        assert_eq!(amounts(&asked(&[5_500, 200_000]), 100), [50_000, 5_500]);
        let expected = [50_000_000, 5_000_000, 200_000, 5_500];
        assert_eq!(amounts(&asked(&[5_500, 200_000]), 100_000), expected);
        assert_eq!(amounts(&asked(&[]), u64::MAX).len(), 3);
    }

    fn wallet(name: &'static str, requests: u64) -> Wallet {
        Wallet { request: Bytes::from_static(name.as_bytes()), bought: requests, left: requests }
    }

    #[test]
    fn a_dry_wallet_gives_way_to_a_spare_and_then_to_the_others() {
        let purse = Purse::new(vec![wallet("a", 2), wallet("b", 2)], vec![wallet("c", 1)]);
        let taken: Vec<_> = std::iter::from_fn(|| purse.take(0)).collect();
        assert_eq!(taken, ["a", "a", "c", "b", "b"], "in this order, and no request without credit");
        assert_eq!(purse.spent().replaced, 1);
        assert_eq!(purse.wanted.load(Ordering::Relaxed), 2, "both dry wallets ask for a successor");
        assert!(!format!("{purse:?}").contains("request"));
    }

    #[tokio::test]
    async fn nothing_is_bought_while_the_purse_rests() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let base = Base::find(&url, false).await.expect("found");
        // Whoever tries to buy there fails, and tells it.
        drop(listener);
        let stripe = StripeBase::new(Some(&url), Duration::from_secs(5)).expect("an address of this machine");
        let buyer = Buyer::new(client(), stripe, &base, "/x", asked(&[]), 1).expect("a buyer");
        let purse = Arc::new(Purse::new(vec![wallet("a", 1)], Vec::new()));
        let resting = purse.rest().await;
        let refilling = tokio::spawn(Arc::clone(&purse).refill(Arc::new(buyer)));
        assert!(purse.take(0).is_some(), "which asks for a successor");
        sleep(Duration::from_millis(100)).await;
        assert_eq!(purse.spent().problem, None);
        drop(resting);
        refilling.await.expect("it ends with the first failure");
        assert!(purse.spent().problem.is_some_and(|problem| problem.contains("no wallet could be bought")));
    }
}
