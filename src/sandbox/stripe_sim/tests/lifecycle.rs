//! What the operations do: cards, customers, charges, refunds, lists, and what survives.

use super::*;

#[tokio::test]
async fn keys_open_what_they_open_at_stripe() {
    let stripe = Stripe::new().await;
    let basic = |key: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{key}:")))
    };
    let card = "type=card&card[number]=4242424242424242&card[exp_month]=12&card[exp_year]=60";
    let with_key = format!("{card}&key={SANDBOX_PUBLISHABLE_KEY}");
    let secret_in_form = format!("{card}&key={SANDBOX_SECRET_KEY}");
    for (authorization, path, body, status) in [
        (bearer(SANDBOX_PUBLISHABLE_KEY), "/v1/payment_methods", card, 200),
        (basic(SANDBOX_PUBLISHABLE_KEY), "/v1/payment_methods", card, 200),
        (basic(SANDBOX_SECRET_KEY), "/v1/payment_methods", card, 200),
        (String::new(), "/v1/payment_methods", &with_key, 200),
        (String::new(), "/v1/payment_methods", &secret_in_form, 401),
        (String::new(), "/v1/payment_methods", card, 401),
        (bearer("sk_test_other"), "/v1/payment_methods", card, 401),
        (bearer("sk_live_other"), "/v1/payment_methods", card, 401),
        (bearer(SANDBOX_PUBLISHABLE_KEY), "/v1/customers", "", 403),
        (bearer(SANDBOX_PUBLISHABLE_KEY), "/v1/payment_intents", CONFIRM, 403),
        (bearer(SANDBOX_SECRET_KEY), "/v1/nothing", "", 404),
    ] {
        let headers: &[(&str, &str)] =
            if authorization.is_empty() { &[] } else { &[("authorization", &authorization)] };
        let reply = stripe.send("POST", path, body, headers).await.unwrap();
        assert_eq!(reply.status, status, "{path} {}", reply.body);
        assert!(reply.header("request-id").unwrap().starts_with("req_"));
        assert_eq!(reply.header("x-prepaid402-sandbox"), Some("simulated Stripe"));
        assert!(!reply.body.contains("_other"), "a key is said back: {}", reply.body);
    }
    let headers = [("authorization", &*bearer(SANDBOX_PUBLISHABLE_KEY))];
    let intent = stripe.post("/v1/payment_intents", &confirm("pm_card_visa")).await.json();
    let path = format!("/v1/payment_intents/{}", intent["id"].as_str().unwrap());
    assert_eq!(stripe.send("GET", &path, "", &headers).await.unwrap().status, 403);

    stripe.control("/_sim/settings", &json!({ "publishable_key_tokenisation": false })).await;
    let reply = stripe.send("POST", "/v1/payment_methods", card, &headers).await.unwrap();
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("This integration surface is unsupported for publishable key tokenization"));
    assert_eq!(stripe.post("/v1/payment_methods", card).await.status, 200);
}

#[tokio::test]
async fn cards_are_checked_when_they_are_typed_in() {
    let stripe = Stripe::new().await;
    for (number, month, year, cvc, code) in [
        ("4242424242424241", "12", "2060", "123", "incorrect_number"),
        ("4242", "12", "2060", "123", "invalid_number"),
        ("424242424242424x", "12", "2060", "123", "invalid_number"),
        ("4242424242424242", "13", "2060", "123", "invalid_expiry_month"),
        ("4242424242424242", "0", "2060", "123", "invalid_expiry_month"),
        ("4242424242424242", "12", "2020", "123", "invalid_expiry_year"),
        ("4242424242424242", "12", "2999", "123", "invalid_expiry_year"),
        ("4242424242424242", "12", "60", "12", "invalid_cvc"),
        ("4242424242424242", "12", "60", "12x", "invalid_cvc"),
        ("4242424242424242", "12", "60", "1234", "invalid_cvc"),
        ("4111111111111111", "12", "60", "123", "card_declined"),
    ] {
        let body = format!(
            "type=card&card[number]={number}&card[exp_month]={month}&card[exp_year]={year}&card[cvc]={cvc}"
        );
        let (status, kind, found, _) = stripe.post("/v1/payment_methods", &body).await.error();
        assert_eq!(
            (status, kind.as_str(), found.as_str()),
            (402, "card_error", code),
            "{number} {month} {year} {cvc}"
        );
    }
    let fingerprint = |method: Value| method["card"]["fingerprint"].as_str().unwrap().to_owned();
    let first = stripe.card("4242424242424242").await;
    let first = fingerprint(stripe.get(&format!("/v1/payment_methods/{first}")).await.json());
    let body =
        "type=card&card[number]=4242 4242 4242 4242&card[exp_month]=1&card[exp_year]=2061".replace(' ', "+");
    let again = fingerprint(stripe.post("/v1/payment_methods", &body).await.json());
    let named = fingerprint(stripe.get("/v1/payment_methods/pm_card_visa").await.json());
    let other = fingerprint(stripe.get("/v1/payment_methods/pm_card_mastercard").await.json());
    assert_eq!((&again, &named), (&first, &first));
    assert_ne!(other, first);
}

