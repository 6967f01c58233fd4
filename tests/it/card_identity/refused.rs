//! Who does not know the card, or whose wallet is closed, is led nowhere, and learns nothing.

use futures_util::future::join_all;

use super::*;
use crate::support::{column, rows};

/// Answers in which only the cause differs.
async fn assert_same(gateway: &Gateway<'_>, tokens: &[String]) {
    let mut shapes = Vec::new();
    for token in tokens {
        let answer = pay(gateway, token).await;
        assert_refused(&answer, 409, "card_has_wallet");
        assert!(answer.try_receipt().is_none(), "nobody's key is told");
        for word in ["clientId", "pm", "newWallet", "Nothing was charged"] {
            assert!(answer.text().contains(word) || word == "pm", "{word} in {}", answer.text());
        }
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        shapes.push(shape(&answer));
    }
    assert!(shapes.windows(2).all(|pair| pair[0] == pair[1]), "{shapes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_banks_word_nobody_is_led_anywhere_and_all_are_told_the_same() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    let no_cvc = world.tokenise_with(GOOD, None).await;
    assert_same(&gateway, std::slice::from_ref(&no_cvc)).await;
    assert_eq!(setup_intents(&world).await, 1);
    assert_eq!(number(&world.database, OPEN_CHECKS).await, 0);
    // The same token is not asked about again, and its answer is the same.
    assert_same(&gateway, std::slice::from_ref(&no_cvc)).await;
    assert_eq!(setup_intents(&world).await, 1);
    let open = world.tokenise_with(GOOD, None).await;
    // A card of which only a top-up is known; a wallet whose keys are revoked; a check that is used up.
    let revoked = world.tokenise_with(GOOD, Some("123")).await;
    change(&world.database, "UPDATE client_keys SET revoked_at = created_at", &[]).await;
    let asked = setup_intents(&world).await;
    assert_same(&gateway, &[no_cvc, open, revoked]).await;
    assert_eq!(setup_intents(&world).await, asked, "a closed wallet is nothing to ask for");
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (1, 1));

    // Later than a client repeats what it has waited for: as under "key".
    pass(&world, ELEVEN_MINUTES).await;
    let answer = pay(&gateway, &world.tokenise_with(GOOD, None).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (2, 2));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cvc_is_a_decline_and_three_of_them_close_the_way() {
    let world = world().await;
    let gateway = world.gateway().await;
    set_cvc(&world, GOOD, "737").await;
    let right = world.tokenise_with(GOOD, Some("737")).await;
    let owner = pay(&gateway, &right).await.receipt().client_id;
    for _ in 0..3 {
        // The SetupIntent itself succeeds.
        let answer = pay(&gateway, &world.tokenise_with(GOOD, Some("123")).await).await;
        assert_refused(&answer, 402, "card_declined");
        assert!(answer.try_receipt().is_none());
    }
    assert_eq!((charges(&world).await, setup_intents(&world).await), (1, 3));
    let failed = "SELECT COUNT(*) FROM card_checks WHERE state = 'failed'";
    assert_eq!(number(&world.database, failed).await, 3);
    // Whoever knows it comes too late, for thirty days.
    let token = world.tokenise_with(GOOD, Some("737")).await;
    assert_refused(&pay(&gateway, &token).await, 409, "card_has_wallet");
    pass(&world, 29 * DAY).await;
    assert_eq!(pay(&gateway, &world.tokenise_with(GOOD, Some("737")).await).await.status, 200);
    assert_eq!((charges(&world).await, setup_intents(&world).await), (2, 3), "a wallet of its own");
    pass(&world, 2 * DAY).await;
    let answer = pay(&gateway, &world.tokenise_with(GOOD, Some("737")).await).await;
    assert_eq!((answer.status, charges(&world).await, setup_intents(&world).await), (200, 2, 4));
    assert_eq!(key_of(&gateway, &owner).await["balance"], 49_500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_declined_when_it_is_checked_is_declined() {
    let mut world = world().await;
    world.shield = String::new();
    let gateway = world.gateway().await;
    found(&gateway, OTHER).await;
    // As if the card had paid before it was blocked.
    let declined = world.tokenise_with(DECLINED, Some("123")).await;
    assert_refused(&pay(&gateway, &declined).await, 402, "card_declined");
    let blocked = "UPDATE top_ups SET fingerprint = (SELECT fingerprint FROM top_ups WHERE state = 'failed') WHERE state = 'succeeded'";
    assert_eq!(change(&world.database, blocked, &[]).await, 1);
    let before = world.stripe_calls().await.get("payment_intents.confirm").copied();
    let answer = pay(&gateway, &world.tokenise_with(DECLINED, Some("123")).await).await;
    assert_refused(&answer, 402, "card_declined");
    assert_eq!(world.stripe_calls().await.get("payment_intents.confirm").copied(), before);
    // The shield counts what the bank said of a check like what it says of a charge: two cards, two declines of one network.
    let declines = "SELECT COUNT(*) FROM top_ups WHERE failure = 'card_declined'";
    assert_eq!((number(&world.database, declines).await, setup_intents(&world).await), (2, 1));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_that_asks_for_its_cardholder_has_said_nothing() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, OTHER).await;
    let asks = world.tokenise_with(ASKS, Some("123")).await;
    assert_refused(&pay(&gateway, &asks).await, 402, "authentication_required");
    let paid = "UPDATE top_ups SET fingerprint = (SELECT fingerprint FROM top_ups WHERE state = 'failed') WHERE state = 'succeeded'";
    assert_eq!(change(&world.database, paid, &[]).await, 1);
    let answer = pay(&gateway, &world.tokenise_with(ASKS, Some("123")).await).await;
    assert_refused(&answer, 409, "card_has_wallet");
    let calls = world.stripe_calls().await;
    assert_eq!((calls["setup_intents.create"], setup_state(&world).await), (1, "canceled".to_owned()));
    assert_eq!(number(&world.database, OPEN_CHECKS).await, 0);
    gateway.stop().await;
}

/// The newest SetupIntent's.
async fn setup_state(world: &World) -> String {
    let books = world.books().await;
    let all = books["setup_intents"].as_array().unwrap().clone();
    all.last().unwrap()["status"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_wallet_is_told_to_whoever_knows_the_card_and_to_nobody_else() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    let second = world.tokenise_with(GOOD, Some("123")).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&second).new_wallet()).await.status, 200);
    change(
        &world.database,
        "UPDATE clients SET status = 'frozen' WHERE id = (SELECT MIN(id) FROM clients)",
        &[],
    )
    .await;
    let answer = pay_anew(&gateway, GOOD).await;
    assert_refused(&answer, 403, "client_frozen");
    assert!(answer.try_receipt().is_none());
    assert_same(&gateway, &[world.tokenise_with(GOOD, None).await]).await;
    assert_eq!((charges(&world).await, number(&world.database, OPEN_CHECKS).await), (2, 0));
    change(&world.database, "UPDATE clients SET status = 'active'", &[]).await;
    assert_eq!(pay_anew(&gateway, GOOD).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_has_topped_a_wallet_up_later_does_not_lead_to_it() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    while gateway.pay("/api/weather", &Pay::client(&owner)).await.status == 200 {}
    let later = world.tokenise_with(OTHER, Some("123")).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&owner).with_card(&later)).await.status, 200);
    // Its charge is young: whoever has the card may be the one who has just paid.
    assert_refused(&pay_anew(&gateway, OTHER).await, 409, "card_has_wallet");
    pass(&world, ELEVEN_MINUTES).await;
    assert_eq!(pay_anew(&gateway, OTHER).await.status, 200);
    assert_eq!((setup_intents(&world).await, number(&world.database, WALLETS).await), (0, 2));
    assert_eq!(key_of(&gateway, &owner).await["balance"], 49_500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_that_the_card_has_used_charges_it_no_second_time() {
    let world = world().await;
    let gateway = world.gateway().await;
    let ask = async |token: String, key: &str, new_wallet: bool| {
        let pay = Pay::card(&token);
        pay_under(&gateway, if new_wallet { pay.new_wallet() } else { pay }, key).await
    };
    let first = ask(world.tokenise_with(GOOD, Some("123")).await, "one", false).await;
    assert_eq!(first.status, 200, "{}", first.text());
    pass(&world, ELEVEN_MINUTES).await;
    for _ in 0..2 {
        let again = ask(world.tokenise_with(GOOD, None).await, "one", false).await;
        assert_refused(&again, 409, "card_has_wallet");
    }
    assert_eq!(charges(&world).await, 1);
    assert_eq!(ask(world.tokenise_with(GOOD, None).await, "two", false).await.status, 200);
    // Said in so many words.
    assert_eq!(ask(world.tokenise_with(GOOD, None).await, "one", true).await.status, 200);
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (3, 3));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_checks_of_a_card_pass_in_a_day() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    for _ in 0..10 {
        assert_eq!(pay_anew(&gateway, GOOD).await.status, 200);
    }
    assert_refused(&pay_anew(&gateway, GOOD).await, 409, "card_has_wallet");
    assert_eq!((setup_intents(&world).await, charges(&world).await), (10, 1));
    pass(&world, DAY + 1).await;
    assert_eq!(pay_anew(&gateway, GOOD).await.receipt().credits_remaining.unwrap(), 50_000 - 12 * 500);
    gateway.stop().await;
}

