//! The way of a request through the simulator: key, fault, idempotency key, execution, journal, answer.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::dev::Server;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, header, key_in_use, replay, respond};
use super::books::{Books, Record, random_text};
use super::control;
use super::endpoint::Endpoint;
use super::endpoints::{self, Caller};
use super::error::{ApiError, Refusal};
use super::events::Cause;
use super::faults::{Action, Fault, Faults};
use super::form::{Form, Node};
use super::idempotency::{InFlight, KeyInUse, MAX_KEY, Verdict};
use super::journal::Journal;
use super::objects::SavedAnswer;
use super::request_log::RequestLog;
use super::webhooks::{self, Deliveries};

/// The largest request body.
const MAX_BODY: usize = 64 * 1024;
/// How often the clock is looked at for outcomes that are due.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// A running simulator.
#[derive(Debug)]
pub(super) struct Sim {
    keys: Keys,
    state: Mutex<State>,
    journal: Journal,
    in_flight: InFlight,
    held: AtomicUsize,
    release: Notify,
    /// Sends webhooks.
    pub(super) client: Client<HttpConnector, Full<web::Bytes>>,
    /// Where background work runs: the server's workers have runtimes of their own, which end with them.
    pub(super) runtime: tokio::runtime::Handle,
    /// Ends the background work.
    pub(super) stopping: CancellationToken,
    changes: watch::Sender<()>,
}

struct Keys {
    secret: String,
    publishable: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What requests change.
#[derive(Debug)]
pub(super) struct State {
    /// See [`Books`].
    pub(super) books: Books,
    /// See [`Faults`].
    pub(super) faults: Faults,
    /// See [`RequestLog`].
    pub(super) log: RequestLog,
    /// See [`Deliveries`].
    pub(super) deliveries: Deliveries,
    /// What the secret key may not do: see [`Endpoint::permission`].
    pub(super) withheld: BTreeSet<String>,
}

/// A request as far as the simulator looks at it.
struct Call {
    method: String,
    path: String,
    form: Form,
    endpoint: Endpoint,
    id: String,
    caller: Caller,
    key: Option<String>,
    request_id: String,
    number: u64,
}

impl Sim {
    /// A simulator over its books. Must be called inside a tokio runtime.
    pub(super) fn new(secret: String, publishable: String, books: Books, journal: Journal) -> Self {
        Self {
            keys: Keys { secret, publishable },
            state: Mutex::new(State {
                books,
                faults: Faults::default(),
                log: RequestLog::default(),
                deliveries: Deliveries::default(),
                withheld: BTreeSet::new(),
            }),
            journal,
            in_flight: InFlight::default(),
            held: AtomicUsize::new(0),
            release: Notify::new(),
            client: webhooks::client(),
            runtime: tokio::runtime::Handle::current(),
            stopping: CancellationToken::new(),
            changes: watch::Sender::new(()),
        }
    }

