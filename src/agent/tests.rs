//! The whole way, against servers on this machine.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use super::card::Card;
use super::http::Target;
use super::testing::{Reply, Server, offer_json, offer_reply, paid_reply};
use super::*;
use crate::trust::Trust;

fn outgoing(server: &Server, method: Method) -> Outgoing {
    let target = Target::parse(&format!("{}/api/weather", server.base), false).expect("url");
    Outgoing { target, method, headers: HeaderMap::new(), body: Bytes::new() }
}

/// A Stripe that makes `pm_1`, `pm_2`, …
async fn stripe() -> Server {
    let mut made = 0;
    Server::start(move |seen| {
        assert!(seen.body.contains("card%5Bnumber%5D=4242424242424242"), "{seen:?}");
        assert_eq!(seen.header("authorization"), Some("Bearer pk_test_1"));
        made += 1;
        Reply::Answer(200, vec![], json!({"id": format!("pm_{made}")}).to_string())
    })
    .await
}

fn agent(directory: &tempfile::TempDir, stripe: &Server) -> Agent {
    Agent {
        http: Http::new(Duration::from_secs(20), &Trust::default()),
        wallet: Wallet::new(directory.path().join("wallet.json")),
        stripe: StripeBase::new(Some(&stripe.base), Duration::from_secs(20)).expect("loopback"),
        budget: Budget::default(),
        card: CardSource::Test(Card::new("4242424242424242", "12/34", "123").expect("card")),
        new_wallet: false,
        retry: RetryPolicy { attempts: 3, first_wait: Duration::ZERO, longest_wait: Duration::from_secs(1) },
        say: |_| {},
    }
}

fn receipt(remaining: i64) -> Value {
    json!({"success": true, "creditsRemaining": remaining, "clientId": "pck_mine"})
}

fn payments(server: &Server) -> Vec<Value> {
    server.seen().iter().map(super::testing::Seen::payment).collect()
}

async fn body(paid: &mut Paid) -> String {
    let mut answer = paid.take_answer().expect("answer");
    let mut text = String::new();
    while let Some(piece) = answer.next().await {
        text.push_str(std::str::from_utf8(&piece.expect("piece")).expect("utf-8"));
    }
    text
}

#[tokio::test]
async fn buys_once_and_spends_from_then_on() {
    let directory = tempfile::tempdir().expect("directory");
    let shop = Server::start(|seen| match seen.payment() {
        Value::Null => offer_reply(&offer_json()),
        payment if payment["paymentMethodId"] == "pm_1" => paid_reply(receipt(49_500)),
        payment if payment["clientId"] == "pck_mine" => paid_reply(receipt(49_000)),
        _ => Reply::Drop,
    })
    .await;
    let stripe = stripe().await;
    let agent = agent(&directory, &stripe);

    let mut first = agent.send(outgoing(&shop, Method::GET)).await.expect("paid");
    assert_eq!(first.topped_up, Units::new(50_000));
    assert_eq!(body(&mut first).await, "sunny");
    let mut second = agent.send(outgoing(&shop, Method::GET)).await.expect("paid");
    assert_eq!(body(&mut second).await, "sunny");

    let seen = payments(&shop);
    assert_eq!(seen.len(), 3, "402, card, key");
    let card =
        json!({"stripe402Version": 1, "paymentMethodId": "pm_1", "topUpAmount": 50_000, "maxAmount": 1_000});
    assert_eq!(seen[1], card);
    assert_eq!(seen[2], json!({"stripe402Version": 1, "clientId": "pck_mine", "maxAmount": 1_000}));
    assert_eq!(stripe.seen().len(), 1);
    let account = agent.wallet.account(outgoing(&shop, Method::GET).target.origin()).expect("account");
    assert_eq!(account.charged.get("usd").map(|units| units.get()), Some(50_000));
    assert_eq!(account.pending, None);
}

