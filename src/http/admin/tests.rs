//! The admin pages through their front door.

mod access;
mod content;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix_web::http::{Method, StatusCode};
use actix_web::test::{self, TestRequest};
use actix_web::{App, web};
use futures_util::future::LocalBoxFuture;

use super::{AdminState, Clock, users};
use crate::db::testing::{TestDatabase, both};
use crate::db::{self, Connection, Db, query, query_scalar};

const NAME: &str = "alice";
const PASSWORD: &str = "violet kettle orbit";
const MINUTE: i64 = 60_000_000;

/// A database, a clock that stands still until it is moved, and one user.
struct Office {
    _database: TestDatabase,
    db: Db,
    writer: Connection,
    now: Arc<AtomicI64>,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: actix_web::http::header::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// `name=value` of the cookie that was set.
    fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
    }

    fn csrf_token(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf_token\" value=\"").expect("a form");
        rest.split('"').next().unwrap_or_default().to_owned()
    }
}

impl Office {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let db = db::run_writes_only(&database.config).await.expect("a database");
        let mut writer = database.connect().await;
        users::create_user(&mut writer, NAME, PASSWORD).await.expect("a user");
        Self { _database: database, db, writer, now: Arc::new(AtomicI64::new(db::now_micros())) }
    }

    fn state(&self, sandbox: bool, https: bool) -> web::Data<AdminState> {
        let now = self.now.clone();
        let scheme = if https { "https" } else { "http" };
        let state = AdminState::new(self.db.clone(), sandbox, https, format!("{scheme}://api.example.com"))
            .with_clock(Clock::new(move || now.load(Ordering::Relaxed)));
        web::Data::new(state)
    }

    fn pass(&self, micros: i64) {
        self.now.fetch_add(micros, Ordering::Relaxed);
    }

    async fn sessions(&mut self) -> i64 {
        query_scalar("SELECT COUNT(*) FROM admin_sessions").fetch_one(&mut self.writer).await.expect("counts")
    }
}

/// Sends a request through the door and gives the whole answer.
type Door = Rc<dyn Fn(TestRequest) -> LocalBoxFuture<'static, Answer>>;

/// The pages of this state.
async fn door(state: web::Data<AdminState>) -> Door {
    let app = Rc::new(test::init_service(App::new().app_data(state).configure(super::configure)).await);
    Rc::new(move |request: TestRequest| {
        let app = app.clone();
        Box::pin(async move {
            let response = test::call_service(&*app, request.to_request()).await;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = String::from_utf8(test::read_body(response).await.to_vec()).expect("UTF-8");
            Answer { status, headers, body }
        })
    })
}

fn get(path: &str, cookie: &str) -> TestRequest {
    TestRequest::get().uri(path).insert_header(("cookie", cookie))
}

/// A form without anything that a browser adds.
fn bare_post(path: &str, cookie: &str, fields: &[(&str, &str)]) -> TestRequest {
    TestRequest::default()
        .method(Method::POST)
        .uri(path)
        .peer_addr(([192, 0, 2, 7], 4000).into())
        .insert_header(("cookie", cookie))
        .set_form(fields)
}

/// A form as a browser sends it from our own page.
fn post(path: &str, cookie: &str, fields: &[(&str, &str)]) -> TestRequest {
    bare_post(path, cookie, fields).insert_header(("sec-fetch-site", "same-origin"))
}

fn login(name: &str, password: &str) -> TestRequest {
    post("/admin/login", "", &[("name", name), ("password", password)])
}

/// Logs in and gives the cookie.
async fn enter(door: &Door) -> String {
    let answer = door(login(NAME, PASSWORD)).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/admin"));
    answer.cookie()
}
