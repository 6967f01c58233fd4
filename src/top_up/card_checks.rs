//! The rows of `card_checks`: what banks were asked about cards that have founded wallets, and where that has led
//! (`card_checks/leads.rs`).
//!
//! A row is older than its call, and one card has one open check at a time, so its limits hold exactly, on however many nodes.

mod leads;

use self::leads::{Leads, Which, founded, leads_now, user_of_key};
use super::Repeat;
use super::store::is_open_attempt;
use crate::config::ShieldConfig;
use crate::db::{Connection, Db, DbError, Sql, now_micros, query, query_scalar};
use crate::domain::{Micros, SecretHash, TopUpId};
use crate::ledger::ClientId;
use crate::ledger::keys::Scope;
use crate::ledger::recording::{self, IssuedKey};
use crate::shield::{self, Barred};

const DAY: i64 = 24 * 3_600 * 1_000_000;
/// For so long a failed check counts.
const FAILED_COUNT: i64 = 30 * DAY;
/// Checks of one card that may fail in that time, before no more are asked for.
const MAX_FAILED: i64 = 3;
/// Checks of one card that may pass in a day.
const MAX_PASSED: i64 = 10;
/// Checks of one card of which the bank may say nothing in a day: nobody's bank is asked again and again by those who know the number.
const MAX_UNSAID: i64 = 10;

/// Charges of founding tokens of which nobody knows yet what the bank has said, the newest first.
const UNPROVEN: &str = "\
SELECT t.id, t.payment_intent FROM top_ups AS t
JOIN payment_method_bindings AS o ON o.hash = t.pm_hash AND o.client = t.client
JOIN client_keys AS w ON w.id = o.key AND w.scope = 'owner'
WHERE t.fingerprint = $1 AND t.state = 'succeeded' AND t.cvc_check IS NULL AND t.payment_intent IS NOT NULL AND t.former_account = 0
ORDER BY t.id DESC LIMIT 5";
const SET_PROOF: &str = "UPDATE top_ups SET cvc_check = $2 WHERE id = $1";
const LOCK_WALLET: Sql = Sql::each(
    "SELECT id FROM clients WHERE id = $1",
    "SELECT id FROM clients WHERE id = $1 FOR NO KEY UPDATE",
);
const OPEN: &str = "SELECT id, pm_hash, attempt FROM card_checks WHERE fingerprint = $1 AND state = 'asked'";
const TAKE_OVER: &str = "UPDATE card_checks SET attempt = $2 WHERE id = $1 AND state = 'asked'";
const ASK: &str = "\
INSERT INTO card_checks (id, attempt, pm_hash, fingerprint, state, asked_at) VALUES ($1, $2, $3, $4, 'asked', $5)";
const NOT_ASKED: &str = "DELETE FROM card_checks WHERE id = $1 AND state = 'asked'";
const END: &str = "\
UPDATE card_checks SET state = $2, setup_intent = $3, ended_at = $4 WHERE id = $1 AND state = 'asked'";
const END_LOST: &str = "\
UPDATE card_checks SET state = 'unsaid', ended_at = $3 WHERE id = $1 AND state = 'asked' AND asked_at < $2";
const COUNT: &str =
    "SELECT COUNT(*) FROM card_checks WHERE fingerprint = $1 AND state = $2 AND asked_at > $3";
const HAS_SAID_NEITHER: &str = "\
SELECT EXISTS (SELECT 1 FROM card_checks
               WHERE fingerprint = $1 AND pm_hash = $2 AND state = 'unsaid' AND setup_intent IS NOT NULL)";
const LED_TO: &str = "UPDATE card_checks SET client = $2 WHERE id = $1";
const FORGET_ATTEMPT: [&str; 2] =
    ["DELETE FROM charge_attempts WHERE id = $1", "DELETE FROM top_ups WHERE id = $1 AND state = 'created'"];
