//! A clientId that nobody has issued, or that was promised in vain, beside a card; and what a restored database still knows.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_id_beside_a_card_is_left_out_and_that_is_said() {
    let world = world().await;
    let gateway = world.gateway().await;
    let made_up = format!("pck_{}", "A".repeat(43));
    let alone = gateway.pay("/api/weather", &Pay::client(&made_up)).await;
    assert_refused(&alone, 402, "unknown_client");

    let card = world.tokenise_with(GOOD, Some("123")).await;
    let founded = gateway.pay("/api/weather", &Pay::client(&made_up).with_card(&card)).await;
    assert_eq!(founded.status, 200, "{}", founded.text());
    let receipt = founded.receipt();
    assert!(receipt.notice.as_ref().is_some_and(|notice| notice.contains("unknown")), "{receipt:?}");
    assert_ne!(receipt.client_id, made_up);
    let again = gateway.pay("/api/weather", &Pay::client(&receipt.client_id).with_card(&card)).await;
    assert_eq!((again.status, again.receipt().notice), (200, None));

    let another = world.tokenise_with(GOOD, Some("123")).await;
    let led = gateway.pay("/api/weather", &Pay::client(&made_up).with_card(&another)).await;
    assert_eq!((led.status, led.receipt().credits_remaining.unwrap()), (200, 48_500));
    assert!(led.receipt().notice.is_some());
    let no_cvc = world.tokenise_with(GOOD, None).await;
    let refused = gateway.pay("/api/weather", &Pay::client(&made_up).with_card(&no_cvc)).await;
    assert_refused(&refused, 409, "card_has_wallet");
    assert!(refused.json()["detail"].as_str().unwrap().contains("unknown"), "{}", refused.text());
    assert_eq!(charges(&world).await, 1);

    // A revoked one is not left out.
    change(&world.database, "UPDATE client_keys SET revoked_at = created_at WHERE scope = 'owner'", &[])
        .await;
    gateway.stop().await;
    let gateway = world.gateway().await;
    let revoked = Pay::client(&receipt.client_id).with_card(&world.tokenise_with(OTHER, Some("123")).await);
    assert_refused(&gateway.pay("/api/weather", &revoked).await, 403, "key_revoked");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_was_promised_in_vain_is_left_out_beside_a_card() {
    let world = world().await;
    let gateway = world.gateway().await;
    // Stripe works on the charge for a while, and then it fails.
    let processing = world.tokenise_with(PROCESSING, Some("123")).await;
    let pending = pay(&gateway, &processing).await;
    assert_refused(&pending, 503, "topup_pending");
    let promised = pending.receipt().client_id;
    assert!(!promised.is_empty());
    let card = world.tokenise_with(OTHER, Some("123")).await;
    let both = Pay::client(&promised).with_card(&card);
    assert_refused(&gateway.pay("/api/weather", &both).await, 503, "topup_pending");
    crate::unknown_outcomes::finish(&world, "failed").await;
    let url = format!("{}/api/weather", gateway.url);
    crate::support::program::until("it has failed", async || {
        let header = Pay::client(&promised).header();
        world.client.send("GET", &url, &[("payment", &header)], None).await.code() == "unknown_client"
    })
    .await;
    let served = gateway.pay("/api/weather", &both).await;
    assert_eq!(served.status, 200, "{}", served.text());
    assert!(served.receipt().notice.is_some() && served.receipt().client_id != promised);
    assert_eq!(charges(&world).await, 1);
    gateway.stop().await;
    world.assert_books_agree().await;
}
