//! Self-service for clients, under `/billing`: balance, entries, credit in advance.
//!
//! Authenticated by `Authorization: Bearer <clientId>` or by the clientId in a `payment` header. Amounts are stripe402
//! units (1/10,000 of the major unit); `…Exact` members are decimals of the major unit.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::callers::Callers;
use super::origin::Origin;
use super::payment_answer::{self, Note};
use super::problem::{self, Problem};
use super::spoken::{self, NotTaken};
use super::{repeat_key, statement};
use crate::crowd::Crowd;
use crate::db::{Db, DbError};
use crate::domain::{ClientKey, Micros, PaymentMethodId, RequestId, SecretHash, TopUpId, Units};
use crate::ledger::core::ClientState;
use crate::ledger::keys::{KeyLookup, KeyRecord, Keys};
use crate::ledger::{Ledger, read};
use crate::paywall::offer::Offers;
use crate::paywall::refusal::frozen_words;
use crate::paywall::{AfterCharge, Paywall, Refusal, Refused, Wallet};
use crate::protocol::{Credential, Instrument, card_number, strict_json, stripe402};
use crate::proxy::pace::Patience;
use crate::proxy::upload::read_whole;
use crate::sparing_log::sparingly;
use crate::top_up::store::{State, TopUpRow};
use crate::top_up::{Landed, Repeat, TopUpRequest};

/// Largest body of a billing call.
const MAX_BODY: usize = 8 * 1024;
/// Entries on one page at most, and when nothing is said.
const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;
/// How often one call looks again after waiting for another charge of the same payer.
const ROUNDS: usize = 8;

/// What the billing calls need.
#[derive(Debug, Clone)]
pub struct Billing {
    pub(crate) db: Db,
    pub(crate) ledger: Ledger,
    pub(crate) keys: Arc<Keys>,
    pub(crate) paywall: Paywall,
    pub(crate) offers: Offers,
    pub(crate) crowd: Arc<Crowd>,
    /// How far behind a caller may be with a body.
    pub(crate) body_timeout: Duration,
    pub(crate) origin: Origin,
    pub(crate) callers: Callers,
}

/// The paths.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/balance").get(balance).default_service(web::to(other)))
        .service(web::resource("/entries").get(entries).default_service(web::to(other)))
        .service(web::resource("/top-ups").post(create_top_up).default_service(web::to(other)))
        .service(web::resource("/top-ups/{id}").get(show_top_up).default_service(web::to(other)))
        .default_service(web::to(other));
}

async fn other(request: HttpRequest) -> HttpResponse {
    if request.method() == actix_web::http::Method::OPTIONS {
        return done(super::preflight(&request), RequestId::new());
    }
    refuse(Problem::NotFound, RequestId::new())
}