#[tokio::test]
async fn a_lost_answer_is_asked_again_with_the_same_payment() {
    let directory = tempfile::tempdir().expect("directory");
    let mut cards = 0;
    let shop = Server::start(move |seen| match seen.payment() {
        Value::Null => offer_reply(&offer_json()),
        _ => {
            cards += 1;
            if cards == 1 { Reply::Drop } else { paid_reply(receipt(49_000)) }
        }
    })
    .await;
    let stripe = stripe().await;
    let agent = agent(&directory, &stripe);
    let mut paid = agent.send(outgoing(&shop, Method::POST)).await.expect("paid");
    assert_eq!(body(&mut paid).await, "sunny");
    let seen = shop.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].payment()["paymentMethodId"], seen[2].payment()["paymentMethodId"]);
    assert!(seen[1].header("idempotency-key").is_some());
    assert_eq!(seen[1].header("idempotency-key"), seen[2].header("idempotency-key"));
    assert_eq!(stripe.seen().len(), 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_resumed_by_the_next_run_and_no_other_card_is_charged() {
    let directory = tempfile::tempdir().expect("directory");
    let mut cards = 0;
    let shop = Server::start(move |seen| match seen.payment() {
        Value::Null => offer_reply(&offer_json()),
        _ => {
            cards += 1;
            let pending = json!({"code": "topup_pending", "message": "wait"}).to_string();
            if cards <= 3 {
                Reply::Answer(503, vec![("retry-after", "0".to_owned())], pending)
            } else {
                paid_reply(receipt(1))
            }
        }
    })
    .await;
    let stripe = stripe().await;
    let mut agent = agent(&directory, &stripe);
    let error = agent.send(outgoing(&shop, Method::GET)).await.expect_err("pending");
    assert!(matches!(error, AgentError::Unknown { .. }), "{error:?}");
    assert!(!error.to_string().contains("pm_1"));

    // The next run needs no card at all.
    agent.card = CardSource::None;
    let paid = agent.send(outgoing(&shop, Method::GET)).await.expect("paid");
    assert_eq!(paid.topped_up, Units::new(50_000));
    let cards: Vec<Value> = payments(&shop).into_iter().filter(|p| !p.is_null()).collect();
    assert_eq!(cards.len(), 4);
    assert!(cards.iter().all(|payment| payment["paymentMethodId"] == "pm_1"), "{cards:?}");
    assert_eq!(stripe.seen().len(), 1);
}

#[tokio::test]
async fn a_long_retry_after_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("directory");
    let shop = Server::start(|seen| match seen.payment() {
        Value::Null => offer_reply(&offer_json()),
        _ => {
            Reply::Answer(503, vec![("retry-after", "3600".to_owned())], json!({"code": "busy"}).to_string())
        }
    })
    .await;
    let stripe = stripe().await;
    let error = agent(&directory, &stripe).send(outgoing(&shop, Method::GET)).await.expect_err("busy");
    assert!(error.to_string().contains("after 3600 seconds"), "{error}");
    assert_eq!(shop.seen().len(), 2);
}

#[tokio::test]
async fn a_small_pack_is_not_risked_twice() {
    let directory = tempfile::tempdir().expect("directory");
    let mut offer = offer_json();
    offer["accepts"][0]["minTopUp"] = 900.into();
    let shop = Server::start(move |seen| match seen.payment() {
        Value::Null => offer_reply(&offer),
        _ => Reply::Drop,
    })
    .await;
    let stripe = stripe().await;
    let agent = agent(&directory, &stripe);
    let error = agent.send(outgoing(&shop, Method::GET)).await.expect_err("lost");
    assert!(matches!(error, AgentError::Unknown { .. }), "{error:?}");
    let error = agent.send(outgoing(&shop, Method::GET)).await.expect_err("refused");
    assert!(matches!(error, AgentError::Refused(Refusal::MayChargeTwice { .. })), "{error:?}");
    assert_eq!(payments(&shop).iter().filter(|payment| !payment.is_null()).count(), 1);
    // Given up by the holder, it still counts: one pack per server.
    agent.forget_pending(outgoing(&shop, Method::GET).target.origin()).await.expect("forgotten");
    let error = agent.send(outgoing(&shop, Method::GET)).await.expect_err("refused");
    assert!(matches!(error, AgentError::Refused(Refusal::SecondPack { .. })), "{error:?}");
}