#[tokio::test]
async fn wrong_parameters_get_stripes_codes() {
    let stripe = Stripe::new().await;
    for (body, code) in [
        ("currency=usd", "parameter_missing"),
        ("amount=500", "parameter_missing"),
        ("amount=5.5&currency=usd", "parameter_invalid_integer"),
        ("amount=1e3&currency=usd", "parameter_invalid_integer"),
        ("amount=NaN&currency=usd", "parameter_invalid_integer"),
        ("amount=%2B500&currency=usd", "parameter_invalid_integer"),
        ("amount=-500&currency=usd", "parameter_invalid_integer"),
        ("amount=0&currency=usd", "parameter_invalid_integer"),
        ("amount=99999999999999999999&currency=usd", "parameter_invalid_integer"),
        ("amount=49&currency=usd", "amount_too_small"),
        ("amount=100000000&currency=usd", "amount_too_large"),
        ("amount=1231&currency=kwd", "parameter_invalid_integer"),
        ("amount=500&currency=zzz", ""),
        ("amount=&currency=usd", "parameter_invalid_empty"),
        ("amount=500&currency=usd&top_up=1", "parameter_unknown"),
        ("amount=500&currency=usd&automatic_payment_methods[redirects]=1", "parameter_unknown"),
        ("amount=500&currency=usd&customer=cus_none", "resource_missing"),
        ("amount=500&currency=usd&payment_method=pm_none", "resource_missing"),
        ("amount=500&currency=usd&off_session=true", ""),
        ("amount=500&currency=usd&error_on_requires_action=true", ""),
        ("amount=500&currency=usd&statement_descriptor=X", ""),
        ("amount=500&currency=usd&statement_descriptor_suffix=123", ""),
        ("amount=500&currency=usd&transfer_data[destination]=acct_1", ""),
        ("amount=500&currency=usd&capture_method=manual", ""),
        ("amount=500&currency=usd&expand[0]=secrets", ""),
        ("amount=500&currency=usd&confirm=true&payment_method=pm_card_visa", ""),
        (
            "amount=500&currency=usd&confirm=true&payment_method=pm_card_visa&off_session=true&setup_future_usage=off_session",
            "",
        ),
    ] {
        let (status, kind, found, _) = stripe.keyed("k", "/v1/payment_intents", body).await.error();
        assert_eq!((status, kind.as_str(), found.as_str()), (400, "invalid_request_error", code), "{body}");
    }
    assert!(stripe.get("/_sim/books").await.json()["payment_intents"].as_array().unwrap().is_empty());
    // None of them has used the key up.
    assert_eq!(stripe.keyed("k", "/v1/payment_intents", &confirm("pm_card_visa")).await.status, 200);
}

