//! Whoever has many numbers and no CVC gets no wallet, and the shield's bounds hold.

use prepaid402::protocol::card_number::is_card_number;

use super::*;
use crate::support::dice::Dice;
use crate::support::effort::many;

/// A number that passes the check digit, of a test card's issuer.
fn number_of(dice: &mut Dice) -> String {
    let body = format!("424242{:09}", dice.below(1_000_000_000));
    let with_check_digit =
        (0..10).map(|digit| format!("{body}{digit}")).find(|number| is_card_number(number));
    with_check_digit.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_numbers_lead_nobody_to_a_wallet_and_the_shield_holds() {
    let mut world = world().await;
    // As it comes.
    world.shield = String::new();
    let gateway = world.gateway().await;
    for (number, cvc) in [(GOOD, "737"), (OTHER, "424")] {
        set_cvc(&world, number, cvc).await;
        assert_eq!(pay(&gateway, &world.tokenise_with(number, Some(cvc)).await).await.status, 200);
    }
    let mut dice = Dice::printed("numbers");
    let mut told = std::collections::BTreeMap::<String, u64>::new();
    let before = charges(&world).await;
    for n in 0..many(300, 10_000) {
        // Among them the numbers of those who have wallets, with a guess at their CVC.
        let token = match n % 10 {
            0 => world.tokenise_with(GOOD, Some("111")).await,
            5 => world.tokenise_with(OTHER, None).await,
            // Stripe has most of them as no test card.
            _ => match world.try_tokenise(&number_of(&mut dice), Some("111")).await {
                Ok(token) => token,
                Err(_) => continue,
            },
        };
        let answer = pay(&gateway, &token).await;
        assert!(answer.status != 200, "{}", answer.text());
        assert!(answer.try_receipt().is_none_or(|receipt| receipt.client_id.is_empty()), "{}", answer.text());
        *told.entry(answer.code()).or_default() += 1;
    }
    println!("{told:?}");
    // The network's bounds: five attempts an hour, three declined cards a day; and three failed checks of a card.
    assert!(setup_intents(&world).await <= 5, "{}", setup_intents(&world).await);
    assert!(number(&world.database, CHECKS).await <= 5);
    let attempts = "SELECT COUNT(*) FROM charge_attempts";
    assert!(number(&world.database, attempts).await <= 7, "{}", number(&world.database, attempts).await);
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (before, 2));
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// Whoever knows the number alone can found a wallet with it, and holds its owner key. The cardholder's money must not go there.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_was_founded_with_the_number_alone_is_nobodys_to_be_led_to() {
    let world = world().await;
    let gateway = world.gateway().await;
    let holder = found(&gateway, GOOD).await;
    let without = world.tokenise_with(GOOD, None).await;
    let planted = gateway.pay("/api/weather", &Pay::card(&without).new_wallet()).await;
    assert_eq!(planted.status, 200, "{}", planted.text());
    let planted = planted.receipt().client_id;
    for left in [49_000, 48_500] {
        assert_eq!(pay_anew(&gateway, GOOD).await.receipt().credits_remaining, Some(left));
    }
    assert_eq!(key_of(&gateway, &planted).await["balance"], 49_500);
    while gateway.pay("/api/weather", &Pay::client(&holder)).await.status == 200 {}
    assert_refused(&pay_anew(&gateway, GOOD).await, 409, "card_has_wallet");
    // Nor is it when it was there first.
    let first = gateway.pay("/api/weather", &Pay::card(&world.tokenise_with(OTHER, None).await)).await;
    assert_eq!(first.status, 200);
    pass(&world, ELEVEN_MINUTES).await;
    assert_eq!(pay_anew(&gateway, OTHER).await.receipt().credits_remaining, Some(49_500), "one of its own");
    assert_eq!(pay_anew(&gateway, OTHER).await.receipt().credits_remaining, Some(49_000));
    assert_eq!(key_of(&gateway, &first.receipt().client_id).await["balance"], 49_500);
    gateway.stop().await;
    world.assert_books_agree().await;
}
