//! The pages.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use askama::Template;
use serde::Deserialize;

use super::sessions::Session;
use super::view::{
    Chrome, ClientView, EntryView, Figure, KeyView, Moment, TopUpView, Trouble, counted, duration, money,
    sums,
};
use super::{AdminState, headers};
use crate::domain::TopUpId;
use crate::domain::ids::CLIENT_KEY_PREFIX;
use crate::ledger::adjustments;
use crate::ledger::read::{self, Overview, TopUpFilter};
use crate::payments::ParkedEvents;
use crate::payments::evidence;

/// Rows on a page.
const ROWS: u32 = 50;
/// Rows in a table that is only a glimpse.
const FEW: u32 = 10;
/// A search text is cut to this many characters.
const MAX_SEARCH: usize = 64;
/// As much of a client key as may be in an address: the part that is shown to people anyway.
const SHOWN_KEY: usize = 10;

/// What is said under a name that is not this listener's.
pub(super) const UNKNOWN_HOST: &str = "The admin listener does not answer to this host name, because a web site could have its own name \
                                       point here. Use its IP address or localhost, or write the name into admin_hosts.";

const STYLE: &str = include_str!("../../../templates/admin/style.css");

/// `GET /admin/style.css`.
pub(super) async fn style_sheet() -> HttpResponse {
    HttpResponse::Ok().content_type("text/css; charset=UTF-8").body(STYLE)
}

/// A page from its template.
pub(super) fn page(status: StatusCode, template: &impl Template) -> HttpResponse {
    match template.render() {
        Ok(body) => HttpResponse::build(status).content_type("text/html; charset=UTF-8").body(body),
        Err(error) => {
            tracing::error!(%error, "an admin page could not be rendered");
            HttpResponse::InternalServerError()
                .content_type(ContentType::plaintext())
                .body("Something went wrong.")
        }
    }
}

/// To another page, by GET.
pub(super) fn see_other(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, path)).finish()
}

#[derive(Template)]
#[template(path = "admin/message.html")]
struct MessagePage<'a> {
    chrome: Chrome<'a>,
    title: &'a str,
    text: &'a str,
}

fn message(
    state: &AdminState,
    session: Option<&Session>,
    status: StatusCode,
    title: &str,
    text: &str,
) -> HttpResponse {
    let chrome = session.map_or_else(|| Chrome::outside(state), |session| Chrome::new(state, session, ""));
    page(status, &MessagePage { chrome, title, text })
}

/// A change that none of our own pages asked for.
pub(super) fn refused(state: &AdminState, session: Option<&Session>) -> HttpResponse {
    let text = "This request did not come from a page of this site, or the page was too old. Nothing was changed. \
                Please go back, load the page again and repeat what you did.";
    message(state, session, StatusCode::FORBIDDEN, "Request refused", text)
}

/// A name that is not this listener's.
pub(super) fn unknown_host(state: &AdminState) -> HttpResponse {
    message(state, None, StatusCode::MISDIRECTED_REQUEST, "Unknown host", UNKNOWN_HOST)
}

/// Something of ours failed. The page says nothing about it; the log does.
pub(super) fn failed(
    state: &AdminState,
    session: Option<&Session>,
    error: &dyn std::error::Error,
) -> HttpResponse {
    tracing::error!(%error, "an admin page failed");
    let text =
        "The database did not answer as expected. No money was moved by this. The server's log says more.";
    message(state, session, StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong", text)
}

fn nothing_here(state: &AdminState, session: Option<&Session>) -> HttpResponse {
    let text = "There is nothing at this address. The overview is a good place to start.";
    message(state, session, StatusCode::NOT_FOUND, "Not found", text)
}

/// Everything else below `/admin`.
pub(super) async fn not_found(state: web::Data<AdminState>, session: web::ReqData<Session>) -> HttpResponse {
    nothing_here(&state, Some(&session))
}

/// Everything outside `/admin`.
pub(super) async fn outside(state: web::Data<AdminState>) -> HttpResponse {
    let mut answer = nothing_here(&state, None);
    headers::set(answer.headers_mut(), Some(&state));
    answer
}

#[derive(Template)]
#[template(path = "admin/overview.html")]
struct OverviewPage<'a> {
    chrome: Chrome<'a>,
    figures: Vec<Figure>,
    top_ups: Vec<TopUpView>,
    entries: Vec<EntryView>,
}