/// Nobody's bank is asked again and again by whoever knows no more than the number.
#[tokio::test(flavor = "multi_thread")]
async fn ten_checks_of_a_card_in_a_day_of_which_the_bank_says_nothing_end_the_asking() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    let unsaid = "SELECT COUNT(*) FROM card_checks WHERE state = 'unsaid'";
    for asked in 1..=10 {
        let token = world.tokenise_with(GOOD, None).await;
        assert_refused(&pay(&gateway, &token).await, 409, "card_has_wallet");
        assert_eq!((setup_intents(&world).await, number(&world.database, unsaid).await), (asked, asked));
    }
    // Whoever knows the CVC comes too late, too.
    assert_refused(&pay_anew(&gateway, GOOD).await, 409, "card_has_wallet");
    assert_refused(&pay(&gateway, &world.tokenise_with(GOOD, None).await).await, 409, "card_has_wallet");
    assert_eq!((setup_intents(&world).await, charges(&world).await), (10, 1));
    pass(&world, DAY - 1_200).await;
    assert_eq!(pay_anew(&gateway, GOOD).await.status, 200);
    assert_eq!((setup_intents(&world).await, charges(&world).await), (10, 2), "a wallet of its own");
    pass(&world, 1_200).await;
    let answer = pay_anew(&gateway, GOOD).await;
    assert_eq!((answer.status, answer.receipt().credits_remaining), (200, Some(49_000)), "{}", answer.text());
    assert_eq!((setup_intents(&world).await, charges(&world).await), (11, 2), "the day is over");
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// Whoever revokes one token of a wallet does not trust its card.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_of_which_one_token_was_revoked_is_opened_by_no_token_of_its_card() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    let led = world.tokenise_with(GOOD, Some("123")).await;
    assert_eq!(pay(&gateway, &led).await.status, 200);
    // The one that was led there later; neither the one that founded it nor any key.
    let revoke = "UPDATE payment_method_bindings SET revoked_at = created_at \
                  WHERE key IN (SELECT id FROM client_keys WHERE scope = 'spend')";
    assert_eq!(change(&world.database, revoke, &[]).await, 1);
    let asked = setup_intents(&world).await;
    assert_same(&gateway, &[world.tokenise_with(GOOD, Some("123")).await, led]).await;
    assert_eq!(setup_intents(&world).await, asked, "a closed wallet is nothing to ask for");
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (1, 1));
    let with_key = gateway.pay("/api/weather", &Pay::client(&owner)).await;
    assert_eq!((with_key.status, with_key.receipt().credits_remaining), (200, Some(48_500)));
    // Later than a client repeats what it has waited for, the card founds another.
    pass(&world, ELEVEN_MINUTES).await;
    let other = pay_anew(&gateway, GOOD).await;
    assert_eq!(other.status, 200, "{}", other.text());
    assert_ne!(other.receipt().client_id, owner);
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (2, 2));
    assert_eq!(key_of(&gateway, &owner).await["balance"], 48_500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_503_and_the_same_token_finds_out_by_one_check() {
    let unknown = async |action: &str| {
        let world = world().await;
        let gateway = world.gateway().await;
        found(&gateway, GOOD).await;
        let token = world.tokenise_with(GOOD, Some("123")).await;
        // More often than one call is repeated.
        for on in ["setup_intents.create", "setup_intents.list"] {
            world.faults(json!([{ "on": on, "action": action, "times": 1000 }])).await;
        }
        let answer = pay(&gateway, &token).await;
        assert_refused(&answer, 503, "card_check_pending");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(number(&world.database, OPEN_CHECKS).await, 1, "{action}");
        world.clear_faults().await;
        let answer = pay(&gateway, &token).await;
        assert_eq!((answer.status, answer.receipt().credits_remaining.unwrap()), (200, 49_000), "{action}");
        let books = world.books().await;
        assert_eq!(books["setup_intents"].as_array().unwrap().len(), 1, "{action}: the same check");
        assert_eq!((charges(&world).await, number(&world.database, CHECKS).await), (1, 1));
        gateway.stop().await;
        world.assert_books_agree().await;
    };
    join_all(["fail_after", "drop", "html_502", "unparsable"].map(unknown)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_for_good_is_found_in_stripes_list() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    // Stripe remembers the 500 under the key, although it has made what was asked for.
    let fault = json!([{ "on": "setup_intents.create", "action": "fail_after", "saved": true, "times": 1 }]);
    world.faults(fault).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    for left in [49_000, 48_500] {
        let answer = pay(&gateway, &token).await;
        assert_eq!(
            (answer.status, answer.receipt().credits_remaining.unwrap()),
            (200, left),
            "{}",
            answer.text()
        );
    }
    // Nothing was made: nothing can be found, and the caller is not told a wallet.
    let fault = json!([{ "on": "setup_intents.create", "action": "fail_before", "saved": true, "times": 1 }]);
    world.faults(fault).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    assert_refused(&pay(&gateway, &token).await, 503, "card_check_pending");
    let other = pay_anew(&gateway, GOOD).await;
    assert_eq!((other.status, other.receipt().credits_remaining.unwrap()), (200, 48_000), "{}", other.text());
    assert_eq!((charges(&world).await, number(&world.database, OPEN_CHECKS).await), (1, 0));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_nobody_asks_for_again_keeps_no_other_token_out() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    world.faults(json!([{ "on": "setup_intents.create", "action": "fail_before", "times": 1000 }])).await;
    assert_refused(&pay_anew(&gateway, GOOD).await, 503, "card_check_pending");
    world.clear_faults().await;
    assert_eq!(pay_anew(&gateway, GOOD).await.receipt().credits_remaining.unwrap(), 49_000);
    let states = rows(&world.database, "SELECT state FROM card_checks ORDER BY id").await;
    let states: Vec<String> = states.iter().map(|row| column(row, 0)).collect();
    assert_eq!(states, ["unsaid", "passed"]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_of_the_card_whose_outcome_is_open_keeps_it_from_being_charged_again() {
    let world = world().await;
    let gateway = world.gateway().await;
    // The bank works on it for as long as it likes.
    let first = world.tokenise_with(PROCESSING, Some("123")).await;
    assert_refused(&pay(&gateway, &first).await, 503, "topup_pending");
    assert_refused(&pay_anew(&gateway, PROCESSING).await, 409, "card_has_wallet");
    crate::unknown_outcomes::finish(&world, "succeeded").await;
    let answer = pay(&gateway, &first).await;
    assert_eq!((answer.status, charges(&world).await), (200, 1), "{}", answer.text());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_that_does_not_look_at_the_cvc_leads_nobody_to_a_wallet() {
    for number in [UNAVAILABLE, UNCHECKED] {
        let world = world().await;
        let gateway = world.gateway().await;
        found(&gateway, number).await;
        assert_same(&gateway, &[world.tokenise_with(number, Some("123")).await]).await;
        assert_eq!((charges(&world).await, setup_intents(&world).await), (1, 1));
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cvc_of_a_card_whose_charges_go_through_leads_nowhere() {
    let world = world().await;
    let gateway = world.gateway().await;
    // Charged, because nobody has a wallet yet.
    assert_eq!(pay_anew(&gateway, WRONG_CVC).await.status, 200);
    assert_refused(&pay_anew(&gateway, WRONG_CVC).await, 402, "card_declined");
    assert_eq!((charges(&world).await, setup_intents(&world).await), (1, 1));
    gateway.stop().await;
}
