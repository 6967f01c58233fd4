//! Recorded exchanges: what is asked at a door, and every byte of what is answered. A change of behaviour shows as a difference.
//!
//! The files are `tests/exchanges/*.http` and `*.cli`, one a theme; each has a world of its own, with a `prepaid402 serve`
//! process (or, after `@door embedded`, the paywall in an actix application). They are the same on SQLite and PostgreSQL.
//!
//! **To add one:** write its name and its request, as below, and record. **To record again** after a change that is meant, and
//! then read the diff:
//!
//! ```text
//! PREPAID402_RECORD=1 cargo test --test it exchanges
//! PREPAID402_EXCHANGES=framing/head cargo test --test it exchanges -- --nocapture     # only those whose names begin so
//! ```
//!
//! An exchange:
//!
//! ```text
//! ### a-name
//! # What is shown, and why.
//! @upstream                                    what the upstream saw is recorded whole, not only its first line
//! --- upstream answers, then closes            what /up/scripted answers; or "then goes on", "then hangs"; several in a row
//! HTTP/1.1 304 Not Modified
//! etag: "1"
//!
//! >>>                                          a new connection; or: on the same connection · at once (with the one before) ·
//! GET /up/scripted HTTP/1.1                    at the admin door
//! host: shop.example
//! payment: {{wallet:a}}
//!
//! the body, if there is one: lines are joined by \n, without one at the end
//! <<<
//! what is recorded
//! ```
//!
//! Lines of a head are sent with CRLF. `\r \n \t \\ \x00` are escapes, in requests and in what is recorded. `name: base64 {…}` is
//! sent encoded; encoded answers are recorded decoded. What several requests that were sent at once did is told with the last of
//! them. A request `$ prepaid402 verify …` is a command; `--- file NAME` before it makes files in its folder, `--- environment`
//! its environment.
//!
//! | in a request | |
//! |---|---|
//! | `{{wallet:a}}` `{{client:a}}` `{{payer:a}}` | a payment header with the clientId of a new wallet with one smallest pack; the bare clientId; the id that people see |
//! | `{{card:a}}` `{{pm:a}}` `{{pm:a=4000000000000002}}` | a payment header with a new token of a card; the bare token; of that card |
//! | `{{last body.id}}` `{{last payment-response.clientId}}` `{{last location}}` | what the steps before were answered |
//! | `{{length}}` `{{signature}}` `{{signature -600}}` | of the body; for a webhook with this body, so many seconds from now |
//! | `{{operator}}` `{{times 100 x}}` `{{newest-intent}}` | an admin user's `authorization`; a hundred x; the youngest charge at Stripe |
//! | `{{url}}` `{{admin-url}}` `{{upstream-url}}` `{{stripe-url}}` `{{database}}` | addresses; where the books are |
//!
//! | directive after `>>>` | |
//! |---|---|
//! | `@sim /_sim/faults [{…}]` | told to the simulated Stripe before the step |
//! | `@no-faults` | they are forgotten |
//! | `@delivered` | first the books know that the answers before were delivered, which takes some two seconds |
//! | `@later`, `@release` | the answer is read after the last step, or before the step with `@release`; for `/up/wait` (ask it by GET: other methods hold their price on PostgreSQL) |
//! | `@later at-stripe` | the same for a request that hangs because of a fault |
//! | `@hang-up` | the caller goes while the API works, by `/up/wait`; it is waited for the charge |
//! | `@half-close` | the caller closes its side once it has asked; for requests that may not be complete |
//! | `@varies retry-after` | a header's value is not compared |
//! | `@restart`, with `@sql UPDATE …` | the gateway is started again, after such changes to the database |
//!
//! At the top of a file: `--- configuration` (TOML beside the routes of `support::ROUTES`; `@only-these-routes` instead of
//! them), `--- settings` (the same for the embedded paywall), `@environment NAME=value`, `@without-upstream`, `@without-webhooks`,
//! `@door embedded`, `@door none`.
//!
//! In what is recorded, `<id-1>` and the like number what is new in every run by first appearance, so that the same thing twice is
//! checked; headers are sorted by name; a long run of one letter is `{{times N x}}`; JSON without spaces is laid out (and said to be JSON).

mod command;
mod corpus;
mod ledger;
mod names;
mod play;
mod script;
mod stage;
mod tell;
mod text;
mod wire;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use self::corpus::{Exchange, Setting, Theme};
use self::play::Play;
use self::stage::Stage;
use crate::documents::explained_codes;

/// Files that are played at the same time.
const AT_ONCE: usize = 4;

/// What came of one exchange.
struct Played {
    /// The lines of its steps, or why it could not be played.
    steps: Result<Vec<Vec<String>>, String>,
    took: Duration,
}

/// Those that were asked for, or all.
fn is_wanted(theme: &Theme, exchange: &Exchange) -> bool {
    let wanted = std::env::var("PREPAID402_EXCHANGES").unwrap_or_default();
    wanted.split(',').any(|begin| format!("{}/{}", theme.name, exchange.name).starts_with(begin))
}

/// Plays a file. `None`: not asked for.
async fn play(theme: &Theme) -> Vec<Option<Played>> {
    AssertUnwindSafe(play_file(theme)).catch_unwind().await.unwrap_or_else(|_| {
        let nothing = || Played {
            steps: Err("its file could not be played to the end; see above".to_owned()),
            took: Duration::ZERO,
        };
        theme.exchanges.iter().map(|_| Some(nothing())).collect()
    })
}