#[tokio::test]
async fn every_test_card_does_what_it_does_at_stripe() {
    let stripe = Stripe::new().await;
    for (number, status, code, decline) in [
        ("4242424242424242", 200, "", ""),
        ("5555555555554444", 200, "", ""),
        ("378282246310005", 200, "", ""),
        ("4000000000000002", 402, "card_declined", "generic_decline"),
        ("4000000000009995", 402, "card_declined", "insufficient_funds"),
        ("4000000000009987", 402, "card_declined", "lost_card"),
        ("4000000000009979", 402, "card_declined", "stolen_card"),
        ("4000000000000069", 402, "expired_card", ""),
        ("4000000000000127", 402, "incorrect_cvc", ""),
        ("4000000000000119", 402, "processing_error", ""),
        ("4000000000000341", 402, "card_declined", "generic_decline"),
        ("4000002760003184", 402, "authentication_required", ""),
        ("4000002500003155", 402, "authentication_required", ""),
        ("4000000000003220", 402, "authentication_required", ""),
    ] {
        let method = stripe.card(number).await;
        let reply = stripe.post("/v1/payment_intents", &confirm(&method)).await;
        if status == 200 {
            assert_eq!((reply.status, reply.json()["status"].as_str()), (200, Some("succeeded")), "{number}");
        } else {
            let expected = (402, "card_error".to_owned(), code.to_owned(), decline.to_owned());
            assert_eq!(reply.error(), expected, "{number}");
            assert_eq!(
                reply.json()["error"]["payment_intent"]["status"],
                "requires_payment_method",
                "{number}"
            );
        }
    }
    let off_session = CONFIRM.replace("error_on_requires_action", "off_session");
    let reply = stripe
        .post("/v1/payment_intents", &format!("{off_session}&payment_method=pm_card_authenticationRequired"))
        .await;
    assert_eq!(reply.error().3, "authentication_required");
    assert_eq!(stripe.totals().await.0, 1_500);
}

#[tokio::test]
async fn a_payment_method_belongs_to_one_customer_or_is_used_once() {
    let stripe = Stripe::new().await;
    let (alice, bob) = (stripe.customer().await, stripe.customer().await);
    let pay = async |method: &str, more: &str| {
        let body = format!("{}{more}", confirm(method));
        stripe.post("/v1/payment_intents", &body).await
    };
    let once = stripe.card("4242424242424242").await;
    assert_eq!(pay(&once, "").await.status, 200);
    let again = pay(&once, "").await;
    assert_eq!(again.status, 400);
    assert!(again.body.contains("It may not be used again"), "{}", again.body);
    let attach = format!("/v1/payment_methods/{once}/attach");
    assert_eq!(stripe.post(&attach, &format!("customer={alice}")).await.status, 400);

    let saved = stripe.card("4242424242424242").await;
    let first = pay(&saved, &format!("&customer={alice}&setup_future_usage=off_session")).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(stripe.get(&format!("/v1/payment_methods/{saved}")).await.json()["customer"], json!(alice));
    assert_eq!(pay(&saved, &format!("&customer={alice}&off_session=true")).await.status, 200);
    assert_eq!(pay(&saved, &format!("&customer={bob}")).await.status, 400);
    assert_eq!(pay(&saved, "").await.status, 400);
    let attach = format!("/v1/payment_methods/{saved}/attach");
    assert_eq!(stripe.post(&attach, &format!("customer={bob}")).await.status, 400);
    let listed = stripe.get(&format!("/v1/customers/{alice}/payment_methods")).await.json();
    assert_eq!(listed["data"][0]["id"], json!(saved));

    let refused = stripe.card("4000000000000341").await;
    let attach = format!("/v1/payment_methods/{refused}/attach");
    assert_eq!(stripe.post(&attach, &format!("customer={bob}")).await.status, 200);
    assert_eq!(pay(&refused, &format!("&customer={bob}")).await.status, 402);
    let declined = stripe
        .post("/v1/payment_methods/pm_card_visa_chargeDeclined/attach", &format!("customer={bob}"))
        .await;
    assert_eq!(declined.status, 402);
    assert_eq!(stripe.post(&format!("/v1/payment_methods/{saved}/detach"), "").await.status, 200);
    assert_eq!(pay(&saved, &format!("&customer={alice}")).await.status, 400);
    assert_eq!(stripe.totals().await, (1_500, 0, 135, 1_365));
}