fn figures(overview: &Overview, now: i64) -> Vec<Figure> {
    let clients = overview.balances.iter().fold(0_i64, |sum, row| sum.saturating_add(row.clients));
    let balance = |of: fn(&read::Balances) -> i64| -> Vec<String> {
        overview.balances.iter().map(|row| money(of(row), &row.currency)).collect()
    };
    let since = Moment::at(overview.revenue_since).text;
    let (revenue, note) = if overview.revenue_is_partial {
        let entries = read::REVENUE_ENTRIES / 1_000;
        ("Revenue".to_owned(), format!("newest {entries},000 ledger entries, since {since} UTC"))
    } else {
        ("Revenue, last 24 hours".to_owned(), "requests served and paid for".to_owned())
    };
    let unfinished = match overview.unfinished.oldest {
        None => "every outcome is known".to_owned(),
        Some(oldest) => format!(
            "{}, the oldest since {}",
            counted(&overview.unfinished.sums, "payment"),
            duration(now.saturating_sub(oldest))
        ),
    };
    let (today, week) = (&overview.charged_today, &overview.charged_7_days);
    vec![
        Figure::new(revenue, sums(&overview.revenue), note),
        Figure::new(
            "Charged today",
            sums(today),
            format!("{} since midnight UTC", counted(today, "payment")),
        ),
        Figure::new("Charged, last 7 days", sums(week), counted(week, "payment")),
        Figure::new("Unfinished payments", sums(&overview.unfinished.sums), unfinished),
        Figure::new("Clients", vec![clients.to_string()], "wallets with a balance of their own"),
        Figure::new("Paid credit", balance(|row| row.paid), "owed to clients in service"),
        Figure::new("Bonus credit", balance(|row| row.bonus), "given on top, not refundable"),
        Figure::new("Debt", balance(|row| row.debt), "taken back after it was spent"),
    ]
}

/// Only when there is something to look at.
fn parked(events: ParkedEvents, now: i64) -> Option<Figure> {
    let oldest = duration(now.saturating_sub(events.oldest?));
    let note = format!("the oldest for {oldest}; they are tried again by themselves, and the log says why");
    Some(Figure::new("Events of Stripe's not applied yet", vec![events.count.to_string()], note))
}

/// `GET /admin`.
pub(super) async fn overview(state: web::Data<AdminState>, session: web::ReqData<Session>) -> HttpResponse {
    let now = state.clock.now();
    let pool = state.db.reader();
    let load = async {
        let mut figures = figures(&read::overview(pool, now).await?, now);
        figures.extend(parked(ParkedEvents::read(pool).await?, now));
        let is_not_heard = |finding| Figure::new("Proxy in front", vec!["not heard".to_owned()], finding);
        figures.extend(state.callers.finding().map(is_not_heard));
        let top_ups = read::recent_top_ups(pool, FEW).await?;
        let entries = read::recent_entries(pool, FEW).await?;
        Ok::<_, sqlx::Error>((figures, top_ups, entries))
    };
    let (figures, top_ups, entries) = match load.await {
        Ok(loaded) => loaded,
        Err(error) => return failed(&state, Some(&session), &error),
    };
    let template = OverviewPage {
        chrome: Chrome::new(&state, &session, "overview"),
        figures,
        top_ups: top_ups.into_iter().map(TopUpView::from).collect(),
        entries: entries.into_iter().map(EntryView::from).collect(),
    };
    page(StatusCode::OK, &template)
}