fn done(mut response: HttpResponse, id: RequestId) -> HttpResponse {
    super::finish(&mut response, id);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refuse(problem: Problem, id: RequestId) -> HttpResponse {
    let mut response = problem::plain(problem, id);
    if problem.answer().status == 401 {
        response
            .headers_mut()
            .insert(actix_web::http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    done(response, id)
}

fn invalid(detail: &str, id: RequestId) -> HttpResponse {
    let answer = Problem::InvalidBillingRequest.answer();
    done(problem::response(answer, Some(detail), id, Map::new()), id)
}

fn unavailable(error: &dyn std::fmt::Display, id: RequestId) -> HttpResponse {
    sparingly!(error, %error, request.id = %id, "a billing call failed in the database");
    refuse(Problem::Unavailable, id)
}

/// The presented clientId, if any.
fn presented_key(request: &HttpRequest, billing: &Billing) -> Result<Option<ClientKey>, Problem> {
    let mut authorizations = request.headers().get_all("authorization");
    if let Some(value) = authorizations.next() {
        if spoken::presents_unspoken(&billing.offers.dialects, request.headers()) {
            return Err(Problem::PaymentProtocolOff);
        }
        // Two answers to "whose wallet?" are none.
        if authorizations.next().is_some() || spoken::presents_any(request) {
            return Err(Problem::AmbiguousCredentials);
        }
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::Unauthorized)?;
        let token = text
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        if card_number::hides_card_number(token.unwrap_or(text)) {
            return Err(Problem::RawCardData);
        }
        return token.and_then(ClientKey::parse).map(Some).ok_or(Problem::Unauthorized);
    }
    let credential = spoken::read_credential(&billing.offers.dialects, request.headers());
    let credential = credential.map_err(|why| match why {
        NotTaken::Refused(_, Refusal::RawCardData) => Problem::RawCardData,
        NotTaken::Refused(..) => Problem::Unauthorized,
        NotTaken::Problem(problem) => problem,
    })?;
    Ok(credential.and_then(|credential| credential.client_key))
}

/// Who asks. `Err` is the finished refusal.
async fn authenticate(
    request: &HttpRequest,
    billing: &Billing,
    id: RequestId,
) -> Result<(ClientKey, KeyLookup), HttpResponse> {
    billing.callers.watch(request);
    let key = presented_key(request, billing).and_then(|key| key.ok_or(Problem::Unauthorized));
    let key = key.map_err(|problem| refuse(problem, id))?;
    let caller = billing.callers.address(request);
    let Some(_looking) = billing.crowd.look_up(caller, billing.keys.was_here(key.hash())).await else {
        return Err(refuse(Problem::Busy, id));
    };
    let found = billing.keys.look_up(key.hash()).await.map_err(|error| unavailable(&error, id))?;
    match found {
        KeyLookup::Unknown => Err(refuse(Problem::UnknownClient, id)),
        KeyLookup::Revoked => {
            let answer = Refusal::KeyRevoked.answer();
            Err(done(problem::response(answer, None, id, Map::new()), id))
        }
        found => Ok((key, found)),
    }
}

/// The client that asks, when its wallet exists already. `Err` is the finished refusal.
async fn client_of(
    request: &HttpRequest,
    billing: &Billing,
    id: RequestId,
) -> Result<KeyRecord, HttpResponse> {
    match authenticate(request, billing, id).await? {
        (_, KeyLookup::Known(record)) => Ok(record),
        (_, KeyLookup::Promised(top_up)) => Err(pending(top_up, id)),
        (_, KeyLookup::Revoked | KeyLookup::Unknown) => Err(refuse(Problem::UnknownClient, id)),
    }
}

fn units(amount: Micros) -> i64 {
    amount.to_units_floor().get()
}

/// A debt is not told smaller than it is.
fn units_owed(debt: Micros) -> i64 {
    debt.to_units_ceil().get()
}

async fn balance(request: HttpRequest, billing: web::Data<Billing>) -> HttpResponse {
    let id = RequestId::new();
    let record = match client_of(&request, &billing, id).await {
        Ok(record) => record,
        Err(refusal) => return refusal,
    };
    let state = match billing.ledger.state(record.client).await {
        Ok(Some(state)) => state,
        Ok(None) => return refuse(Problem::UnknownClient, id),
        Err(error) => return unavailable(&error, id),
    };
    let body = json!({
        "client": &*record.client_public_id,
        "currency": state.currency.code(),
        "balance": units(state.credit()),
        "balanceExact": state.currency.decimal(state.credit()),
        "spendable": units(state.spendable()),
        "spendableExact": state.currency.decimal(state.spendable()),
        "paid": units(state.paid),
        "bonus": units(state.bonus),
        "debt": units_owed(state.debt),
        "debtExact": state.currency.decimal(state.debt),
        "frozen": state.is_frozen(),
        "message": frozen_words(&state),
    });
    done(HttpResponse::Ok().json(body), id)
}

fn pending(top_up: TopUpId, id: RequestId) -> HttpResponse {
    let extra = Map::from_iter([("topUpId".to_owned(), json!(top_up.to_string()))]);
    done(problem::response(Refusal::TopUpPending(top_up).answer(), None, id, extra), id)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    cursor: Option<i64>,
    limit: Option<u32>,
}

async fn entries(request: HttpRequest, billing: web::Data<Billing>) -> HttpResponse {
    let id = RequestId::new();
    let Ok(query) = web::Query::<PageQuery>::from_query(request.query_string()) else {
        return invalid("The query may hold cursor and limit, both whole numbers.", id);
    };
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if limit == 0 || limit > MAX_PAGE {
        return invalid("limit is from 1 to 200.", id);
    }
    let record = match client_of(&request, &billing, id).await {
        Ok(record) => record,
        Err(refusal) => return refusal,
    };
    match read::payer_entries(billing.db.reader(), record.client, query.cursor, limit).await {
        Ok((rows, next)) => {
            let entries: Vec<Value> = rows.iter().map(statement::line).collect();
            done(HttpResponse::Ok().json(json!({ "entries": entries, "nextCursor": next })), id)
        }
        Err(error) => unavailable(&error, id),
    }
}

async fn show_top_up(
    request: HttpRequest,
    path: web::Path<String>,
    billing: web::Data<Billing>,
) -> HttpResponse {
    let id = RequestId::new();
    let (key, found) = match authenticate(&request, &billing, id).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let Some(top_up) = TopUpId::parse(&path) else {
        return refuse(Problem::NotFound, id);
    };
    let row = match billing.paywall.top_ups().find(top_up).await {
        Ok(row) => row,
        Err(error) => return unavailable(&error, id),
    };
    let own = |row: &TopUpRow| match &found {
        KeyLookup::Known(record) => row.client == Some(record.client) || row.key_hash == key.hash(),
        KeyLookup::Promised(_) => row.key_hash == key.hash(),
        KeyLookup::Revoked | KeyLookup::Unknown => false,
    };
    match row.filter(own) {
        Some(row) => done(HttpResponse::Ok().json(top_up_json(&row)), id),
        None => refuse(Problem::NotFound, id),
    }
}

fn top_up_json(row: &TopUpRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "state": if row.state.is_open() { "pending" } else { row.state.word() },
        // A decline is noted before it is certain that the card can never be charged.
        "failure": row.failure.as_ref().filter(|_| row.state == State::Failed),
        "currency": row.currency.code(),
        "amount": units(row.amount),
        "amountExact": row.currency.decimal(row.amount),
        "credits": row.amount.checked_add(row.bonus).map(units),
        "chargeId": row.payment_intent.as_ref().filter(|_| row.state == State::Succeeded),
        "createdAt": chrono::DateTime::from_timestamp_micros(row.created_at).map(|at| at.to_rfc3339()),
    })
}