    /// Starts the work that goes on without requests: webhooks, and outcomes that come later.
    pub(super) fn begin(self: &Arc<Self>) {
        let ids: Vec<String> = self.state().books.endpoints.iter().map(|known| known.id.clone()).collect();
        for id in ids {
            webhooks::serve(self, id);
        }
        let sim = Arc::clone(self);
        self.runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = sim.stopping.cancelled() => return,
                    () = tokio::time::sleep(TICK) => sim.bring_what_is_due(),
                }
            }
        });
    }

    fn bring_what_is_due(&self) {
        let mut state = self.state();
        if let Err(error) = endpoints::later::bring(&mut state.books) {
            tracing::warn!(reason = %error.body(), "the simulated Stripe cannot bring an outcome that is due");
        }
        self.enqueue(&mut state);
    }

    /// Something to wait on until the state has changed.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Tells whoever waits for a change.
    pub(super) fn wake(&self) {
        self.changes.send_replace(());
    }

    /// The state. A panic while it was held cannot leave half a request in it: changes are made one object at a time and
    /// reach the journal together, so going on is better than refusing every later request.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that are held by a fault.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Lets all held requests go on; returns how many.
    pub(super) fn release(&self) -> usize {
        let held = self.held();
        self.release.notify_waiters();
        held
    }

    /// Gives what changed to the journal and waits for the disk.
    pub(super) async fn commit(&self, number: u64) -> Result<(), Refusal> {
        self.journal.durable(number).await.map_err(|error| ApiError::api(error.to_string()))
    }

    /// The line that holds the changes since the last one. Call it before letting the state go.
    pub(super) fn enqueue(&self, state: &mut State) -> u64 {
        let records = state.books.take_pending();
        let line = self.journal.enqueue(&records);
        if !records.is_empty() {
            self.wake();
        }
        line
    }

    /// Ends the background work and gives the file up.
    pub(super) async fn close(&self) {
        self.stopping.cancel();
        self.journal.close().await;
    }

    async fn hold(&self) {
        struct Held<'a>(&'a AtomicUsize);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        let mut released = pin!(self.release.notified());
        // Counted only once it would hear the release, so that a caller who saw the count can rely on it.
        released.as_mut().enable();
        self.held.fetch_add(1, Ordering::AcqRel);
        let _held = Held(&self.held);
        released.await;
    }

    /// Which key the caller shows: Bearer, Basic, or for a publishable key the parameter `key`.
    fn caller(&self, request: &HttpRequest, form: &mut Form) -> Result<Caller, Refusal> {
        let parameter = match form.remove("key") {
            Some(Node::Text(key)) => Some(key),
            _ => None,
        };
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let shown = match header.and_then(|value| value.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim().to_owned()),
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("basic") => {
                base64::engine::general_purpose::STANDARD
                    .decode(token.trim())
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .map(|pair| pair.split(':').next().unwrap_or_default().to_owned())
            }
            _ => parameter.filter(|key| key.starts_with("pk_")),
        };
        let Some(shown) = shown else {
            return Err(ApiError::request(
                401,
                "You did not provide an API key. Provide it in the Authorization header, using Bearer auth.",
            ));
        };
        let is = |key: &str| bool::from(shown.as_bytes().ct_eq(key.as_bytes()));
        if is(&self.keys.secret) {
            Ok(Caller::Secret)
        } else if is(&self.keys.publishable) {
            Ok(Caller::Publishable)
        } else if shown.contains("_live_") {
            Err(ApiError::request(401, "This is a simulated Stripe. Never give it a live key."))
        } else {
            Err(ApiError::request(401, "Invalid API Key provided."))
        }
    }

    /// Refuses what the secret key may not do, before any object is looked for.
    fn check_permission(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        let permission = endpoint.permission();
        if !self.state().withheld.contains(&permission) {
            return Ok(());
        }
        let key = &self.keys.secret;
        let start = key.get(..8).unwrap_or_default();
        let end = key.get(key.len().saturating_sub(4)..).unwrap_or_default();
        Err(ApiError::request(
            403,
            format!(
                "The provided key '{start}*********{end}' does not have the required permissions for this endpoint on \
                 account 'acct_sandbox'. Having the '{permission}' permission would allow this request to continue."
            ),
        ))
    }

    /// Executes unless the key has an answer already, and waits until the result is on disk.
    async fn perform(&self, call: &Call, fault: Option<&Fault>) -> Answer {
        self.perform_holding(call, fault).await.0
    }

    /// The same; the key stays in use until the second part is dropped.
    async fn perform_holding(&self, call: &Call, fault: Option<&Fault>) -> (Answer, Option<KeyInUse>) {
        let (answer, line, in_use) = match self.execute(call, fault) {
            Ok(done) => done,
            Err(answer) => return (answer, None),
        };
        match self.commit(line).await {
            Ok(()) => (answer, in_use),
            Err(error) => (Answer::refusal(error), in_use),
        }
    }

    /// The key is held by the third part until the answer is on disk.
    fn execute(&self, call: &Call, fault: Option<&Fault>) -> Result<(Answer, u64, Option<KeyInUse>), Answer> {
        let mut state = self.state();
        let mac = call.key.as_ref().map(|_| {
            state.books.request_mac(&format!("{} {} {}", call.method, call.path, call.form.canonical()))
        });
        let mut in_use = None;
        if let (Some(key), Some(mac)) = (&call.key, &mac) {
            match self.in_flight.begin(&state.books, key, mac) {
                Verdict::Execute(guard) => in_use = Some(guard),
                Verdict::Replay(saved) => {
                    let line = self.enqueue(&mut state);
                    return Ok((replay(saved), line, None));
                }
                Verdict::Mismatch => return Err(Answer::refusal(ApiError::idempotency_mismatch())),
                Verdict::InUse => return Err(key_in_use()),
            }
        }
        let failure = |saved: bool| {
            let mut error = ApiError::api("An error occurred on our end (simulated).");
            error.saved = saved;
            error
        };
        let before = fault.is_some_and(|fault| fault.action == Action::FailBefore);
        let result = if before {
            Err(failure(fault.is_some_and(|fault| fault.saved)))
        } else {
            state.books.cause = Cause { request: Some(call.request_id.clone()), key: call.key.clone() };
            let result =
                endpoints::execute(&mut state.books, call.endpoint, &call.id, &call.form, call.caller);
            state.books.cause = Cause::default();
            result
        };
        let began = match &result {
            Ok(_) => true,
            Err(error) => error.saved,
        };
        let true_answer = Answer::of(&result);
        let remembered_failure = fault.filter(|fault| fault.action == Action::FailAfter && fault.saved);
        let answer = match remembered_failure {
            Some(_) if began => Answer::refusal(failure(true)),
            _ => true_answer,
        };
        if let (Some(key), Some(request), true) = (&call.key, mac, began) {
            let created = state.books.now();
            state.books.put(Record::Saved(SavedAnswer {
                key: key.clone(),
                created,
                request,
                request_id: call.request_id.clone(),
                status: answer.status,
                body: answer.body.clone(),
            }));
        }
        let line = self.enqueue(&mut state);
        Ok((answer, line, in_use))
    }
}