/// As for a charge that was declined: the shield counts it like one.
const DECLINED: &str = "\
UPDATE top_ups SET state = 'failed', failure = 'card_declined', fingerprint = $2, updated_at = $3
WHERE id = $1 AND state = 'created'";
/// The whole charge, or the wallet that it has made, is so young that whoever pays again may not know of it; or its outcome is open.
const IS_RECENT: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE fingerprint = $1 AND id <> $2
               AND (state IN ('created', 'confirming', 'pending')
                    OR (state = 'succeeded' AND (created_at > $3 OR updated_at > $3))))";
const HAS_ORDERED: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE fingerprint = $1 AND repeat_key = $2 AND id <> $3 AND state <> 'failed')";

/// Whether an attempt with a card is open, but for one.
const IS_CHARGED_NOW: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE fingerprint = $1 AND id <> $2 AND state IN ('created', 'confirming', 'pending'))";
const FORGET: &str = "\
DELETE FROM card_checks WHERE id IN (SELECT id FROM card_checks WHERE asked_at < $1 ORDER BY asked_at LIMIT 500)";

/// A card that was presented by a token that leads nowhere yet.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    /// The attempt to pay whose row is made, and nothing else.
    pub(super) attempt: TopUpId,
    /// The token.
    pub(super) pm_hash: SecretHash,
    /// The card.
    pub(super) fingerprint: String,
    /// What has to be spent; zero for a top-up.
    pub(super) needed: Micros,
    /// The request's `Idempotency-Key`.
    pub(super) repeat: Option<Repeat>,
}

/// Charges of the card's founding tokens of which nobody knows yet what the bank has said of the CVC, with their PaymentIntents.
pub(super) async fn unproven(db: &Db, fingerprint: &str) -> Result<Vec<(String, String)>, DbError> {
    let rows = query(UNPROVEN).bind(fingerprint.to_owned()).fetch_all(db.reader()).await?;
    let read = |row: &crate::db::Row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// Notes what the bank has said of the CVC when a token was charged.
pub(super) async fn set_proof(db: &Db, top_up: String, cvc_check: String) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(
            async move { query(SET_PROOF).bind(top_up).bind(cvc_check).execute(connection).await.map(drop) },
        )
    })
    .await
}

/// Whether to ask the bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begun {
    /// Yes, and this is the check's id.
    Ask(String),
    /// There is nothing that the card could lead to, or it may not be asked for any more.
    NoWay,
    /// The card was refused too often.
    Barred(Barred),
    /// Another check of this card runs.
    Running,
}

/// Whether a card may lead to a wallet, by a look that changes nothing: most cards of new payers have founded none.
pub(super) async fn may_lead(db: &Db, card: &Presented) -> Result<bool, DbError> {
    Ok(leads_now(db.reader(), card, Which::Any, now_micros()).await? != Leads::Nowhere)
}

/// Whether a card is being charged at this moment, by another attempt.
pub(super) async fn is_charged_now(db: &Db, attempt: TopUpId, fingerprint: &str) -> Result<bool, DbError> {
    let asked = query_scalar(IS_CHARGED_NOW).bind(fingerprint.to_owned()).bind(attempt.to_string());
    Ok(asked.fetch_one(db.reader()).await?)
}

/// Whether somebody else waits for a check of a card, by a look that changes nothing.
pub(super) async fn is_running(db: &Db, card: &Presented) -> Result<bool, DbError> {
    let open = query(OPEN).bind(card.fingerprint.clone()).fetch_optional(db.reader()).await?;
    let Some(row) = open else { return Ok(false) };
    if row.try_get::<&[u8], _>(1)? == card.pm_hash.as_bytes() {
        return Ok(false);
    }
    Ok(is_open_attempt(db.reader(), row.try_get(2)?).await?)
}

