//! Random requests, one after the other, against a model of a few lines.

use std::collections::HashMap;

use super::*;
use crate::support::dice::Dice;
use crate::support::effort::rounds;
use crate::support::{GOOD, ROUTES};

/// What a wallet holds at the beginning.
const RICH: i64 = 2_000_000;

/// What the API does at each path.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Answers,
    Fails,
    AnswersAtLength,
    BreaksOff,
    BreaksOffAtLength,
}

const PATHS: [(&str, Does); 6] = [
    ("/up/status/201", Does::Answers),
    ("/up/status/500", Does::Fails),
    ("/up/bytes/300", Does::AnswersAtLength),
    ("/up/cut-chunked/100", Does::BreaksOff),
    ("/up/cut/500", Does::BreaksOffAtLength),
    ("/up/cut-chunked/300", Does::BreaksOffAtLength),
];

/// What a key stands for.
#[derive(Debug, Clone)]
enum Known {
    Answer(Box<Answer>, String),
    TooLarge(usize, String),
    Unknown(String),
}

#[derive(Debug, Default)]
struct Model {
    known: HashMap<(usize, &'static str, &'static str, u64), Known>,
    balance: [i64; 3],
    hits: usize,
}

async fn sequence(seed: &mut Dice, steps: usize) {
    let world = World::with("[idempotency]\nmax_answer_bytes = 200", ROUTES).await;
    let mut gateway = world.gateway().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(wallet_of(&world, &gateway.url, RICH).await);
    }
    // One who pays by card token, which leads to a wallet.
    let card = world.tokenise(GOOD).await;
    let first = gateway.pay("/api/joke", &Pay::card(&card).top_up(RICH)).await;
    clients.push(first.receipt().client_id);
    let mut model = Model { balance: [RICH, RICH, RICH], hits: world.upstream.hits(), ..Model::default() };
    for balance in &mut model.balance {
        *balance = 0;
    }
    for (client, balance) in clients.iter().zip(&mut model.balance) {
        *balance = gateway.balance(client).await;
    }
    for step in 0..steps {
        if seed.one_in(60) {
            expire(&world).await;
            model.known.clear();
        }
        if seed.one_in(80) {
            gateway.stop().await;
            gateway = world.gateway().await;
        }
        let (payer, (path, does)) = (usize::try_from(seed.below(3)).unwrap(), *seed.pick(&PATHS));
        let method = *seed.pick(&["GET", "POST", "PUT", "DELETE"]);
        let (key, query) = (seed.below(3), if seed.one_in(4) { "?changed" } else { "" });
        let body = if method == "GET" { "" } else { *seed.pick(&["same", "same", "same", "other"]) };
        let pay = if payer == 2 { Pay::card(&card) } else { Pay::client(&clients[payer]) };
        let target = format!("{path}{query}");
        let ask = Ask::new(method, &target, &pay, &format!("key-{key}")).body(body);
        let ask = if seed.one_in(8) { ask.without_key() } else { ask };
        let at = format!("step {step}: {method} {target} {body:?} {:?} of {payer}", ask.key);
        let mut answer = ask.try_at(&world.client, &gateway.url).await.ok();
        // One after the other: only whether the answer before was delivered may still be open.
        while answer.as_ref().is_some_and(|answer| answer.code() == "idempotency_in_flight") {
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer = ask.try_at(&world.client, &gateway.url).await.ok();
        }
        let print = format!("{query} {body}");
        model.step(&at, &ask, (payer, method, path, key), does, print, answer);
        let (client, expected) = (&clients[payer], model.balance[payer]);
        eventually(&format!("{at}: {expected} units are left"), async || {
            gateway.balance(client).await == expected
        })
        .await;
        assert_eq!(world.upstream.hits(), model.hits, "{at}");
    }
    closed(gateway).await;
}

impl Model {
    /// Says what must have happened, given what was there.
    fn step(
        &mut self,
        at: &str,
        ask: &Ask,
        place: (usize, &'static str, &'static str, u64),
        does: Does,
        print: String,
        answer: Option<Answer>,
    ) {
        let is_safe = ask.method == "GET";
        let known = ask.key.as_ref().and_then(|_| self.known.get(&place).cloned());
        let whole = || answer.as_ref().unwrap_or_else(|| panic!("{at}: broke off"));
        let refusal = |status: u16, code: &str| {
            let answer = whole();
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{at}: {}", answer.text());
        };
        match known {
            Some(Known::Answer(_, held) | Known::TooLarge(_, held) | Known::Unknown(held))
                if held != print =>
            {
                refusal(422, "idempotency_mismatch");
            }
            Some(Known::Answer(first, _)) => replayed(whole(), &first),
            Some(Known::TooLarge(repeats, held)) if is_safe && repeats < 3 => {
                self.hits += 1;
                assert_eq!((whole().status, whole().body.len()), (200, 300), "{at}");
                self.known.insert(place, Known::TooLarge(repeats + 1, held));
            }
            Some(Known::TooLarge(..)) => refusal(409, "idempotency_answer_lost"),
            Some(Known::Unknown(_)) if !is_safe => refusal(409, "idempotency_outcome_unknown"),
            // Given back: what only reads is served and charged as if it were new.
            Some(Known::Unknown(_)) | None => {
                self.hits += 1;
                let keyed = ask.key.is_some();
                match does {
                    Does::Answers | Does::AnswersAtLength => {
                        served(whole());
                        self.balance[place.0] -= PRICE;
                        let known = match does {
                            Does::Answers => Known::Answer(Box::new(whole().clone()), print),
                            _ => Known::TooLarge(0, print),
                        };
                        if keyed {
                            self.known.insert(place, known);
                        }
                    }
                    Does::Fails => assert_eq!(whole().status, 500, "{at}"),
                    // Whoever has a key waits for the whole answer; without one it breaks off in the middle.
                    Does::BreaksOff if keyed => {
                        assert_eq!(whole().status, 502, "{at}");
                        if is_safe {
                            self.known.remove(&place);
                        } else {
                            self.known.insert(place, Known::Unknown(print));
                        }
                    }
                    Does::BreaksOff | Does::BreaksOffAtLength => {
                        assert!(answer.is_none(), "{at}: {:?}", answer);
                        if keyed {
                            self.known.insert(place, Known::Unknown(print));
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_are_answered_and_charged_as_the_model_says() {
    let mut dice = Dice::printed("model of keys");
    for _ in rounds(2) {
        sequence(&mut dice.split(), 250).await;
    }
}