/// What stands behind the `?` of a list.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    q: Option<String>,
    before: Option<String>,
    state: Option<String>,
}

/// A cursor that is a number, or `Err` for what is none.
fn number(before: Option<&str>) -> Result<Option<i64>, ()> {
    before.map(|text| text.parse::<i64>().map_err(|_| ())).transpose()
}

#[derive(Template)]
#[template(path = "admin/clients.html")]
struct ClientsPage<'a> {
    chrome: Chrome<'a>,
    q: String,
    is_card_token: bool,
    is_first: bool,
    clients: Vec<ClientView>,
    next: Option<i64>,
}

/// What a search text becomes.
enum Search {
    For(String),
    /// Go to an address that does not hold a secret.
    Shorten(String),
    /// A `pm_…`: of these only hashes are kept.
    CardToken,
}

/// Client keys and card tokens are secrets: they are neither kept in the address nor shown again.
fn search_text(q: &str) -> Search {
    let q: String = q.trim().chars().filter(|c| !c.is_control()).take(MAX_SEARCH).collect();
    if q.starts_with("pm_") {
        return Search::CardToken;
    }
    let shown: String = q.chars().take(SHOWN_KEY).collect();
    if q.starts_with(CLIENT_KEY_PREFIX) && shown.len() < q.len() {
        Search::Shorten(shown)
    } else {
        Search::For(q)
    }
}

/// `GET /admin/clients?q=…&before=…`.
pub(super) async fn clients(
    state: web::Data<AdminState>,
    session: web::ReqData<Session>,
    query: Result<web::Query<ListQuery>, Error>,
) -> HttpResponse {
    let Ok(web::Query(query)) = query else { return nothing_here(&state, Some(&session)) };
    let Ok(before) = number(query.before.as_deref()) else { return nothing_here(&state, Some(&session)) };
    let (q, is_card_token) = match search_text(query.q.as_deref().unwrap_or_default()) {
        Search::For(q) => (q, false),
        Search::CardToken => (String::new(), true),
        Search::Shorten(q) => {
            let q = percent_encoding::utf8_percent_encode(&q, percent_encoding::NON_ALPHANUMERIC);
            return see_other(&format!("/admin/clients?q={q}"));
        }
    };
    let mut rows = if is_card_token {
        Vec::new()
    } else {
        match read::list_clients(state.db.reader(), Some(&q), before, ROWS.saturating_add(1)).await {
            Ok(rows) => rows,
            Err(error) => return failed(&state, Some(&session), &error),
        }
    };
    let next = cut(&mut rows, |row| row.id);
    let template = ClientsPage {
        chrome: Chrome::new(&state, &session, "clients"),
        q,
        is_card_token,
        is_first: before.is_none(),
        clients: rows.into_iter().map(ClientView::from).collect(),
        next,
    };
    page(StatusCode::OK, &template)
}

/// Cuts a list that was asked for with one row too many, and says where the next page starts.
fn cut<T, C>(rows: &mut Vec<T>, cursor: impl Fn(&T) -> C) -> Option<C> {
    let wanted = usize::try_from(ROWS).unwrap_or(usize::MAX);
    if rows.len() <= wanted {
        return None;
    }
    rows.truncate(wanted);
    rows.last().map(cursor)
}

#[derive(Template)]
#[template(path = "admin/client.html")]
struct ClientPage<'a> {
    chrome: Chrome<'a>,
    client: ClientView,
    is_first: bool,
    keys: Vec<KeyView>,
    top_ups: Vec<TopUpView>,
    troubles: Vec<Trouble>,
    entries: Vec<EntryView>,
    next: Option<i64>,
}

