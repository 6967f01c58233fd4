//! The simulator's books: every object, every remembered answer, in memory; and the records that the journal keeps
//! (`books/record.rs`).

mod record;

use std::collections::{BTreeSet, HashMap};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use self::record::Account;
pub(super) use self::record::{Record, Settings};
use super::events::{Cause, Event, EventLog};
use super::idempotency::LIFETIME_SECONDS;
use super::issuer::TrueCvcs;
use super::objects::{
    BalanceTransaction, Charge, Customer, Dispute, FraudWarning, PaymentIntent, PaymentMethod, Refund,
    SavedAnswer,
};
use super::search::CustomerIndex;
use super::setups::{SetupAttempt, SetupIntent};
use super::webhooks::WebhookEndpoint;

/// Objects of one kind that fit in the books; far beyond any test, and it keeps a runaway loop from taking all memory.
const MAX_ROWS: usize = 1_000_000;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Objects of one kind, in the order of their creation.
#[derive(Debug)]
pub(super) struct Table<T> {
    order: Vec<String>,
    rows: HashMap<String, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { order: Vec::new(), rows: HashMap::new() }
    }
}

impl<T> Table<T> {
    /// The object with that id.
    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id)
    }

    /// Oldest first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &T> {
        self.order.iter().filter_map(|id| self.rows.get(id))
    }

    /// Newest first, the order of Stripe's lists.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &T> {
        self.order.iter().rev().filter_map(|id| self.rows.get(id))
    }

    /// Adds or replaces it.
    pub(super) fn put(&mut self, id: &str, row: T) {
        if self.rows.insert(id.to_owned(), row).is_none() {
            self.order.push(id.to_owned());
        }
    }
}

/// There is no randomness, so there can be no ids.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// Everything that survives a restart.
#[derive(Debug)]
pub(super) struct Books {
    account: Account,
    clock_offset: i64,
    /// See [`Settings`].
    pub(super) settings: Settings,
    /// Customers.
    pub(super) customers: Table<Customer>,
    /// PaymentMethods.
    pub(super) methods: Table<PaymentMethod>,
    /// PaymentIntents.
    pub(super) intents: Table<PaymentIntent>,
    /// SetupIntents.
    pub(super) setups: Table<SetupIntent>,
    /// SetupAttempts.
    pub(super) attempts: Table<SetupAttempt>,
    /// Charges.
    pub(super) charges: Table<Charge>,
    /// Refunds.
    pub(super) refunds: Table<Refund>,
    /// Balance transactions.
    pub(super) balance: Table<BalanceTransaction>,
    /// Disputes.
    pub(super) disputes: Table<Dispute>,
    /// Early fraud warnings.
    pub(super) warnings: Table<FraudWarning>,
    /// Events.
    pub(super) events: EventLog,
    /// Where events are delivered.
    pub(super) endpoints: Vec<WebhookEndpoint>,
    /// The request that is being executed: events name it.
    pub(super) cause: Cause,
    /// The customers as a search sees them.
    pub(super) index: CustomerIndex,
    /// In memory only.
    pub(super) cvcs: TrueCvcs,
    /// Charges and refunds whose outcome comes later: when, and which.
    waiting: BTreeSet<(i64, String)>,
    saved: HashMap<String, SavedAnswer>,
    /// Changes that the journal has not been given yet.
    pending: Vec<Record>,
}

