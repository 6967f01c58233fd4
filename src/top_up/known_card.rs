//! A new token of a card that has founded a wallet leads there, if the bank confirms the card: `identity = "card"`.
//!
//! ```text
//! a token that leads nowhere ─► its card has founded a wallet with enough credit ─► row in card_checks ─► SetupIntent
//!   passed ─► bound to the wallet, if that was founded with a confirmed CVC, too, with a spend key of its own; nothing is charged
//!   failed, declined ─► card_declined; nothing is charged, and the shield counts it as a decline
//!   3-D Secure ─► cancelled; like everything else that says neither, and like a card without such a wallet:
//!                 charged for a wallet of its own, or `card_has_wallet` where that could be a second charge for one purchase
//!   unknown ─► `card_check_pending`: the same token again finds out
//! ```
//! The card's fingerprint alone grants nothing: everybody who knows the number has it. It decides what the bank is asked, and that is
//! all that it decides.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::card_checks::{self, Begun, Passed, Presented};
use super::store::TopUpRow;
use super::{FailureReason, Payer, TopUpOutcome, TopUpRequest, TopUps, after};
use crate::config::{Config, Identity};
use crate::db::{DbError, now_micros};
use crate::ledger::recording::IssuedKey;
use crate::sparing_log::sparingly;
use crate::stripe::{CardCheck, DeclineKind, NewCardCheck, RefusalKind, StripeFailure};

/// A charge is young for so many microseconds: a client that has waited in vain repeats it within that time.
pub(super) const YOUNG: i64 = 10 * 60 * 1_000_000;
/// Between two looks at a check of the same card that somebody else has asked for, and how long it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
pub(super) const WAIT_FOR_OTHERS: Duration = Duration::from_secs(8);
/// A key that may not have cards checked is not tried again for so many microseconds.
const DENIED_FOR: i64 = 60 * 1_000_000;
/// What a check may take, and a look for one whose answer is lost.
const CHECK_DEADLINE: Duration = Duration::from_secs(15);
const LIST_DEADLINE: Duration = Duration::from_secs(5);
/// A check that Stripe does not list after so many microseconds was never made.
const LOST_AFTER: i64 = 120 * 1_000_000;
/// What the question at start may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// What an operator is told whose key may not have cards checked.
pub const NO_CARD_CHECKS: &str = "the Stripe key may not write SetupIntents, so identity = \"card\" works like \"key\": a new token of a card that has a wallet pays \
     into another one. Give the restricted key write access to SetupIntents, or set identity = \"key\"";

/// What leads to a wallet, and whether Stripe lets us ask.
#[derive(Debug)]
pub(super) struct CardIdentity {
    identity: Identity,
    /// Whether Stripe is to be asked at start what the key may do.
    is_to_be_asked: bool,
    /// In Unix microseconds.
    denied_until: AtomicI64,
}

impl CardIdentity {
    pub(super) fn new(config: &Config) -> Self {
        let identity = config.identity;
        let is_to_be_asked = identity == Identity::Card && config.stripe.may_lack_rights();
        Self { identity, is_to_be_asked, denied_until: AtomicI64::new(0) }
    }

    fn is_by_card(&self) -> bool {
        self.identity == Identity::Card
    }

    fn may_ask(&self) -> bool {
        self.denied_until.load(Ordering::Relaxed) <= now_micros()
    }

    fn denied(&self) {
        sparingly!(warn, "{NO_CARD_CHECKS}");
        self.denied_until.store(now_micros().saturating_add(DENIED_FOR), Ordering::Relaxed);
    }
}

/// What became of a card that has founded a wallet.
#[derive(Debug)]
pub(super) enum KnownCard {
    /// The attempt has ended.
    Ended(TopUpOutcome),
    /// The bank was asked, and has said neither.
    Unsaid,
}

impl TopUps {
    /// Whether this attempt might found a wallet beside one that its card has founded already.
    pub(super) fn looks_at_card(&self, request: &TopUpRequest) -> bool {
        self.0.card_identity.is_by_card()
            && matches!(request.payer, Payer::New)
            && !request.new_wallet
            && !request.payment_method.is_shared_test_name()
            && self.0.card_identity.may_ask()
    }