/// `GET /admin/clients/{public_id}?before=…`.
pub(super) async fn client(
    state: web::Data<AdminState>,
    session: web::ReqData<Session>,
    request: HttpRequest,
    query: Result<web::Query<ListQuery>, Error>,
) -> HttpResponse {
    let public_id = request.match_info().get("public_id").unwrap_or_default();
    let before = query.map_err(|_| ()).and_then(|query| number(query.before.as_deref()));
    let Ok(before) = before else { return nothing_here(&state, Some(&session)) };
    let pool = state.db.reader();
    let load = async {
        let Some(client) = read::client_by_public_id(pool, public_id).await? else { return Ok(None) };
        let entries = read::client_entries(pool, client.id, before, ROWS.saturating_add(1)).await?;
        // Keys and payments are on the first page only.
        let (keys, top_ups, troubles) = if before.is_none() {
            let keys = read::client_keys(pool, client.id).await?;
            let top_ups = read::client_top_ups(pool, client.id, ROWS, None).await?;
            let freezes = evidence::freezes_of(pool, client.id).await?;
            let payments = read::client_troubles(pool, client.id, ROWS).await?;
            let adjusted = adjustments::of_client(pool, client.id, i64::from(ROWS)).await?;
            let payments = payments.into_iter().map(Trouble::of_payment);
            let freezes = freezes.into_iter().map(Trouble::of_freeze);
            let adjusted = adjusted.into_iter().map(Trouble::of_adjustment);
            (keys, top_ups, payments.chain(freezes).chain(adjusted).collect())
        } else {
            (Vec::new(), Vec::new(), Vec::new())
        };
        Ok::<_, sqlx::Error>(Some((client, entries, keys, top_ups, troubles)))
    };
    let (client, mut entries, keys, top_ups, troubles) = match load.await {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return nothing_here(&state, Some(&session)),
        Err(error) => return failed(&state, Some(&session), &error),
    };
    let next = cut(&mut entries, |entry| entry.id);
    let template = ClientPage {
        chrome: Chrome::new(&state, &session, "clients"),
        client: ClientView::from(client),
        is_first: before.is_none(),
        keys: keys.into_iter().map(KeyView::from).collect(),
        top_ups: top_ups.into_iter().map(TopUpView::from).collect(),
        troubles,
        entries: entries.into_iter().map(EntryView::from).collect(),
        next,
    };
    page(StatusCode::OK, &template)
}

#[derive(Template)]
#[template(path = "admin/payments.html")]
struct PaymentsPage<'a> {
    chrome: Chrome<'a>,
    filter: &'static str,
    is_first: bool,
    top_ups: Vec<TopUpView>,
    next: Option<String>,
}

/// `GET /admin/payments?state=…&before=…`.
pub(super) async fn payments(
    state: web::Data<AdminState>,
    session: web::ReqData<Session>,
    query: Result<web::Query<ListQuery>, Error>,
) -> HttpResponse {
    let Ok(web::Query(query)) = query else { return nothing_here(&state, Some(&session)) };
    let (filter, wanted) = match query.state.as_deref().unwrap_or_default() {
        "" => ("", TopUpFilter::All),
        "succeeded" => ("succeeded", TopUpFilter::Succeeded),
        "failed" => ("failed", TopUpFilter::Failed),
        "unfinished" => ("unfinished", TopUpFilter::Unfinished),
        _ => return nothing_here(&state, Some(&session)),
    };
    let before = query.before.as_deref();
    if before.is_some_and(|id| TopUpId::parse(id).is_none()) {
        return nothing_here(&state, Some(&session));
    }
    match read::list_top_ups(state.db.reader(), wanted, before, ROWS).await {
        Ok(listed) => {
            let template = PaymentsPage {
                chrome: Chrome::new(&state, &session, "payments"),
                filter,
                is_first: before.is_none(),
                top_ups: listed.rows.into_iter().map(TopUpView::from).collect(),
                next: listed.next,
            };
            page(StatusCode::OK, &template)
        }
        Err(error) => failed(&state, Some(&session), &error),
    }
}