#[tokio::test]
async fn intents_go_from_state_to_state() {
    let stripe = Stripe::new().await;
    let id = async |body: &str| {
        stripe.post("/v1/payment_intents", body).await.json()["id"].as_str().unwrap().to_owned()
    };
    let two_steps = "amount=500&currency=usd&payment_method_types[0]=card";
    let intent = id(two_steps).await;
    let confirm_path = format!("/v1/payment_intents/{intent}/confirm");
    assert_eq!(stripe.post(&confirm_path, "").await.error().2, "payment_intent_unexpected_state");
    assert_eq!(stripe.post(&confirm_path, "payment_method=pm_card_visa_chargeDeclined").await.status, 402);
    let paid = stripe.post(&confirm_path, "payment_method=pm_card_visa").await.json();
    assert_eq!((paid["status"].as_str(), &paid["last_payment_error"]), (Some("succeeded"), &Value::Null));
    for path in [&confirm_path, &format!("/v1/payment_intents/{intent}/cancel")] {
        let reply = stripe.post(path, "").await;
        assert_eq!(reply.error().2, "payment_intent_unexpected_state", "{path}");
        assert_eq!(reply.json()["error"]["payment_intent"]["id"], json!(intent));
    }
    let waiting = format!("{two_steps}&confirm=true&payment_method");
    for (method, outcome, status, charged) in [
        ("pm_card_processing", "succeeded", "succeeded", 1_000),
        ("pm_card_processing", "failed", "requires_payment_method", 1_000),
        ("pm_card_threeDSecureRequired", "succeeded", "succeeded", 1_500),
        ("pm_card_threeDSecureRequired", "failed", "requires_payment_method", 1_500),
    ] {
        let intent = id(&format!("{waiting}={method}")).await;
        let path = format!("/_sim/payment_intents/{intent}/finish");
        let finished = stripe.control(&path, &json!({ "outcome": outcome })).await;
        assert_eq!(finished["status"], status, "{method} {outcome}");
        assert_eq!(stripe.totals().await.0, charged, "{method} {outcome}");
        let body = json!({ "outcome": outcome }).to_string();
        assert_eq!(stripe.send("POST", &path, &body, &[]).await.unwrap().status, 400, "twice");
    }
}

#[tokio::test]
async fn refunds_never_exceed_the_charge() {
    let stripe = Stripe::new().await;
    let intent = stripe.post("/v1/payment_intents", &confirm("pm_card_visa")).await.json();
    let intent = intent["id"].as_str().unwrap();
    for (body, status, code) in [
        ("amount=501", 400, ""),
        ("amount=0", 400, "parameter_invalid_integer"),
        ("amount=200&reason=duplicate&metadata[a]=b", 200, ""),
        ("amount=301", 400, ""),
        ("reason=because", 400, ""),
        ("", 200, ""),
        ("", 400, "charge_already_refunded"),
        ("amount=1", 400, "charge_already_refunded"),
    ] {
        let reply = stripe.post("/v1/refunds", &format!("payment_intent={intent}&{body}")).await;
        assert_eq!(
            (reply.status, reply.json()["error"]["code"].as_str().unwrap_or("")),
            (status, code),
            "{body}"
        );
    }
    assert_eq!(stripe.totals().await, (500, 500, 45, -45));
    let unpaid = stripe.post("/v1/payment_intents", "amount=500&currency=usd").await.json();
    let body = format!("payment_intent={}", unpaid["id"].as_str().unwrap());
    assert_eq!(stripe.post("/v1/refunds", &body).await.status, 400);
}