/// A checked `POST /billing/top-ups`.
struct Order {
    credential: Credential,
    card: PaymentMethodId,
    /// The `Idempotency-Key`.
    key: String,
    caller: Option<IpAddr>,
}

impl Order {
    /// Whose key it is: the clientId's, or the card token's that came alone.
    fn request_key(&self) -> SecretHash {
        let scope = match &self.credential.client_key {
            Some(client) => format!("client {}", client.expose()),
            None => format!("card {}", self.card.expose()),
        };
        SecretHash::of(&format!("{scope}\n{}", self.key))
    }

    /// Whether a top-up was charged to this token.
    fn has_card_of(&self, row: &TopUpRow) -> bool {
        row.pm_hash.is_none_or(|hash| hash == self.card.hash())
    }

    /// The key alone, for a wallet that has ordered the same with another token of its card.
    fn repeat(&self) -> SecretHash {
        SecretHash::of_parts(&[b"order", self.key.as_bytes()])
    }
}

async fn create_top_up(
    request: HttpRequest,
    payload: web::Payload,
    billing: web::Data<Billing>,
) -> HttpResponse {
    let id = RequestId::new();
    billing.callers.watch(&request);
    let caller = billing.callers.address(&request);
    if matches!(super::announced(&request), Ok(Some(length)) if length > MAX_BODY as u64) {
        return refuse(Problem::BodyTooLarge, id);
    }
    let mut order = match read_order(&request, payload, &billing, caller).await {
        Ok(order) => order,
        Err(OrderProblem::Problem(problem)) => return refuse(problem, id),
        Err(OrderProblem::Invalid(detail)) => return invalid(detail, id),
    };
    let outcome = carry_out(&billing, &mut order).await;
    let origin = billing.origin.of(&request);
    let resource = payment_answer::credit(&origin, "/billing/top-ups");
    let response = match outcome {
        Ok(done) => done,
        Err(Stopped::Refused(refused)) => {
            let refused = refused.to(&order.credential);
            payment_answer::refused(&billing.offers, resource, (order.credential.dialect, &refused), id)
        }
        Err(Stopped::Problem(problem)) => problem::plain(problem, id),
        Err(Stopped::Db(error)) => return unavailable(&error, id),
    };
    done(response, id)
}