/// Makes the row of a check, if the card has founded a wallet that it may lead to.
pub(super) async fn begin(db: &Db, card: Presented, limits: ShieldConfig) -> Result<Begun, DbError> {
    let begun = db
        .write(move |connection| {
            Box::pin(async move {
                let now = now_micros();
                if recording::is_bound(&mut *connection, card.pm_hash).await? {
                    return Ok(Begun::NoWay);
                }
                // Where the bank has said neither of this very token, its CVC is used up.
                let hash = card.pm_hash.as_bytes().to_vec();
                let said = query_scalar(HAS_SAID_NEITHER).bind(card.fingerprint.clone()).bind(hash);
                if said.fetch_one(&mut *connection).await? {
                    return Ok(Begun::NoWay);
                }
                if let Some(row) =
                    query(OPEN).bind(card.fingerprint.clone()).fetch_optional(&mut *connection).await?
                {
                    let id: String = row.try_get(0)?;
                    let is_ours = row.try_get::<&[u8], _>(1)? == card.pm_hash.as_bytes();
                    if is_ours {
                        // Of an attempt with this very token that got no answer: asked again under its key, Stripe tells.
                        let taken = query(TAKE_OVER).bind(id.clone()).bind(card.attempt.to_string());
                        let taken = taken.execute(connection).await?;
                        return Ok(if taken == 1 { Begun::Ask(id) } else { Begun::Running });
                    }
                    if is_open_attempt(&mut *connection, row.try_get(2)?).await? {
                        return Ok(Begun::Running);
                    }
                    // Nobody will use its answer: whoever asked for it comes with the same token, or not at all.
                    end(connection, &id, "unsaid", None, now).await?;
                }
                let id = TopUpId::new().to_string();
                query(ASK)
                    .bind(id.clone())
                    .bind(card.attempt.to_string())
                    .bind(card.pm_hash.as_bytes().to_vec())
                    .bind(card.fingerprint.clone())
                    .bind(now)
                    .execute(&mut *connection)
                    .await?;
                // From here on no other check of this card can begin.
                let begun = match shield::may_check_card(connection, &limits, &card.fingerprint, now).await? {
                    Err(barred) => Begun::Barred(barred),
                    Ok(()) if is_used_up(connection, &card.fingerprint, now).await? => Begun::NoWay,
                    Ok(()) => match leads_now(&mut *connection, &card, Which::Any, now).await? {
                        Leads::Nowhere => Begun::NoWay,
                        Leads::Frozen | Leads::To(_) => Begun::Ask(id.clone()),
                    },
                };
                if !matches!(begun, Begun::Ask(_)) {
                    query(NOT_ASKED).bind(id).execute(connection).await?;
                }
                Ok(begun)
            })
        })
        .await;
    match begun {
        Err(error) if super::store::is_unique_violation(&error) => Ok(Begun::Running),
        begun => begun,
    }
}

async fn is_used_up(connection: &mut Connection, fingerprint: &str, now: i64) -> Result<bool, sqlx::Error> {
    let limits =
        [("failed", FAILED_COUNT, MAX_FAILED), ("passed", DAY, MAX_PASSED), ("unsaid", DAY, MAX_UNSAID)];
    for (state, age, most) in limits {
        let since = now.saturating_sub(age);
        let found: i64 = query_scalar(COUNT)
            .bind(fingerprint.to_owned())
            .bind(state)
            .bind(since)
            .fetch_one(&mut *connection)
            .await?;
        if found >= most {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `false`: it has ended already.
async fn end(
    connection: &mut Connection,
    id: &str,
    state: &'static str,
    setup_intent: Option<String>,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let ended = query(END).bind(id.to_owned()).bind(state).bind(setup_intent).bind(now);
    Ok(ended.execute(connection).await? == 1)
}

/// What a passed check has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// The token leads to this wallet from now on. The attempt to pay is gone, as if it had never been.
    Leads(ClientId),
    /// A wallet of this card is frozen.
    Frozen,
    /// No wallet has enough any more.
    Nowhere,
    /// Somebody else has ended the check.
    Gone,
}

/// The bank has confirmed the card: binds its token to the wallet, with a key of its own. Freezes, balances and revocations are those
/// of this moment.
pub(super) async fn passed(
    db: &Db,
    check: String,
    setup_intent: String,
    card: Presented,
    key: IssuedKey,
) -> Result<Passed, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let now = now_micros();
            if !end(connection, &check, "passed", Some(setup_intent), now).await? {
                return Ok(Passed::Gone);
            }
            // Locked first, and read afterwards: what waited for a row decides by what it says then.
            let mut locked = None;
            let client = loop {
                match leads_now(&mut *connection, &card, Which::Proven, now).await? {
                    Leads::Frozen => return Ok(Passed::Frozen),
                    Leads::To(client) if locked == Some(client) => break client,
                    // Two wallets are never locked at once, or two such transactions could wait for each other.
                    Leads::Nowhere | Leads::To(_) if locked.is_some() => return Ok(Passed::Nowhere),
                    Leads::Nowhere => {
                        // The CVC is used up by this check: should the token found a wallet now, that is proven.
                        let attempt = card.attempt.to_string();
                        query(SET_PROOF).bind(attempt).bind("pass").execute(connection).await?;
                        return Ok(Passed::Nowhere);
                    }
                    Leads::To(client) => {
                        locked =
                            query_scalar(LOCK_WALLET).bind(client).fetch_optional(&mut *connection).await?;
                    }
                }
            };
            if recording::is_bound(&mut *connection, card.pm_hash).await? {
                return Ok(Passed::Nowhere);
            }
            recording::add_key(connection, client, &key, Scope::Spend, now).await?;
            recording::bind(connection, card.pm_hash, client, key.id, now).await?;
            query(LED_TO).bind(check).bind(client).execute(&mut *connection).await?;
            for forget in FORGET_ATTEMPT {
                query(forget).bind(card.attempt.to_string()).execute(&mut *connection).await?;
            }
            Ok(Passed::Leads(client))
        })
    })
    .await
}