impl Books {
    /// Empty books with a secret of their own.
    pub(super) fn new(settings: Settings) -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| NoRandomness)?;
        Ok(Self {
            account: Account { secret },
            clock_offset: 0,
            settings,
            customers: Table::default(),
            methods: Table::default(),
            intents: Table::default(),
            setups: Table::default(),
            attempts: Table::default(),
            charges: Table::default(),
            refunds: Table::default(),
            balance: Table::default(),
            disputes: Table::default(),
            warnings: Table::default(),
            events: EventLog::default(),
            endpoints: Vec::new(),
            cause: Cause::default(),
            index: CustomerIndex::default(),
            cvcs: TrueCvcs::default(),
            waiting: BTreeSet::new(),
            saved: HashMap::new(),
            pending: Vec::new(),
        })
    }

    /// Makes a change and remembers it for the journal.
    pub(super) fn put(&mut self, record: Record) {
        self.apply(record.clone());
        self.pending.push(record);
    }

    /// Makes a change: a new one, or one that the journal remembers.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Account(account) => self.account = account,
            Record::Clock { offset_seconds } => self.clock_offset = offset_seconds,
            Record::Settings(settings) => self.settings = settings,
            Record::Customer(row) => {
                self.index.changed(row.clone());
                self.customers.put(&row.id.clone(), row);
            }
            Record::PaymentMethod(row) => self.methods.put(&row.id.clone(), *row),
            Record::PaymentIntent(row) => self.intents.put(&row.id.clone(), *row),
            Record::SetupIntent(row) => self.setups.put(&row.id.clone(), *row),
            Record::SetupAttempt(row) => self.attempts.put(&row.id.clone(), *row),
            Record::Charge(row) => {
                let before = self.charges.get(&row.id).and_then(|row| row.settles_at);
                self.wait(&row.id, before, row.settles_at);
                self.charges.put(&row.id.clone(), row);
            }
            Record::Refund(row) => {
                let at = |row: &Refund| row.settles.map(|settles| settles.at);
                let before = self.refunds.get(&row.id).and_then(at);
                self.wait(&row.id, before, at(&row));
                self.refunds.put(&row.id.clone(), row);
            }
            Record::BalanceTransaction(row) => self.balance.put(&row.id.clone(), row),
            Record::Dispute(row) => self.disputes.put(&row.id.clone(), *row),
            Record::FraudWarning(row) => self.warnings.put(&row.id.clone(), row),
            Record::Event(event) => {
                for endpoint in &mut self.endpoints {
                    endpoint.offer(&event);
                }
                for gone in self.events.push(*event) {
                    for endpoint in &mut self.endpoints {
                        endpoint.forget(&gone);
                    }
                }
            }
            Record::WebhookEndpoint(row) => {
                match self.endpoints.iter_mut().find(|known| known.id == row.id) {
                    Some(known) => *known = row,
                    None => self.endpoints.push(row),
                }
            }
            Record::NoWebhookEndpoint { id } => self.endpoints.retain(|known| known.id != id),
            Record::Delivered { endpoint, event } => {
                if let Some(known) = self.endpoints.iter_mut().find(|known| known.id == endpoint) {
                    known.forget(&event);
                }
            }
            Record::Saved(answer) => {
                self.saved.insert(answer.key.clone(), answer);
            }
        }
    }

    fn wait(&mut self, id: &str, before: Option<i64>, after: Option<i64>) {
        if let Some(at) = before {
            self.waiting.remove(&(at, id.to_owned()));
        }
        if let Some(at) = after {
            self.waiting.insert((at, id.to_owned()));
        }
    }

    /// A charge or refund whose outcome is due.
    pub(super) fn due(&self) -> Option<String> {
        self.waiting.first().filter(|(at, _)| *at <= self.now()).map(|(_, id)| id.clone())
    }

    /// Notes that something happened to an object, which is given as it is now. `previous` holds the values that an
    /// `….updated` event replaces.
    pub(super) fn emit(&mut self, kind: &str, object: &Value, previous: Option<&Value>) {
        let number = self.events.next();
        let event = Event {
            id: self.event_id(number),
            number,
            created: self.now(),
            kind: kind.to_owned(),
            object: object.to_string(),
            previous: previous.map(Value::to_string),
            cause: self.cause.clone(),
            twin: false,
        };
        self.put(Record::Event(Box::new(event)));
    }

    /// The same fact under a new id, as Stripe sometimes tells it. It is for whoever asked for it alone.
    pub(super) fn twin(&mut self, id: &str) -> Option<Event> {
        let number = self.events.next();
        let mut event = self.events.get(id)?.clone();
        event.id = self.event_id(number);
        event.number = number;
        event.twin = true;
        self.put(Record::Event(Box::new(event.clone())));
        Some(event)
    }

    /// Computed rather than drawn, so that noting an event cannot fail after money has moved.
    fn event_id(&self, number: u64) -> String {
        format!("evt_3{}", &letters(&self.mac("event", &number.to_string()))[..23])
    }

    /// The changes since the last call.
    pub(super) fn take_pending(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.pending)
    }

    /// All there is, as the records that would rebuild it. Remembered answers that have expired are left out.
    pub(super) fn snapshot(&self) -> Vec<Record> {
        let now = self.now();
        let mut records = vec![
            Record::Account(self.account.clone()),
            Record::Clock { offset_seconds: self.clock_offset },
            Record::Settings(self.settings),
        ];
        records.extend(self.customers.oldest_first().cloned().map(Record::Customer));
        records.extend(self.methods.oldest_first().cloned().map(Box::new).map(Record::PaymentMethod));
        records.extend(self.intents.oldest_first().cloned().map(Box::new).map(Record::PaymentIntent));
        records.extend(self.setups.oldest_first().cloned().map(Box::new).map(Record::SetupIntent));
        records.extend(self.attempts.oldest_first().cloned().map(Box::new).map(Record::SetupAttempt));
        records.extend(self.charges.oldest_first().cloned().map(Record::Charge));
        records.extend(self.refunds.oldest_first().cloned().map(Record::Refund));
        records.extend(self.balance.oldest_first().cloned().map(Record::BalanceTransaction));
        records.extend(self.disputes.oldest_first().cloned().map(Box::new).map(Record::Dispute));
        records.extend(self.warnings.oldest_first().cloned().map(Record::FraudWarning));
        records.extend(self.events.oldest_first().cloned().map(Box::new).map(Record::Event));
        // After the events: each carries those that it still waits for.
        records.extend(self.endpoints.iter().cloned().map(Record::WebhookEndpoint));
        records
            .extend(self.saved.values().filter(|answer| !expired(answer, now)).cloned().map(Record::Saved));
        records
    }

    /// The remembered answer of an idempotency key, unless it has expired.
    pub(super) fn saved(&self, key: &str) -> Option<&SavedAnswer> {
        self.saved.get(key).filter(|answer| !expired(answer, self.now()))
    }

    /// Unix seconds on the simulator's clock.
    pub(super) fn now(&self) -> i64 {
        chrono::Utc::now().timestamp().saturating_add(self.clock_offset)
    }

    /// Moves the clock on, and forgets the answers that have expired by then.
    pub(super) fn advance(&mut self, seconds: i64) {
        self.put(Record::Clock { offset_seconds: self.clock_offset.saturating_add(seconds) });
        let now = self.now();
        self.saved.retain(|_, answer| !expired(answer, now));
    }

    /// Whether no more objects are taken.
    pub(super) fn full(&self) -> bool {
        self.intents.order.len() >= MAX_ROWS
            || self.setups.order.len() >= MAX_ROWS
            || self.attempts.order.len() >= MAX_ROWS
            || self.methods.order.len() >= MAX_ROWS
            || self.customers.order.len() >= MAX_ROWS
            || self.refunds.order.len() >= MAX_ROWS
            || self.disputes.order.len() >= MAX_ROWS
            || self.warnings.order.len() >= MAX_ROWS
            || self.saved.len() >= MAX_ROWS
    }

    /// A new id: the prefix and random letters and digits.
    pub(super) fn new_id(&self, prefix: &str, length: usize) -> Result<String, NoRandomness> {
        random_text(length).map(|text| format!("{prefix}{text}"))
    }

    /// The same number gives the same text, in these books only; nobody can compute the number from it.
    pub(super) fn fingerprint(&self, number: &str) -> String {
        letters(&self.mac("card", number)[..16])
    }

    /// A MAC of a request, to tell whether a key is used for the same one. A plain hash would give card numbers away.
    pub(super) fn request_mac(&self, request: &str) -> String {
        letters(&self.mac("request", request))
    }

    fn mac(&self, purpose: &str, text: &str) -> [u8; 32] {
        // HMAC takes keys of every length, so this cannot fail; the empty MAC would only merge fingerprints.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.account.secret) else { return [0; 32] };
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

fn expired(answer: &SavedAnswer, now: i64) -> bool {
    now.saturating_sub(answer.created) >= LIFETIME_SECONDS
}

fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Random letters and digits.
pub(super) fn random_text(length: usize) -> Result<String, NoRandomness> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(letters(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::super::objects::{RefundStatus, Settles};
    use super::*;

    #[test]
    fn a_snapshot_is_the_same_books() {
        let mut books = Books::new(Settings::new(true)).unwrap();
        let endpoint = json!({
            "id": "we_1", "url": "http://127.0.0.1/", "secrets": ["whsec_0123456789"], "types": ["refund.*"],
            "of_start": false, "pending": [],
        });
        books.put(Record::WebhookEndpoint(serde_json::from_value(endpoint).unwrap()));
        for (kind, object) in [
            ("refund.created", json!({ "a": 1 })),
            ("refund.updated", json!({})),
            ("charge.updated", json!({})),
        ] {
            books.emit(kind, &object, None);
        }
        let ids: Vec<String> = books.events.oldest_first().map(|event| event.id.clone()).collect();
        books.put(Record::Delivered { endpoint: "we_1".into(), event: ids[0].clone() });
        let twin = books.twin(&ids[1]).unwrap().id;
        assert!(!ids.contains(&twin));
        books.put(Record::Refund(Refund {
            id: "re_1".into(),
            created: 0,
            charge: "ch_1".into(),
            payment_intent: "pi_1".into(),
            amount: 1,
            currency: "usd".into(),
            reason: None,
            balance_transaction: "txn_1".into(),
            metadata: Default::default(),
            status: RefundStatus::Pending,
            settles: Some(Settles { at: 1, succeeds: true }),
            failure_balance_transaction: None,
        }));
        let setup = json!([
            { "kind": "setup_intent", "value": {
                "id": "seti_1", "created": 0, "client_secret": "x", "status": "succeeded", "usage": "off_session",
                "metadata": {},
            } },
            { "kind": "setup_attempt", "value": {
                "id": "setatt_1", "created": 0, "setup_intent": "seti_1", "payment_method": "pm_1",
                "usage": "off_session", "status": "succeeded", "cvc_check": "fail",
            } },
        ]);
        serde_json::from_value::<Vec<Record>>(setup)
            .unwrap()
            .into_iter()
            .for_each(|record| books.put(record));
        let lines = serde_json::to_string(&books.snapshot()).unwrap();
        let mut again = Books::new(Settings::new(false)).unwrap();
        serde_json::from_str::<Vec<Record>>(&lines)
            .unwrap()
            .into_iter()
            .for_each(|record| again.apply(record));
        assert_eq!(serde_json::to_string(&again.snapshot()).unwrap(), lines);
        assert_eq!(again.endpoints[0].pending, [ids[1].clone()]);
        assert_eq!(again.setups.oldest_first().count() + again.attempts.oldest_first().count(), 2);
        assert_eq!((again.events.next(), again.due().as_deref()), (5, Some("re_1")));
        assert_eq!(again.events.get(&ids[0]).unwrap().object, r#"{"a":1}"#);
    }
}