enum OrderProblem {
    Problem(Problem),
    Invalid(&'static str),
}

/// Headers first: who is refused for them need not send the body.
async fn read_order(
    request: &HttpRequest,
    payload: web::Payload,
    billing: &Billing,
    caller: Option<IpAddr>,
) -> Result<Order, OrderProblem> {
    use OrderProblem::Invalid;
    let client_key = presented_key(request, billing).map_err(OrderProblem::Problem)?;
    let key = repeat_key::required(request.headers())
        .ok_or(Invalid("One Idempotency-Key header of 1 to 255 visible characters is needed: the same key never charges twice."))?;
    let mut room = billing.crowd.bytes(None, caller);
    let patience = Patience::steady(billing.body_timeout);
    let body = read_whole(payload, MAX_BODY as u64, patience, &mut room).await;
    let body: &[u8] = &body.map_err(|fault| OrderProblem::Problem(fault.into()))?;
    let text = std::str::from_utf8(body).map_err(|_| Invalid("The body is not UTF-8."))?;
    if card_number::hides_card_number(text) {
        return Err(OrderProblem::Problem(Problem::RawCardData));
    }
    let json = strict_json::parse(body, strict_json::Limits::bytes(MAX_BODY)).map_err(|_| {
        Invalid("The body is not a JSON object of whole numbers and texts without duplicate names.")
    })?;
    // As it is read, which may differ from how it is written: "\u0034" is a digit.
    if json.has_text(card_number::hides_card_number) {
        return Err(OrderProblem::Problem(Problem::RawCardData));
    }
    let body: TopUpBody = serde_json::from_slice(body)
        .map_err(|_| Invalid("The body is {\"paymentMethodId\": \"pm_…\", \"topUpAmount\": units}; topUpAmount may be left out, and newWallet: true asks for a new wallet."))?;
    let card = PaymentMethodId::parse(&body.payment_method_id)
        .ok_or(Invalid("paymentMethodId is the pm_… id that Stripe gave for the card."))?;
    let top_up_amount = match body.top_up_amount {
        None => None,
        Some(amount) => Some(
            Units::new(amount)
                .filter(|units| units.get() > 0)
                .ok_or(Invalid("topUpAmount is a whole number of units above zero."))?,
        ),
    };
    let credential = Credential {
        // These calls are this protocol's own: their amounts are its units.
        dialect: &stripe402::DIALECT,
        client_key,
        instrument: Some(Instrument::Card(card.clone())),
        top_up_amount: top_up_amount.map(Units::to_micros),
        max_amount: None,
        new_wallet: body.new_wallet.unwrap_or(false),
        binding: None,
        left_out_unknown_client: false,
    };
    Ok(Order { credential, card, key: key.to_owned(), caller })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TopUpBody {
    payment_method_id: String,
    top_up_amount: Option<i64>,
    new_wallet: Option<bool>,
}

enum Stopped {
    Refused(Box<Refused>),
    Problem(Problem),
    Db(DbError),
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }
}

impl From<DbError> for Stopped {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

async fn carry_out(billing: &Billing, order: &mut Order) -> Result<HttpResponse, Stopped> {
    let top_ups = billing.paywall.top_ups();
    if let Some(key) = &order.credential.client_key {
        let was_here = billing.keys.was_here(key.hash());
        let Some(_looking) = billing.crowd.look_up(order.caller, was_here).await else {
            return Err(Stopped::Problem(Problem::Busy));
        };
        billing.paywall.recognise_or_card(&mut order.credential).await?;
    }
    let order = &*order;
    for _ in 0..ROUNDS {
        if let Some(row) = top_ups.find_by_request_key(order.request_key()).await? {
            let same_card = order.has_card_of(&row);
            if let Some(answer) = repeated(billing, order, row, same_card).await? {
                return Ok(answer);
            }
            continue;
        }
        let wallet = billing.paywall.recognise(&order.credential).await?;
        if let Some(wallet) = &wallet
            && let Some(row) = top_ups.find_order(wallet.record.client, order.repeat()).await?
        {
            // Of a token without a clientId, the bank has confirmed that it is of the wallet's card.
            let same_card = order.credential.client_key.is_none() || order.has_card_of(&row);
            if let Some(answer) = repeated(billing, order, row, same_card).await? {
                return Ok(answer);
            }
            continue;
        }
        let state = match &wallet {
            Some(wallet) => billing.ledger.state(wallet.record.client).await?,
            None => None,
        };
        let payer = billing.paywall.payer(&order.credential, wallet.as_ref()).await?;
        let refused =
            |refusal: Refusal| Refused { wallet: wallet.clone(), state, ..Refused::because(refusal) };
        if wallet.as_ref().is_some_and(|wallet| !wallet.record.scope.may_spend()) {
            return Err(refused(Refusal::Scope).into());
        }
        if state.is_some_and(|state| state.frozen) {
            return Err(refused(Refusal::ClientFrozen).into());
        }
        let amount = top_ups
            .amounts()
            .choose(order.credential.top_up_amount, Micros::ZERO, state.as_ref())
            .map_err(|problem| refused(problem.into()))?;
        let request = TopUpRequest {
            payer,
            payment_method: order.card.clone(),
            amount,
            reserve: None,
            request_key: Some(order.request_key()),
            repeat: Some(Repeat::Order(order.repeat())),
            new_wallet: order.credential.new_wallet,
            caller: order.caller,
            // Who has a wallet may buy in advance; nobody's first payment goes to an API that is down.
            upstream: wallet.is_none().then(|| billing.paywall.upstream().cloned()).flatten(),
        };
        match top_ups.charge(request).await.into() {
            AfterCharge::Recorded(recorded) => {
                let wallet = wallet.unwrap_or_else(|| Wallet {
                    is_instead_of_unknown: order.credential.left_out_unknown_client,
                    ..billing.paywall.wallet_of(&recorded.key)
                });
                let row = top_ups.find(recorded.top_up).await?;
                let Some(row) = row else {
                    return Err(Stopped::Problem(Problem::Unavailable));
                };
                return Ok(credited(&row, &wallet, Some(&recorded.posted.state), true));
            }
            AfterCharge::LookAgain => {}
            AfterCharge::Pending(id) => {
                let promised = billing.paywall.promised(id).await;
                return Err(Refused { promised, ..refused(Refusal::TopUpPending(id)) }.into());
            }
            AfterCharge::Refused(refusal) => return Err(refused(refusal).into()),
        }
    }
    // Every round met another charge of the same payer.
    Err(Refused::because(Refusal::TopUpInProgress).into())
}

/// The answer for an `Idempotency-Key` that was here before. `None`: it has just been settled, look again.
async fn repeated(
    billing: &Billing,
    order: &Order,
    row: TopUpRow,
    same_card: bool,
) -> Result<Option<HttpResponse>, Stopped> {
    let same_amount = order.credential.top_up_amount.is_none_or(|amount| amount == row.amount);
    if !same_amount || !same_card {
        return Err(Stopped::Problem(Problem::IdempotencyMismatch));
    }
    let top_ups = billing.paywall.top_ups();
    match row.state {
        State::Succeeded => {
            // The key that whoever asks has shown, or has been given: never a wider one of the same wallet.
            let wallet = match billing.paywall.recognise(&order.credential).await? {
                Some(wallet) => wallet,
                None => {
                    let Ok(KeyLookup::Known(record)) = billing.keys.look_up(row.key_hash).await else {
                        return Err(Stopped::Problem(Problem::Unavailable));
                    };
                    billing.paywall.wallet_of(&record)
                }
            };
            let state = billing.ledger.state(wallet.record.client).await?;
            Ok(Some(credited(&row, &wallet, state.as_ref(), false)))
        }
        State::Failed => {
            let refusal = match row.failure.as_deref() {
                Some("card_declined" | "card_suspect") => Refusal::CardDeclined,
                Some("authentication_required") => Refusal::AuthenticationRequired,
                Some("payment_method_of_other_client") => Refusal::PaymentMethodOfOtherClient,
                Some("former_stripe_account") => Refusal::FormerStripeAccount,
                Some("invalid_payment") => crate::top_up::FailureReason::InvalidPaymentMethod.into(),
                _ => Refusal::PaymentFailed,
            };
            // Whose it is, for the offer: what it names must be what this wallet may be charged now.
            let wallet = billing.paywall.recognise(&order.credential).await.ok().flatten();
            let state = match &wallet {
                Some(wallet) => billing.ledger.state(wallet.record.client).await?,
                None => None,
            };
            Err(Refused { wallet, state, ..Refused::because(refusal) }.into())
        }
        State::Created | State::Confirming | State::Pending => match top_ups.settle_now(&row).await {
            // `Nothing`: whoever charged has settled it while we waited.
            Landed::Credited | Landed::Failed(_) | Landed::Nothing | Landed::Unchecked => Ok(None),
            Landed::Pending(_) | Landed::Unavailable => {
                // Of a wallet that is there, whoever asks is told the key that they have shown or were given, and no other.
                let wallet = billing.paywall.recognise(&order.credential).await.ok().flatten();
                let promised = if row.client.is_none() { top_ups.promised_key(&row) } else { None };
                Err(Refused { wallet, promised, ..Refused::because(Refusal::TopUpPending(row.id)) }.into())
            }
        },
    }
}

fn credited(row: &TopUpRow, wallet: &Wallet, state: Option<&ClientState>, fresh: bool) -> HttpResponse {
    let receipt = payment_answer::topped_up(row, wallet, state);
    let mut body = top_up_json(row);
    if let Value::Object(members) = &mut body {
        members.extend(receipt.balance.map(|balance| ("balance".to_owned(), json!(units(balance)))));
        members.insert("idempotentReplay".into(), json!(!fresh));
        if let Some(key) = &receipt.client_key {
            members.insert("clientId".into(), json!(key.expose()));
        }
        members.extend(stripe402::standing_members(&receipt));
        if let Some(state) = state {
            members.extend(frozen_words(state).map(|words| ("message".to_owned(), json!(words))));
        }
    }
    let mut response = if fresh { HttpResponse::Created().json(body) } else { HttpResponse::Ok().json(body) };
    Note { dialect: &stripe402::DIALECT, receipt }.write(response.headers_mut());
    response
}