/// The bank has refused the card, or its CVC: the attempt to pay has failed like one that was declined.
pub(super) async fn failed(
    db: &Db,
    check: String,
    setup_intent: Option<String>,
    card: Presented,
) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            let now = now_micros();
            end(connection, &check, "failed", setup_intent, now).await?;
            let declined = query(DECLINED).bind(card.attempt.to_string()).bind(card.fingerprint).bind(now);
            declined.execute(connection).await.map(drop)
        })
    })
    .await
}

/// The bank has said neither.
pub(super) async fn unsaid(db: &Db, check: String, setup_intent: Option<String>) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move { end(connection, &check, "unsaid", setup_intent, now_micros()).await.map(drop) })
    })
    .await
}

/// Stripe knows of no such check. One that was asked for before a time was never made, and is ended.
pub(super) async fn not_found(db: &Db, check: String, asked_before: i64) -> Result<(), DbError> {
    db.write(move |connection| {
        let lost = query(END_LOST).bind(check).bind(asked_before).bind(now_micros());
        Box::pin(async move { lost.execute(connection).await.map(drop) })
    })
    .await
}

/// Stripe has not looked: as if it had never been asked.
pub(super) async fn not_asked(db: &Db, check: String) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move { query(NOT_ASKED).bind(check).execute(connection).await.map(drop) })
    })
    .await
}

/// Whether a card that founds one more wallet may be charged twice for one purchase by that: its charge is open or young, or it has
/// used the same `Idempotency-Key` before.
pub(super) async fn may_have_paid(
    connection: &mut Connection,
    attempt: TopUpId,
    fingerprint: &str,
    repeat: Option<&Repeat>,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let recent: bool = query_scalar(IS_RECENT)
        .bind(fingerprint.to_owned())
        .bind(attempt.to_string())
        .bind(now.saturating_sub(super::known_card::YOUNG))
        .fetch_one(&mut *connection)
        .await?;
    if recent {
        return Ok(true);
    }
    let Some(repeat) = repeat else { return Ok(false) };
    if let Repeat::Order(key) = repeat {
        let ordered = query_scalar(HAS_ORDERED)
            .bind(fingerprint.to_owned())
            .bind(key.as_bytes().to_vec())
            .bind(attempt.to_string());
        if ordered.fetch_one(&mut *connection).await? {
            return Ok(true);
        }
    }
    let wallets = founded(&mut *connection, fingerprint).await?;
    Ok(user_of_key(connection, &wallets, repeat, now).await?.is_some())
}

/// Removes some of what no limit counts any more, and answers how many.
pub(super) async fn forget(db: &Db) -> Result<u64, DbError> {
    let before = now_micros().saturating_sub(FAILED_COUNT);
    db.write(move |connection| Box::pin(async move { query(FORGET).bind(before).execute(connection).await }))
        .await
}
