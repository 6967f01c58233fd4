//! Plays one exchange, and tells what happened.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prepaid402::config::DatabaseConfig;
use serde_json::Value;

use super::command;
use super::corpus::{Exchange, Setting, Step};
use super::ledger::Moment;
use super::names::Names;
use super::script::{self, Message};
use super::stage::{Door, OPERATOR, PASSWORD, Stage, WEBHOOK_SECRET};
use super::tell;
use super::wire::{Answer, Caller, Framing, Silence, Then};
use crate::support::GOOD;
use crate::support::upstream::Seen;
use crate::webhooks::{now, signature};

/// One exchange that is being played.
pub struct Play<'p, 'w> {
    pub stage: &'p mut Stage<'w>,
    setting: &'p Setting,
    pub names: Names,
    /// What was made for it, by name.
    clients: HashMap<String, String>,
    cards: HashMap<String, String>,
    /// What was answered, for steps that use it.
    answers: Vec<Answer>,
    connection: Option<Caller>,
    pub home: tempfile::TempDir,
}

/// What one step has shown.
#[derive(Debug)]
pub enum Shown {
    Answers {
        interim: Vec<Answer>,
        answer: Result<Answer, Silence>,
        then: Option<Then>,
    },
    Command(crate::support::program::Ran),
    /// The caller did not wait for an answer.
    HungUp,
}

/// One step, with what was seen behind the door meanwhile.
#[derive(Debug)]
pub struct Observed {
    pub shown: Shown,
    pub seen: Option<Vec<Seen>>,
    pub handled: Option<usize>,
    pub ledger: Option<Vec<String>>,
}

/// A step whose answer is read later.
struct Waiting {
    step: usize,
    caller: Caller,
    message: Message,
    hits: usize,
    at_stripe: bool,
}

impl<'p, 'w> Play<'p, 'w> {
    pub fn new(stage: &'p mut Stage<'w>, setting: &'p Setting) -> Self {
        let mut names = Names::default();
        let home = tempfile::tempdir().unwrap();
        names.text(home.path().to_str().unwrap(), "<home>");
        names.text(stage.world.folder.path().to_str().unwrap(), "<folder>");
        for (url, name) in [
            (stage.world.upstream.url.as_str(), "<upstream>"),
            (stage.world.sim.base_url.as_str(), "<stripe>"),
        ] {
            names.text(address(url), name);
        }
        if !matches!(stage.door, Door::None) {
            names.text(address(stage.url()), "<door>");
            names.text(address(stage.admin_url()), "<admin>");
        }
        let (clients, cards) = (HashMap::new(), HashMap::new());
        Self { stage, setting, names, clients, cards, answers: Vec::new(), connection: None, home }
    }