#[tokio::test]
async fn lists_have_pages_and_bounds() {
    let stripe = Stripe::new().await;
    let customer = stripe.customer().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let body = format!(
            "amount=500&currency=usd{}",
            if number % 2 == 0 { format!("&customer={customer}") } else { String::new() }
        );
        ids.push(stripe.post("/v1/payment_intents", &body).await.json()["id"].clone());
    }
    ids.reverse();
    let list = async |query: &str| {
        let page = stripe.get(&format!("/v1/payment_intents?{query}")).await.json();
        let ids: Vec<Value> = page["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
        (ids, page["has_more"].as_bool().unwrap())
    };
    assert_eq!(list("").await, (ids.clone(), false));
    assert_eq!(list("limit=2").await, (ids[..2].to_vec(), true));
    let cursor = ids[1].as_str().unwrap();
    assert_eq!(list(&format!("limit=2&starting_after={cursor}")).await, (ids[2..4].to_vec(), true));
    assert_eq!(list(&format!("limit=3&starting_after={cursor}")).await, (ids[2..].to_vec(), false));
    assert_eq!(list(&format!("ending_before={cursor}")).await, (ids[..1].to_vec(), false));
    assert_eq!(list(&format!("customer={customer}")).await.0.len(), 3);
    let now = stripe.get("/_sim/books").await.json()["now"].as_i64().unwrap();
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 1000 })).await;
    let late = stripe.post("/v1/payment_intents", "amount=500&currency=usd").await.json()["id"].clone();
    assert_eq!(list(&format!("created[gte]={}", now + 500)).await, (vec![late.clone()], false));
    assert_eq!(list(&format!("created[gt]={}&created[lt]={}", now - 500, now + 500)).await.0, ids);
    assert_eq!(stripe.get("/v1/payment_intents?limit=101").await.status, 400);
    assert_eq!(stripe.get("/v1/payment_intents?starting_after=pi_none").await.status, 400);
}

#[tokio::test]
async fn the_books_survive_and_only_one_simulator_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let first = Stripe::with(options(Some(file.clone()))).await;
    let customer = first.customer().await;
    let method = first.card("4242424242424242").await;
    let body = format!("{}&customer={customer}&setup_future_usage=off_session", confirm(&method));
    let paid = first.keyed("key-1", "/v1/payment_intents", &body).await;
    let declined = first.keyed("key-2", "/v1/payment_intents", &confirm("pm_card_visa_chargeDeclined")).await;
    let refund = format!("payment_intent={}&amount=100", paid.json()["id"].as_str().unwrap());
    assert_eq!(first.post("/v1/refunds", &refund).await.status, 200);
    first.control("/_sim/clock", &json!({ "advance_seconds": 3600 })).await;
    first.control("/_sim/settings", &json!({ "publishable_key_tokenisation": false })).await;
    let fingerprint =
        first.get(&format!("/v1/payment_methods/{method}")).await.json()["card"]["fingerprint"].clone();
    let books = first.get("/_sim/books").await.json();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = start(listener, options(Some(file.clone()))).await;
    assert!(matches!(second, Err(SimError::Books(crate::sandbox::stripe_sim::JournalError::InUse(_)))));
    first.sim.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("4242424242424242"), "a card number is in the books");

    // A line that was being written when the power went is cut off.
    std::fs::write(&file, format!("{text}[{{\"kind\":\"customer\",\"val")).unwrap();
    let again = Stripe::with(options(Some(file.clone()))).await;
    let after = again.get("/_sim/books").await.json();
    for part in ["totals", "payment_intents", "refunds", "settings"] {
        assert_eq!(after[part], books[part], "{part}");
    }
    assert!(after["now"].as_i64().unwrap() >= books["now"].as_i64().unwrap());
    let card = again.get("/v1/payment_methods/pm_card_visa").await.json()["card"].clone();
    assert_eq!(card["fingerprint"], fingerprint);
    let replayed = again.keyed("key-1", "/v1/payment_intents", &body).await;
    assert_eq!(
        (replayed.status, &replayed.body, replayed.header("idempotent-replayed")),
        (200, &paid.body, Some("true"))
    );
    let replayed = again.keyed("key-2", "/v1/payment_intents", &confirm("pm_card_visa_chargeDeclined")).await;
    assert_eq!((replayed.status, &replayed.body), (402, &declined.body));
    assert_eq!(again.totals().await.0, 500);
    again.sim.stop().await;

    std::fs::write(&file, "not ours").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(start(listener, options(Some(file.clone()))).await, Err(SimError::Books(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not ours");
}
