//! `Idempotency-Key` on paid requests: the same key from the same payer for the same method and path is charged once.
//!
//! The fingerprint covers query, body and the headers that choose between representations, so a key cannot be used for
//! something else by mistake. What is repeated is the answer that was charged, if it was small enough to be kept; otherwise a
//! request that only reads is sent to the upstream again without a charge, a few times, if its headers are the first one's
//! (another answer than the one that was paid for would be free), and of one that changes something the
//! caller is told what happened. A request that was not charged frees its key, unless it changes something and may have been
//! done. Terms as in the IETF draft "The Idempotency-Key HTTP Header Field".

use std::time::Duration;

use crate::db::{Db, DbError};
use crate::domain::{ClientKey, RequestId, SecretHash};
use crate::ledger::ClientId;
use crate::ledger::answers;
use crate::ledger::repeat_key::RepeatKey;
use crate::money_work::MoneyWork;
use crate::protocol::Credential;
use crate::sparing_log::sparingly;

/// How often an answer that was not kept is fetched from the upstream again without a charge.
pub(super) const MAX_REPEATS: i64 = 3;

/// Between two tries to free a key while the database is away.
const FREE_EVERY: Duration = Duration::from_secs(1);

/// Whose the key is: the client's, whether the clientId is presented or a card token that leads to the client, so that both
/// find the same row while the request runs, too. Of a card that has not paid yet there is no row. `None`: the payer
/// presented nothing that identifies anybody.
pub(super) fn scope_of(
    repeat: &RepeatKey,
    credential: &Credential,
    client: Option<ClientId>,
) -> Option<SecretHash> {
    let key: Option<&ClientKey> = credential.client_key.as_ref();
    let card = credential.card().filter(|card| !card.is_shared_test_name());
    match (key, client, card) {
        (Some(_), Some(client), _) | (None, Some(client), Some(_)) => Some(repeat.of_client(client)),
        (None, None, Some(card)) => Some(repeat.of_card(card)),
        _ => None,
    }
}

/// A key that this request runs under. It is free again when this is dropped, unless the request was charged.
#[derive(Debug)]
pub(super) struct Claim {
    db: Db,
    tasks: MoneyWork,
    pub(super) scope: SecretHash,
    /// See [`RepeatKey::with_headers`].
    pub(super) headers: Option<SecretHash>,
    request: RequestId,
    /// What was perhaps done may be done again.
    is_safe: bool,
    /// The upstream may have done its work.
    may_be_done: bool,
    is_open: bool,
}

impl Claim {
    pub(super) fn new(
        db: Db,
        tasks: MoneyWork,
        scope: SecretHash,
        headers: Option<SecretHash>,
        request: RequestId,
        is_safe: bool,
    ) -> Self {
        Self { db, tasks, scope, headers, request, is_safe, may_be_done: false, is_open: true }
    }

    /// The answer was stored with the charge, or nobody knows whether it was: the row stays.
    pub(super) fn keep(mut self) {
        self.is_open = false;
    }

    /// The upstream is called: from now on, it may have done its work.
    pub(super) fn work_begins(&mut self) {
        self.may_be_done = true;
    }

    /// Frees the key now.
    pub(super) async fn let_go(mut self) {
        self.may_be_done = false;
        self.end().await;
    }

    /// The upstream may have worked, and nothing is charged: what changes something must not be done again under this key.
    pub(super) async fn interrupted(mut self) {
        self.may_be_done = true;
        self.end().await;
    }

    async fn end(&mut self) {
        end(&self.db, self.scope, self.request, self.stays()).await;
        self.is_open = false;
    }

    fn stays(&self) -> bool {
        self.may_be_done && !self.is_safe
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_open {
            let (db, scope, request, stays) = (self.db.clone(), self.scope, self.request, self.stays());
            self.tasks.spawn(async move { end(&db, scope, request, stays).await });
        }
    }
}

/// A key that is not freed would be "in flight" until this node ends.
async fn end(db: &Db, scope: SecretHash, request: RequestId, stays: bool) {
    loop {
        let ended = match stays {
            true => answers::interrupt(db, scope, request).await,
            false => answers::let_go(db, scope, request).await,
        };
        match ended {
            Ok(()) | Err(DbError::Closed) => return,
            Err(error) => {
                sparingly!(warn, %error, request.id = %request, "an idempotency key cannot be freed yet");
                tokio::time::sleep(FREE_EVERY).await;
            }
        }
    }
}