/// Decodes and admits a request: everything that is decided before the idempotency key.
fn admit(
    sim: &Sim,
    request: &HttpRequest,
    body: Result<web::Bytes, actix_web::Error>,
    request_id: &str,
) -> (u64, Result<Call, Refusal>) {
    let (method, path) = (request.method().as_str(), request.path());
    let found = Endpoint::of(method, path);
    let key = header(request, "idempotency-key");
    let number = sim.state().log.arrived(
        method,
        path,
        found.map(|(endpoint, _)| endpoint),
        key.as_deref(),
        header(request, "stripe-version").as_deref(),
    );
    let call = (|| {
        let body = body.map_err(|_| ApiError::request(413, "The request body is too large or broken."))?;
        let body =
            std::str::from_utf8(&body).map_err(|_| ApiError::invalid("The request body is not UTF-8."))?;
        let decode = |text| Form::parse(text).map_err(|error| ApiError::invalid(error.to_string()));
        let mut form = decode(request.query_string())?;
        form.merge(decode(body)?);
        let caller = sim.caller(request, &mut form)?;
        let (endpoint, id) = found.ok_or_else(|| {
            let path: String = path.chars().take(100).collect();
            ApiError::request(404, format!("Unrecognized request URL ({method}: {path})."))
        })?;
        if caller == Caller::Publishable && endpoint != Endpoint::CreateMethod {
            let message =
                "This API call cannot be made with a publishable API key. Please use a secret API key.";
            return Err(ApiError::request(403, message).coded("secret_key_required"));
        }
        sim.check_permission(endpoint)?;
        let key = key.filter(|key| method == "POST" && !key.is_empty());
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            return Err(ApiError::invalid("Idempotency keys have at most 255 characters."));
        }
        Ok(Call {
            method: method.to_owned(),
            path: path.to_owned(),
            form,
            endpoint,
            id: id.to_owned(),
            caller,
            key,
            request_id: request_id.to_owned(),
            number,
        })
    })();
    (number, call)
}

/// Any request to `/v1/…`, or to a URL that nothing serves.
async fn stripe(
    sim: web::Data<Sim>,
    request: HttpRequest,
    body: Result<web::Bytes, actix_web::Error>,
) -> HttpResponse {
    let Ok(request_id) = random_text(14).map(|text| format!("req_{text}")) else {
        return HttpResponse::InternalServerError().finish();
    };
    let (number, call) = admit(&sim, &request, body, &request_id);
    let (answer, fault) = match call {
        Err(error) => (Answer::refusal(error), None),
        Ok(call) => {
            let fault = sim.state().faults.take(call.endpoint);
            if let Some(fault) = &fault {
                sim.state().log.faulted(call.number, fault.action);
            }
            let answer = with_fault(&sim, &call, fault.as_ref()).await;
            (answer, fault)
        }
    };
    sim.state().log.answered(number, answer.status, answer.original.is_some());
    respond(&request, &request_id, answer, fault.map(|fault| fault.action))
}

/// Performs the request the way the fault says.
async fn with_fault(sim: &Sim, call: &Call, fault: Option<&Fault>) -> Answer {
    let Some(fault) = fault else { return sim.perform(call, None).await };
    match fault.action {
        Action::RateLimit => {
            let mut answer = Answer::refusal(
                ApiError::request(429, "Request rate limit exceeded (simulated).").coded("rate_limit"),
            );
            answer.retry_after = Some(fault.retry_after_seconds);
            answer.should_retry = true;
            answer
        }
        Action::FailBefore => sim.perform(call, Some(fault)).await,
        Action::FailAfter => {
            let answer = sim.perform(call, Some(fault)).await;
            // What was refused before execution is refused with or without the fault.
            if answer.status >= 400 && answer.status != 402 {
                return answer;
            }
            Answer::refusal(ApiError::api("An error occurred on our end (simulated)."))
        }
        Action::Hang if fault.execute => {
            let (answer, _in_use) = sim.perform_holding(call, None).await;
            sim.hold().await;
            answer
        }
        Action::Hang => {
            if let Some(key) = &call.key {
                let Some(_in_use) = sim.in_flight.hold(key) else { return key_in_use() };
                sim.hold().await;
            } else {
                sim.hold().await;
            }
            sim.perform(call, None).await
        }
        Action::Drop | Action::Unparsable | Action::Html502 => {
            if fault.execute {
                sim.perform(call, None).await
            } else {
                Answer::refusal(ApiError::api("Not executed (simulated)."))
            }
        }
    }
}

/// Serves the simulator on a bound socket.
pub(super) fn listen(listener: TcpListener, sim: Arc<Sim>) -> io::Result<Server> {
    let sim = web::Data::from(sim);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(sim.clone())
            .app_data(web::PayloadConfig::new(MAX_BODY))
            .service(web::scope("/_sim").configure(control::routes))
            .default_service(web::to(stripe))
    })
    .workers(1)
    .disable_signals()
    // A caller who closes the connection is gone, and a request held for it ends.
    .h1_allow_half_closed(false)
    .shutdown_timeout(0)
    .listen(listener)?;
    Ok(server.run())
}
