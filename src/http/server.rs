//! A listening server: as actix-web's own, except for what that does before anybody has looked at a request.
//!
//! - `Expect: 100-continue`: the caller is told to go on when somebody asks for the body, and not before. Who is refused without
//!   a look at it gets the answer alone, and sends nothing (RFC 9110, section 10.1.1); the connection ends then.
//! - `Upgrade`: what is offered and not taken is ignored. The answer does not announce an upgrade.
//! - A target with scheme and host becomes one without ([`target`]).
//!
//! ```text
//! request ─► Expecting ─► app, with a body that tells when it is asked for ─┬─► answered first: the answer, no 100
//!                                                                           └─► asked for: 100; Serving goes on with the app
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_http::{
    ConnectionType, Extensions, HttpMessage as _, HttpServiceBuilder, KeepAlive, Payload, Request, Response,
};
use actix_server::{Server, ServerBuilder};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory};
use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::Either;

use super::{framing, target};

/// actix-web's own: for the first head on a connection, and for a connection that ends.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is done to each new connection. What it puts beside the connection lives as long.
pub(crate) type OnConnect = Arc<dyn Fn(&TcpStream, &mut Extensions) + Send + Sync>;

/// What servers differ in.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `None`: as many as the machine has cores.
    pub(crate) workers: Option<usize>,
    /// Open connections, per worker.
    pub(crate) max_connections: Option<usize>,
    /// How long an idle connection is kept.
    pub(crate) keep_alive: KeepAlive,
    /// Whether a caller who has closed its half is still answered.
    pub(crate) half_closed: bool,
    /// How long running requests may go on, in seconds, once the server stops.
    pub(crate) shutdown: u64,
    pub(crate) on_connect: OnConnect,
}

/// What the app is doing for a request.
type Running = Pin<Box<dyn Future<Output = Result<ServiceResponse, Error>>>>;

/// Starts to listen. `app` makes the app of one worker.
///
/// # Errors
/// When the system does not let it.
pub(crate) fn serve<F, A, S>(listener: TcpListener, settings: Settings, app: F) -> io::Result<Server>
where
    F: Fn() -> A + Send + Clone + 'static,
    A: IntoServiceFactory<S, Request> + 'static,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse, Error = Error> + 'static,
    S::InitError: std::fmt::Debug,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
{
    let address = listener.local_addr()?;
    let mut builder = ServerBuilder::new().disable_signals().shutdown_timeout(settings.shutdown);
    if let Some(workers) = settings.workers {
        builder = builder.workers(workers);
    }
    if let Some(most) = settings.max_connections {
        builder = builder.max_concurrent_connections(most);
    }
    let stopping = builder.graceful_shutdown_signal();
    let listening = builder.listen(format!("http {address}"), listener, move || {
        let stopping = stopping.clone();
        let (for_expecting, for_serving) = (app.clone(), app.clone());
        let on_connect = Arc::clone(&settings.on_connect);
        HttpServiceBuilder::default()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(settings.keep_alive)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(CLOSE_TIMEOUT)
            .h1_allow_half_closed(settings.half_closed)
            .local_addr(address)
            .on_connect_ext(move |connection: &TcpStream, data| on_connect(connection, data))
            .expect(fn_factory(move || {
                let app = for_expecting().into_factory().new_service(AppConfig::default());
                async move { app.await.map(|app| Expecting(Serving(app))) }
            }))
            .h1::<_, BoxBody>(fn_factory(move || {
                let app = for_serving().into_factory().new_service(AppConfig::default());
                async move { app.await.map(Serving) }
            }))
            .tcp()
    })?;
    Ok(listening.run())
}

/// The app, and what it goes on with.
struct Serving<S>(S);

impl<S> Service<Request> for Serving<S>
where
    S: Service<Request, Response = ServiceResponse, Error = Error>,
    S::Future: 'static,
{
    type Response = ServiceResponse;
    type Error = Error;
    type Future = Either<S::Future, Running>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&self, mut request: Request) -> Self::Future {
        let running = request.extensions_mut().remove::<GoingOn>();
        if let Some(GoingOn(running)) = running {
            return Either::Right(running);
        }
        if request.head().uri.authority().is_some() {
            target::without_origin(request.head_mut());
        }
        let offers_upgrade = request.head().upgrade();
        let answering = self.0.call(request);
        if !offers_upgrade {
            return Either::Left(answering);
        }
        Either::Right(Box::pin(async move {
            let mut answered = answering.await?;
            framing::without_upgrade(&mut answered);
            Ok(answered)
        }))
    }
}

/// What is asked with `Expect: 100-continue`.
struct Expecting<S>(Serving<S>);

impl<S> Service<Request> for Expecting<S>
where
    S: Service<Request, Response = ServiceResponse, Error = Error>,
    S::Future: 'static,
{
    type Response = Request;
    type Error = Response<BoxBody>;
    type Future = Awaiting;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&self, mut request: Request) -> Awaiting {
        let wanted = Rc::<Wanted>::default();
        let inner = request.take_payload();
        let has_body = !matches!(inner, Payload::None);
        if has_body {
            let told = OnDemand { inner, wanted: Rc::clone(&wanted) };
            *request.payload() = Payload::Stream { payload: Box::pin(told) };
        }
        Awaiting { running: Some(Box::pin(self.0.call(request))), wanted, has_body }
    }
}

/// Until the app has answered, or wants the body.
struct Awaiting {
    running: Option<Running>,
    wanted: Rc<Wanted>,
    has_body: bool,
}

impl Future for Awaiting {
    type Output = Result<Request, Response<BoxBody>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(running) = &mut self.running else { return Poll::Pending };
        if let Poll::Ready(answered) = running.as_mut().poll(context) {
            let mut answer: Response<BoxBody> = answered.map_or_else(Response::from, Response::from);
            // A body may follow or not, so nothing else can be asked on this connection.
            if self.has_body {
                answer.head_mut().set_connection_type(ConnectionType::Close);
            }
            return Poll::Ready(Err(answer));
        }
        ready!(self.wanted.poll(context));
        // The server has the body; what it hands to `Serving` only says what to go on with.
        let going_on = Request::new();
        if let Some(running) = self.running.take() {
            going_on.extensions_mut().insert(GoingOn(running));
        }
        Poll::Ready(Ok(going_on))
    }
}

struct GoingOn(Running);

/// Whether somebody has asked for the body.
#[derive(Default)]
struct Wanted {
    is_so: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Wanted {
    fn tell(&self) {
        if !self.is_so.replace(true)
            && let Some(waiting) = self.waiting.take()
        {
            waiting.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_so.get() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A body that tells when it is asked for.
struct OnDemand {
    inner: Payload,
    wanted: Rc<Wanted>,
}

impl Stream for OnDemand {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.wanted.tell();
        Pin::new(&mut self.inner).poll_next(context)
    }
}