    /// Leads a token to the wallet that its card has founded. `None`: nobody was asked, or the bank's word leads nowhere; it founds a
    /// wallet of its own, as far as this can tell.
    pub(super) async fn known_card(
        &self,
        row: &TopUpRow,
        request: &TopUpRequest,
        fingerprint: &str,
        deadline: Instant,
    ) -> Option<KnownCard> {
        if !self.looks_at_card(request) {
            return None;
        }
        let card = Presented {
            attempt: row.id,
            pm_hash: request.payment_method.hash(),
            fingerprint: fingerprint.to_owned(),
            needed: request.reserve.unwrap_or_default(),
            repeat: request.repeat.clone(),
        };
        match card_checks::may_lead(&self.0.db, &card).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(KnownCard::Ended(self.gave_up(row, &error).await)),
        }
        let patience = after(WAIT_FOR_OTHERS).min(deadline);
        let check = loop {
            let is_running = card_checks::is_running(&self.0.db, &card).await;
            if is_running.is_ok_and(|is_running| is_running) && Instant::now() < patience {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            match card_checks::begin(&self.0.db, card.clone(), self.0.shield.limits()).await {
                Ok(Begun::Ask(check)) => break check,
                Ok(Begun::NoWay) => return None,
                Ok(Begun::Barred(barred)) => {
                    let _ = self.fail(row, FailureReason::TooManyAttempts).await;
                    return Some(KnownCard::Ended(self.barred(barred)));
                }
                Ok(Begun::Running) if Instant::now() < patience => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Begun::Running) => {
                    let _ = self.fail(row, FailureReason::Abandoned).await;
                    return Some(KnownCard::Ended(TopUpOutcome::Unchecked));
                }
                Err(error) => return Some(KnownCard::Ended(self.gave_up(row, &error).await)),
            }
        };
        let new = NewCardCheck {
            id: &check,
            installation: self.0.installation,
            payment_method: &request.payment_method,
        };
        let deadline = after(CHECK_DEADLINE).min(deadline);
        let mut answer = self.0.stripe.check_card(new, deadline).await;
        if matches!(answer, Err(StripeFailure::Unknown { .. })) {
            answer = self.look_for_check(&check, request, answer).await;
        }
        let outcome = match answer {
            Ok(CardCheck::Passed { setup_intent }) => {
                if let Some(ended) = self.prove_founders(row, fingerprint).await {
                    return Some(KnownCard::Ended(ended));
                }
                return self.passed(row, check, setup_intent, card).await.map(KnownCard::Ended);
            }
            Ok(CardCheck::Failed { setup_intent }) => {
                self.refused_by_bank(row, check, Some(setup_intent), card).await
            }
            Ok(CardCheck::Unsaid { setup_intent }) => {
                return Some(self.unsaid(row, check, Some(setup_intent)).await);
            }
            Ok(CardCheck::RequiresAction { setup_intent }) => {
                // Nobody is there to act. Should it not be cancelled, nothing can come of it all the same: nobody asks for it again.
                let by = after(LIST_DEADLINE);
                if let Err(failure) = self.0.stripe.cancel_card_check(&check, &setup_intent, by).await {
                    tracing::warn!(
                        setup_intent,
                        class = failure.class(),
                        "a SetupIntent could not be cancelled"
                    );
                }
                return Some(self.unsaid(row, check, Some(setup_intent)).await);
            }
            Err(StripeFailure::Declined(decline)) => {
                tracing::info!(
                    top_up.id = %row.id, stripe.code = decline.stripe_code, stripe.decline = decline.decline_code,
                    "a card was declined when it was checked"
                );
                match decline.kind {
                    DeclineKind::Generic => self.refused_by_bank(row, check, None, card).await,
                    DeclineKind::AuthenticationRequired => return Some(self.unsaid(row, check, None).await),
                }
            }
            Err(StripeFailure::Unknown { reason, request_id }) => {
                tracing::warn!(
                    top_up.id = %row.id, ?reason, stripe.request = request_id,
                    "whether a bank confirms a card is unknown; its row stays open"
                );
                let _ = self.fail(row, FailureReason::Abandoned).await;
                TopUpOutcome::Unchecked
            }
            Err(StripeFailure::Refused(refusal)) => {
                if let Err(error) = card_checks::not_asked(&self.0.db, check).await {
                    return Some(KnownCard::Ended(self.gave_up(row, &error).await));
                }
                match refusal.kind {
                    // What is wrong with the token, its charge tells.
                    RefusalKind::InvalidPaymentMethod => {}
                    RefusalKind::Authentication if refusal.status == Some(403) => {
                        self.0.card_identity.denied();
                    }
                    RefusalKind::Authentication | RefusalKind::IdempotencyMismatch | RefusalKind::Other => {
                        sparingly!(
                            error, top_up.id = %row.id, stripe.code = refusal.code, stripe.message = refusal.message,
                            stripe.request = refusal.request_id, "Stripe refuses to have a card checked"
                        )
                    }
                }
                return None;
            }
        };
        Some(KnownCard::Ended(outcome))
    }

    /// Finds out whether the bank has confirmed the CVC when the card has founded its wallets, where that is not known yet.
    async fn prove_founders(&self, row: &TopUpRow, fingerprint: &str) -> Option<TopUpOutcome> {
        let unproven = match card_checks::unproven(&self.0.db, fingerprint).await {
            Ok(unproven) => unproven,
            Err(error) => return Some(self.gave_up(row, &error).await),
        };
        for (top_up, intent) in unproven {
            let by = after(LIST_DEADLINE);
            let said = match self.0.stripe.cvc_check_of_charge(&intent, by).await {
                Ok(said) => said,
                Err(failure) if failure.is_missing() => None,
                Err(failure) => {
                    tracing::warn!(
                        top_up.id = top_up,
                        class = failure.class(),
                        stripe.request = failure.request_id(),
                        "what a bank said of a card when it founded a wallet could not be read"
                    );
                    let _ = self.fail(row, FailureReason::Abandoned).await;
                    return Some(TopUpOutcome::Unchecked);
                }
            };
            let said = said.unwrap_or_else(|| "none".to_owned());
            if let Err(error) = card_checks::set_proof(&self.0.db, top_up, said).await {
                return Some(self.gave_up(row, &error).await);
            }
        }
        None
    }

    /// The answer may be lost for good: Stripe remembers a 500 under a key for a day. What it has made is in its list all the same.
    async fn look_for_check(
        &self,
        check: &str,
        request: &TopUpRequest,
        lost: Result<CardCheck, StripeFailure>,
    ) -> Result<CardCheck, StripeFailure> {
        let stripe = &self.0.stripe;
        match stripe.find_card_check(check, &request.payment_method, after(LIST_DEADLINE)).await {
            Ok(Some(found)) => Ok(found),
            // After a while nothing will be made any more: with a new check it is asked anew.
            Ok(None) => {
                let before = now_micros().saturating_sub(LOST_AFTER);
                if let Err(error) = card_checks::not_found(&self.0.db, check.to_owned(), before).await {
                    tracing::warn!(%error, "a lost check could not be ended");
                }
                lost
            }
            Err(_) => lost,
        }
    }

    async fn passed(
        &self,
        row: &TopUpRow,
        check: String,
        setup_intent: String,
        card: Presented,
    ) -> Option<TopUpOutcome> {
        let (id, secret_version, key) = self.0.key_secret.issue();
        let key =
            IssuedKey { id, hash: key.hash(), shown_prefix: key.shown_prefix().to_owned(), secret_version };
        match card_checks::passed(&self.0.db, check, setup_intent, card, key).await {
            Ok(Passed::Leads(client)) => {
                tracing::info!(
                    client,
                    "the bank has confirmed a card: a new token of it leads to its wallet"
                );
                Some(TopUpOutcome::Recognised)
            }
            Ok(Passed::Frozen) => Some(self.fail(row, FailureReason::ClientFrozen).await),
            Ok(Passed::Nowhere) => None,
            Ok(Passed::Gone) => {
                let _ = self.fail(row, FailureReason::Abandoned).await;
                Some(TopUpOutcome::Unchecked)
            }
            // It may be bound or not: the same token again finds out.
            Err(error) => {
                sparingly!(error, %error, top_up.id = %row.id, "what a bank said of a card could not be stored for certain");
                let _ = self.fail(row, FailureReason::Abandoned).await;
                Some(TopUpOutcome::Unchecked)
            }
        }
    }

    async fn refused_by_bank(
        &self,
        row: &TopUpRow,
        check: String,
        setup_intent: Option<String>,
        card: Presented,
    ) -> TopUpOutcome {
        match card_checks::failed(&self.0.db, check, setup_intent, card).await {
            Ok(()) => TopUpOutcome::Failed(FailureReason::Declined),
            // Nobody is told before it counts.
            Err(error) => {
                sparingly!(error, %error, top_up.id = %row.id, "what a bank said of a card could not be stored for certain");
                TopUpOutcome::Unchecked
            }
        }
    }

    async fn unsaid(&self, row: &TopUpRow, check: String, setup_intent: Option<String>) -> KnownCard {
        match card_checks::unsaid(&self.0.db, check, setup_intent).await {
            Ok(()) => KnownCard::Unsaid,
            Err(error) => KnownCard::Ended(self.gave_up(row, &error).await),
        }
    }

    /// The database failed before anything was charged. Whatever of the attempt can be stored is.
    async fn gave_up(&self, row: &TopUpRow, error: &DbError) -> TopUpOutcome {
        let outcome = self.unavailable(error);
        let _ = self.fail(row, FailureReason::Abandoned).await;
        outcome
    }

    /// Waits until the card is not being charged any more. `false`: it still is.
    pub(super) async fn wait_for_card(&self, row: &TopUpRow, fingerprint: &str, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            match card_checks::is_charged_now(&self.0.db, row.id, fingerprint).await {
                Ok(false) => return true,
                Ok(true) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => return false,
            }
        }
        false
    }

    /// Asks Stripe whether the key may have cards checked, where that is wanted, so that a log says at start if it may not.
    pub(crate) async fn ask_whether_cards_may_be_checked(&self) {
        if !self.0.card_identity.is_to_be_asked {
            return;
        }
        match self.0.stripe.may_check_cards(after(DEADLINE)).await {
            Ok(true) => {}
            Ok(false) => self.0.card_identity.denied(),
            Err(failure) => tracing::info!(
                class = failure.class(),
                "whether the Stripe key may write SetupIntents could not be asked; the first card tells"
            ),
        }
    }

    /// Removes some of the checks that no limit counts any more, and answers how many.
    pub(crate) async fn forget_card_checks(&self) -> Result<u64, DbError> {
        card_checks::forget(&self.0.db).await
    }
}