async fn play_file(theme: &Theme) -> Vec<Option<Played>> {
    if !theme.exchanges.iter().any(|exchange| is_wanted(theme, exchange)) {
        return theme.exchanges.iter().map(|_| None).collect();
    }
    let world = stage::world_of(theme).await;
    let mut stage = Stage::set(&world, theme).await;
    let mut all = Vec::new();
    for exchange in &theme.exchanges {
        if !is_wanted(theme, exchange) {
            all.push(None);
            continue;
        }
        let setting = Setting {
            directives: [&theme.setting.directives[..], &exchange.setting.directives].concat(),
            blocks: [&theme.setting.blocks[..], &exchange.setting.blocks].concat(),
        };
        let playing = Play::new(&mut stage, &setting).play(exchange);
        let begun = Instant::now();
        let played = AssertUnwindSafe(playing).catch_unwind().await;
        let steps = played.unwrap_or_else(|_| Err("it panicked; see above".to_owned()));
        all.push(Some(Played { steps, took: begun.elapsed() }));
        world.clear_faults().await;
    }
    stage.strike().await;
    all
}

/// What is wrong with one exchange, for a person.
fn difference(exchange: &Exchange, played: &Played) -> Option<String> {
    let steps = match &played.steps {
        Ok(steps) => steps,
        Err(problem) => return Some(format!("    {problem}\n")),
    };
    let mut told = String::new();
    for (n, (step, now)) in exchange.steps.iter().zip(steps).enumerate() {
        match &step.recorded {
            Some(recorded) if recorded == now => {}
            Some(recorded) => {
                let first = step.request.first().map_or("", String::as_str);
                told.push_str(&format!("    step {}: {first}\n{}", n + 1, text::difference(recorded, now)));
            }
            None => told.push_str(&format!("    step {} has no recorded answer\n", n + 1)),
        }
    }
    (!told.is_empty()).then_some(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_exchanges_are_what_happens() {
    let themes = corpus::read_all();
    let playing = themes.iter().enumerate().map(async |(n, theme)| (n, play(theme).await));
    let mut played: Vec<(usize, Vec<Option<Played>>)> =
        stream::iter(playing).buffer_unordered(AT_ONCE).collect().await;
    played.sort_by_key(|(n, _)| *n);
    let is_recording = std::env::var_os("PREPAID402_RECORD").is_some();
    let mut wrong = String::new();
    for (theme, (_, played)) in themes.iter().zip(&played) {
        for (exchange, played) in theme.exchanges.iter().zip(played) {
            let name = format!("{}/{}", theme.name, exchange.name);
            let Some(played) = played else { continue };
            match difference(exchange, played) {
                None => println!("ok {name} ({} ms)", played.took.as_millis()),
                Some(_) if is_recording && played.steps.is_ok() => println!("recorded {name}"),
                Some(difference) => wrong.push_str(&format!("{name}\n{difference}\n")),
            }
        }
        if is_recording {
            let now: Vec<_> =
                played.iter().map(|played| played.as_ref()?.steps.as_ref().ok().cloned()).collect();
            let text = theme.rewritten(&now);
            if text != std::fs::read_to_string(&theme.path).unwrap() {
                std::fs::write(&theme.path, text).unwrap();
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these exchanges are not what is recorded (- recorded, + now). If that is meant: PREPAID402_RECORD=1 cargo test --test it \
         exchanges\n\n{wrong}"
    );
}

/// Codes of the callers' page that no recorded exchange shows, and why.
const NOT_SHOWN: [(&str, &str); 7] = [
    ("capture_unknown", "the database must break in the middle of a commit: see `nodes`"),
    ("currency_mismatch", "one gateway has one currency"),
    ("debt_above_maximum", "it takes refunds of what is spent: see `wallets`"),
    ("former_stripe_account", "an account is given up while no server runs: see `stripe_account`"),
    ("nothing_to_reverse", "no operator's request reverses a charge"),
    ("out_of_range", "it takes credit of nine thousand million"),
    ("stripe_account_unproven", "Stripe must be away when the gateway starts: see `stripe_account`"),
];

/// What is recorded of each step, with the name of its file.
pub fn recorded_steps() -> Vec<(String, String)> {
    let recorded = |theme: Theme| {
        let steps = theme.exchanges.into_iter().flat_map(|exchange| exchange.steps);
        steps
            .filter_map(|step| step.recorded)
            .map(|lines| lines.join("\n"))
            .map(move |text| (theme.name.clone(), text))
            .collect::<Vec<_>>()
    };
    corpus::read_all().into_iter().flat_map(recorded).collect()
}

#[test]
fn every_code_that_the_callers_page_names_is_in_a_recorded_exchange() {
    let codes = explained_codes();
    assert!(codes.len() > 40, "the page has its table: {codes:?}");
    let recorded: String = recorded_steps().into_iter().map(|(_, text)| text).collect();
    let is_shown = |code: &str| {
        recorded.contains(&format!("\"code\": \"{code}\""))
            || recorded.contains(&format!("\"code\":\"{code}\""))
    };
    let missing: Vec<_> = codes.iter().filter(|code| !is_shown(code)).collect();
    let excused: Vec<_> = NOT_SHOWN.iter().map(|(code, _)| code).collect();
    assert_eq!(missing, excused);
}