#[tokio::test]
async fn a_declined_card_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("directory");
    let shop = Server::start(|seen| {
        let mut offer = offer_json();
        if !seen.payment().is_null() {
            offer["code"] = "card_declined".into();
            offer["message"] = "The card was declined.".into();
        }
        offer_reply(&offer)
    })
    .await;
    let stripe = stripe().await;
    let agent = agent(&directory, &stripe);
    let error = agent.send(outgoing(&shop, Method::GET)).await.expect_err("declined");
    assert!(matches!(&error, AgentError::Declined { code, .. } if code == "card_declined"), "{error:?}");
    let account = agent.wallet.account(outgoing(&shop, Method::GET).target.origin()).expect("account");
    assert_eq!(account, Account::default());
}

#[tokio::test]
async fn a_key_nobody_knows_is_replaced_and_kept() {
    let directory = tempfile::tempdir().expect("directory");
    let shop = Server::start(|seen| {
        let payment = seen.payment();
        let mut offer = offer_json();
        if payment["paymentMethodId"] == "pm_1" && payment["clientId"].is_null() {
            return paid_reply(receipt(49_500));
        }
        if payment["clientId"] == "pck_old" {
            offer["code"] = "unknown_client".into();
        }
        offer_reply(&offer)
    })
    .await;
    let stripe = stripe().await;
    let agent = agent(&directory, &stripe);
    let target = outgoing(&shop, Method::GET).target;
    agent
        .wallet
        .update(target.origin(), |account| account.remember_key(super::testing::key("pck_old")))
        .expect("wallet");
    agent.send(outgoing(&shop, Method::GET)).await.expect("paid");
    let account = agent.wallet.account(target.origin()).expect("account");
    assert_eq!(account.client_key, Some(super::testing::key("pck_mine")));
    assert_eq!(account.former_keys, [super::testing::key("pck_old")]);
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let directory = tempfile::tempdir().expect("directory");
    let elsewhere = Server::start(|_| Reply::Drop).await;
    let location = elsewhere.base.clone();
    let shop =
        Server::start(move |_| Reply::Answer(302, vec![("location", location.clone())], String::new())).await;
    let stripe = stripe().await;
    let mut paid = agent(&directory, &stripe).send(outgoing(&shop, Method::GET)).await.expect("answer");
    assert_eq!(paid.take_answer().expect("answer").status, 302);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_secret_key_in_an_offer_is_never_used() {
    let directory = tempfile::tempdir().expect("directory");
    let mut offer = offer_json();
    offer["accepts"][0]["publishableKey"] = "sk_test_oops".into();
    let shop = Server::start(move |_| offer_reply(&offer)).await;
    let stripe = stripe().await;
    let error = agent(&directory, &stripe).send(outgoing(&shop, Method::GET)).await.expect_err("refused");
    assert!(matches!(error, AgentError::Offer(OfferError::NotPublishable)), "{error:?}");
    assert!(stripe.seen().is_empty());
}

#[tokio::test]
async fn two_runs_at_once_charge_one_card() {
    let directory = tempfile::tempdir().expect("directory");
    let mut left = 50_000;
    let shop = Server::start(move |seen| match seen.payment() {
        Value::Null => offer_reply(&offer_json()),
        _ => {
            left -= 500;
            paid_reply(receipt(left))
        }
    })
    .await;
    let stripe = stripe().await;
    let (one, two) = (agent(&directory, &stripe), agent(&directory, &stripe));
    let (one, two) =
        tokio::join!(one.send(outgoing(&shop, Method::GET)), two.send(outgoing(&shop, Method::GET)));
    let topped_up = [one.expect("paid").topped_up, two.expect("paid").topped_up];
    assert_eq!(topped_up.iter().flatten().count(), 1, "{topped_up:?}");
    assert_eq!(stripe.seen().len(), 1);
}