    /// All steps: for each the lines to record.
    pub async fn play(mut self, exchange: &Exchange) -> Result<Vec<Vec<String>>, String> {
        self.prepare().await?;
        let mut observed: Vec<Option<Observed>> = exchange.steps.iter().map(|_| None).collect();
        let mut waiting: Option<Waiting> = None;
        let mut at = 0;
        while at < exchange.steps.len() {
            let step = &exchange.steps[at];
            if step.has("release")
                && let Some(waiting) = waiting.take()
            {
                let (step, seen) = self.finish(waiting).await;
                observed[step] = Some(seen);
            }
            self.directives(step).await?;
            if let Some(line) = step.request.first().and_then(|line| line.strip_prefix("$ ")) {
                let line = self.filled(line).await?;
                observed[at] = Some(self.command(&line).await?);
                at += 1;
                continue;
            }
            // Steps that are sent at once.
            let mut end = at + 1;
            while exchange.steps.get(end).is_some_and(|step| step.on == "at once") {
                end += 1;
            }
            let mut messages = Vec::new();
            for step in &exchange.steps[at..end] {
                messages.push(self.message(&step.request).await?);
            }
            let mut caller = match step.on.as_str() {
                "" => Caller::connect(self.stage.url()).await,
                "at the admin door" => Caller::connect(self.stage.admin_url()).await,
                "on the same connection" => {
                    self.connection.take().ok_or("there is no connection to go on with")?
                }
                other => return Err(format!("nobody knows how to ask {other:?}")),
            };
            let hits = self.stage.hits();
            let before = self.stage.moment().await;
            let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes.clone()).collect();
            caller.send(&bytes).await;
            if step.has("hang-up") {
                self.stage.reached(hits, false).await?;
                drop(caller);
                self.stage.release();
                self.stage.charged_since(&before).await?;
                observed[at] = Some(self.observed(Shown::HungUp, hits, &before).await);
                at = end;
                continue;
            }
            if let Some(place) = step.all("later").next() {
                let at_stripe = place == "at-stripe";
                self.stage.reached(hits, at_stripe).await?;
                waiting =
                    Some(Waiting { step: at, caller, message: messages.swap_remove(0), hits, at_stripe });
                at = end;
                continue;
            }
            if step.has("half-close") {
                caller.close_own_side().await;
            }
            let goes_on = exchange.steps.get(end).is_some_and(|step| step.on == "on the same connection");
            let mut shown = Vec::new();
            for (n, message) in messages.iter().enumerate() {
                let is_last = n + 1 == messages.len();
                let then = if !is_last || goes_on {
                    AfterAnswer::GoOn
                } else if step.has("half-close") {
                    AfterAnswer::ReadToEnd
                } else {
                    AfterAnswer::See
                };
                shown.push(read(&mut caller, message, then).await);
            }
            self.connection = Some(caller);
            let steps = shown.len();
            for (n, shown) in shown.into_iter().enumerate() {
                // What several did at once is told with the last of them.
                let is_last = n + 1 == steps;
                let seen =
                    if is_last { self.observed(shown, hits, &before).await } else { Observed::of(shown) };
                observed[at + n] = Some(self.remember(seen));
            }
            at = end;
        }
        if let Some(waiting) = waiting {
            let (step, seen) = self.finish(waiting).await;
            observed[step] = Some(seen);
        }
        let observed: Vec<Observed> = observed.into_iter().flatten().collect();
        Ok(observed.iter().zip(&exchange.steps).map(|(seen, step)| self.told(seen, step)).collect())
    }

    fn told(&mut self, observed: &Observed, step: &Step) -> Vec<String> {
        let varying: Vec<&str> = step.all("varies").chain(self.setting.all("varies")).collect();
        let is_whole = self.setting.has("upstream") || step.has("upstream");
        tell::lines(observed, &mut self.names, &varying, is_whole)
    }

    /// What is behind the door of every step.
    async fn observed(&mut self, shown: Shown, hits: usize, before: &Moment) -> Observed {
        let mut observed = Observed::of(shown);
        let is_cut = matches!(
            &observed.shown,
            Shown::Answers { answer: Ok(Answer { framing: Framing::Cut(_), .. }) | Err(_), .. }
        );
        observed.ledger = self.stage.moved_since(before, is_cut).await;
        match &self.stage.door {
            Door::None => {}
            Door::Embedded(_) => observed.handled = Some(self.stage.hits() - hits),
            Door::Gateway(..) => observed.seen = Some(self.stage.world.upstream.seen().split_off(hits)),
        }
        observed
    }

    async fn finish(&mut self, mut waiting: Waiting) -> (usize, Observed) {
        let before = self.stage.moment().await;
        if waiting.at_stripe {
            self.stage.release_at_stripe().await;
        } else {
            self.stage.release();
        }
        let shown = read(&mut waiting.caller, &waiting.message, AfterAnswer::See).await;
        let mut seen = self.observed(shown, waiting.hits, &before).await;
        // Others were there meanwhile; this was the first.
        if let Some(seen) = &mut seen.seen {
            seen.truncate(1);
        }
        (waiting.step, self.remember(seen))
    }

    fn remember(&mut self, observed: Observed) -> Observed {
        if let Shown::Answers { answer: Ok(answer), .. } = &observed.shown {
            self.answers.push(answer.clone());
        }
        observed
    }

    async fn prepare(&mut self) -> Result<(), String> {
        let mut scripts = Vec::new();
        for (title, lines) in self.setting.blocks("upstream answers") {
            let filled = self.filled(&lines.join("\n")).await?;
            let lines: Vec<String> = filled.split('\n').map(str::to_owned).collect();
            scripts.push(script::upstream(title, &lines)?);
        }
        self.stage.world.upstream.script(scripts);
        if let Door::Embedded(shop) = &self.stage.door {
            shop.handlers.calls.store(0, std::sync::atomic::Ordering::SeqCst);
        }
        for (title, lines) in self.setting.blocks("file ") {
            let text = self.filled(&lines.join("\n")).await?;
            let path = self.home.path().join(title.trim_start_matches("file "));
            std::fs::write(&path, text + "\n").unwrap();
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, owner_only).unwrap();
        }
        Ok(())
    }

    async fn directives(&mut self, step: &Step) -> Result<(), String> {
        for (word, rest) in &step.directives {
            match word.as_str() {
                "sim" => {
                    let rest = self.filled(rest).await?;
                    let (path, body) = rest.split_once(' ').unwrap_or((&rest, "{}"));
                    let body: Value =
                        serde_json::from_str(body).map_err(|error| format!("{body}: {error}"))?;
                    let url = format!("{}{path}", self.stage.world.sim.base_url);
                    let answer = self.stage.world.client.post_json(&url, &body).await;
                    if answer.status >= 300 {
                        return Err(format!("{path}: {} {}", answer.status, answer.text()));
                    }
                }
                "restart" => {
                    let statements: Vec<&str> = step.all("sql").collect();
                    self.stage.restart(&statements).await;
                }
                "delivered" => self.stage.all_is_delivered().await,
                "no-faults" => self.stage.world.clear_faults().await,
                "sql" | "half-close" | "hang-up" | "later" | "release" | "upstream" | "varies" => {}
                other => return Err(format!("@{other} is no directive of a step")),
            }
        }
        Ok(())
    }

    /// The bytes of a request.
    async fn message(&mut self, lines: &[String]) -> Result<Message, String> {
        let filled = self.filled(&lines.join("\n")).await?;
        let lines: Vec<String> = filled.split('\n').map(str::to_owned).collect();
        script::request(&lines, |signed| signature(WEBHOOK_SECRET, now() + signed.seconds_away, signed.body))
    }

    async fn command(&mut self, line: &str) -> Result<Observed, String> {
        let hits = self.stage.hits();
        let before = self.stage.moment().await;
        let mut environment = self.stage.world.environment();
        environment.remove("STRIPE_WEBHOOK_SECRETS");
        if self.setting.blocks("environment").next().is_some() {
            environment.clear();
        }
        for (_, lines) in self.setting.blocks("environment") {
            for line in lines {
                let line = self.filled(line).await?;
                let (name, value) = line.split_once('=').ok_or("NAME=value in an environment")?;
                environment.insert(name.to_owned(), value.to_owned());
            }
        }
        let ran = command::run(self.home.path(), line, &environment).await?;
        Ok(self.observed(Shown::Command(ran), hits, &before).await)
    }

    /// The text with what `{{…}}` stands for, apart from what depends on the whole request.
    async fn filled(&mut self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or_else(|| format!("no }}}} in {text:?}"))?;
            filled.push_str(before);
            filled.push_str(&self.value(inside).await?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    async fn value(&mut self, inside: &str) -> Result<String, String> {
        let (word, name) = match inside.find([':', ' ']) {
            Some(at) => (&inside[..at], &inside[at..]),
            None => (inside, ""),
        };
        Ok(match word {
            "client" => self.client(name).await,
            "wallet" => {
                let client = self.client(name).await;
                format!("base64 {{\"stripe402Version\":1,\"clientId\":\"{client}\"}}")
            }
            "payer" => {
                let client = self.client(name).await;
                let payer = self.stage.payer(&client).await;
                self.names.word(&payer, format!("{{{{payer{name}}}}}"));
                payer
            }
            "pm" => self.card(name).await,
            "card" => {
                let card = self.card(name).await;
                format!("base64 {{\"stripe402Version\":1,\"paymentMethodId\":\"{card}\"}}")
            }
            "operator" => {
                self.stage.need_operator().await;
                format!("Basic {}", STANDARD.encode(format!("{OPERATOR}:{PASSWORD}")))
            }
            "last" => self.last(name.trim())?,
            "newest-intent" => self.stage.newest_intent().await,
            "url" => self.stage.url().to_owned(),
            "admin-url" => self.stage.admin_url().to_owned(),
            "upstream-url" => self.stage.world.upstream.url.clone(),
            "stripe-url" => self.stage.world.sim.base_url.clone(),
            "database" => match &self.stage.world.database {
                DatabaseConfig::Sqlite(file) => file.to_str().unwrap().to_owned(),
                DatabaseConfig::Postgres(url) => url.expose().to_owned(),
            },
            "times" => {
                let (count, what) = name.trim().split_once(' ').ok_or("{{times N text}}")?;
                what.repeat(count.parse().map_err(|_| format!("no number: {count}"))?)
            }
            // These need the body that follows.
            "length" | "signature" => format!("{{{{{inside}}}}}"),
            _ => return Err(format!("{{{{{inside}}}}} stands for nothing")),
        })
    }

    async fn client(&mut self, name: &str) -> String {
        if let Some(client) = self.clients.get(name) {
            return client.clone();
        }
        let client = self.stage.wallet().await;
        self.names.word(&client, format!("{{{{client{name}}}}}"));
        self.clients.insert(name.to_owned(), client.clone());
        client
    }

    /// `:name=number`, both may be left out; the number is told once.
    async fn card(&mut self, name: &str) -> String {
        let (name, number) = name.split_once('=').unwrap_or((name, GOOD));
        if let Some(card) = self.cards.get(name) {
            return card.clone();
        }
        let card = self.stage.world.tokenise(number).await;
        self.names.word(&card, format!("{{{{pm{name}}}}}"));
        self.cards.insert(name.to_owned(), card.clone());
        card
    }

    /// Something of the last answer that has it: `body.member`, `header.member`, or a header.
    fn last(&self, path: &str) -> Result<String, String> {
        let (place, member) = path.split_once('.').unwrap_or((path, ""));
        let of = |answer: &Answer| {
            let bytes = match place {
                "body" => answer.body.clone(),
                header if member.is_empty() => return answer.header(header).map(str::to_owned),
                header => STANDARD.decode(answer.header(header)?).ok()?,
            };
            let mut value: Value = serde_json::from_slice(&bytes).ok()?;
            for step in member.split('.') {
                value = match step.parse::<usize>() {
                    Ok(index) => value.get_mut(index)?.take(),
                    Err(_) => value.get_mut(step)?.take(),
                };
            }
            match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            }
        };
        self.answers.iter().rev().find_map(of).ok_or_else(|| format!("no answer has {path}"))
    }
}

impl Observed {
    fn of(shown: Shown) -> Self {
        Self { shown, seen: None, handled: None, ledger: None }
    }
}

/// What is done once an answer has been read.
#[derive(Debug, Clone, Copy)]
enum AfterAnswer {
    GoOn,
    See,
    ReadToEnd,
}

async fn read(caller: &mut Caller, message: &Message, after: AfterAnswer) -> Shown {
    let mut interim = Vec::new();
    let answer = loop {
        match caller.answer(message.is_head).await {
            Ok(answer) if (100..200).contains(&answer.status()) => interim.push(answer),
            other => break other,
        }
    };
    let then = match (&answer, after) {
        (Ok(_), AfterAnswer::GoOn) | (Err(_), _) => None,
        (Ok(answer), AfterAnswer::See) => Some(caller.then(answer, message.is_http10).await),
        (Ok(_), AfterAnswer::ReadToEnd) => Some(caller.end(Then::HalfClosed).await),
    };
    Shown::Answers { interim, answer, then }
}

fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}
