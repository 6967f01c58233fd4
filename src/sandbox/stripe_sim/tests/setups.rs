//! SetupIntents: outcomes by card, states, what the bank says of the CVC, permissions, and what survives.

use super::*;

const SETUPS: &str = "/v1/setup_intents";
const NOW: &str = "confirm=true&automatic_payment_methods[enabled]=true\
    &automatic_payment_methods[allow_redirects]=never&expand[0]=latest_attempt";

impl Stripe {
    /// Sets a PaymentMethod up at once.
    async fn set_up(&self, method: &str, more: &str) -> Reply {
        self.post(SETUPS, &format!("{NOW}&payment_method={method}{more}")).await
    }

    /// What the bank said of the CVC in a setup that succeeded.
    async fn check(&self, method: &str) -> Value {
        let reply = self.set_up(method, "").await;
        let setup = reply.json();
        assert_eq!((reply.status, &setup["status"]), (200, &json!("succeeded")), "{method} {}", reply.body);
        cvc_check(&setup["latest_attempt"])
    }
}

fn cvc_check(attempt: &Value) -> Value {
    let checks = &attempt["payment_method_details"]["card"]["checks"];
    assert_eq!(checks["address_line1_check"], Value::Null);
    checks["cvc_check"].clone()
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("{object}")).to_owned()
}

#[tokio::test]
async fn a_setup_ends_as_the_card_says() {
    let stripe = Stripe::new().await;
    for (number, cvc, check) in [
        ("4242424242424242", Some("123"), json!("pass")),
        ("4242424242424242", None, Value::Null),
        ("378282246310005", Some("1234"), json!("pass")),
        ("4000000000000341", Some("123"), json!("pass")),
        ("4000000000000101", Some("123"), json!("fail")),
        ("4000000000000101", None, Value::Null),
        ("4000000000004038", Some("123"), json!("unavailable")),
        ("4000000000004046", Some("123"), json!("unchecked")),
        ("4000000000000259", Some("123"), json!("pass")),
    ] {
        let method = stripe.typed_card(number, cvc).await;
        let setup = stripe.set_up(&method, "").await.json();
        assert_eq!(setup["status"], "succeeded", "{number} {setup}");
        assert_eq!(setup["payment_method"], json!(method), "{number}");
        assert_eq!(setup["latest_attempt"]["status"], "succeeded", "{number}");
        assert_eq!(cvc_check(&setup["latest_attempt"]), check, "{number} {cvc:?}");
    }
    for (number, code, decline) in [
        ("4000000000000002", "card_declined", "generic_decline"),
        ("4000000000009995", "card_declined", "insufficient_funds"),
        ("4000000000009987", "card_declined", "lost_card"),
        ("4000000000009979", "card_declined", "stolen_card"),
        ("4000000000000069", "expired_card", ""),
        ("4000000000000127", "incorrect_cvc", ""),
        ("4000000000000119", "processing_error", ""),
        ("4100000000000019", "card_declined", "fraudulent"),
    ] {
        let method = stripe.card(number).await;
        let reply = stripe.set_up(&method, "").await;
        assert_eq!(reply.error(), (402, "card_error".into(), code.into(), decline.into()), "{number}");
        let error = reply.json()["error"].clone();
        let setup = &error["setup_intent"];
        assert_eq!(setup["status"], "requires_payment_method", "{number}");
        assert_eq!(setup["payment_method"], Value::Null, "{number}");
        assert_eq!(setup["last_setup_error"]["code"], code, "{number}");
        assert_eq!(error["payment_method"]["id"], json!(method), "{number}");
        let attempts = stripe.list(&format!("/v1/setup_attempts?setup_intent={}", id(setup))).await;
        assert_eq!(attempts[0]["status"], "failed", "{number}");
        assert_eq!(attempts[0]["setup_error"]["code"], code, "{number}");
        let check = if code == "incorrect_cvc" { "fail" } else { "pass" };
        assert_eq!(cvc_check(&attempts[0]), check, "{number}");
    }
    assert_eq!(stripe.totals().await.0, 0);
}

#[tokio::test]
async fn setups_go_from_state_to_state() {
    let stripe = Stripe::new().await;
    let create = async |body: &str| {
        let reply = stripe.post(SETUPS, body).await;
        assert_eq!(reply.status, 200, "{body} {}", reply.body);
        reply.json()
    };
    let empty = create("payment_method_types[]=card&usage=on_session&metadata[a]=b").await;
    assert_eq!(
        (&empty["status"], &empty["usage"]),
        (&json!("requires_payment_method"), &json!("on_session"))
    );
    assert_eq!((&empty["latest_attempt"], &empty["metadata"]["a"]), (&Value::Null, &json!("b")));
    let setup = id(&empty);
    let path = |verb: &str| format!("{SETUPS}/{setup}/{verb}");
    assert_eq!(stripe.post(&path("confirm"), "").await.error().2, "setup_intent_unexpected_state");
    let declined = stripe.post(&path("confirm"), "payment_method=pm_card_visa_chargeDeclined").await;
    assert_eq!(declined.error().3, "generic_decline");
    let done = stripe.post(&path("confirm"), "payment_method=pm_card_visa").await.json();
    assert_eq!((&done["status"], &done["last_setup_error"]), (&json!("succeeded"), &Value::Null));
    assert_eq!(stripe.list(&format!("/v1/setup_attempts?setup_intent={setup}")).await.len(), 2);
    for verb in ["confirm", "cancel"] {
        let reply = stripe.post(&path(verb), "").await;
        assert_eq!((reply.status, &*reply.error().2), (400, "setup_intent_unexpected_state"), "{verb}");
        assert_eq!(reply.json()["error"]["setup_intent"]["id"], json!(setup), "{verb}");
    }

    for (body, status) in [
        ("", "requires_payment_method"),
        ("payment_method=pm_card_visa", "requires_confirmation"),
        (&*format!("{NOW}&payment_method=pm_card_authenticationRequired"), "requires_action"),
    ] {
        let setup = create(body).await;
        assert_eq!((&setup["status"], &setup["usage"]), (&json!(status), &json!("off_session")), "{body}");
        let cancel = format!("{SETUPS}/{}/cancel", id(&setup));
        let canceled =
            stripe.post(&cancel, "cancellation_reason=abandoned&expand[]=latest_attempt").await.json();
        assert_eq!(canceled["status"], "canceled", "{body}");
        assert_eq!(canceled["cancellation_reason"], "abandoned", "{body}");
        assert_eq!(canceled["next_action"], Value::Null, "{body}");
        if status == "requires_action" {
            assert_eq!(canceled["latest_attempt"]["status"], "abandoned");
        }
        assert_eq!(stripe.post(&cancel, "").await.status, 400, "twice: {body}");
    }
}

#[tokio::test]
async fn cardholders_authenticate_and_slow_banks_answer() {
    let stripe = Stripe::new().await;
    for (method, outcome, status, attempt, secure) in [
        ("pm_card_authenticationRequired", "succeeded", "succeeded", "succeeded", "authenticated"),
        ("pm_card_authenticationRequired", "failed", "requires_payment_method", "failed", "failed"),
        ("pm_card_authenticationRequiredOnSetup", "succeeded", "succeeded", "succeeded", "authenticated"),
        (
            "pm_card_authenticationRequiredSetupForOffSession",
            "succeeded",
            "succeeded",
            "succeeded",
            "authenticated",
        ),
        ("pm_card_processing", "succeeded", "succeeded", "succeeded", ""),
        ("pm_card_processing", "failed", "requires_payment_method", "failed", ""),
    ] {
        let what = format!("{method} {outcome}");
        let waiting = stripe.set_up(method, "").await.json();
        let authenticates = !secure.is_empty();
        let waits = if authenticates { "requires_action" } else { "processing" };
        assert_eq!(
            (&waiting["status"], &waiting["latest_attempt"]["status"]),
            (&json!(waits), &json!(waits)),
            "{what}"
        );
        assert_eq!(cvc_check(&waiting["latest_attempt"]), Value::Null, "{what}");
        let action = if authenticates { json!("use_stripe_sdk") } else { Value::Null };
        assert_eq!(waiting["next_action"]["type"], action, "{what}");
        let control = format!("/_sim/setup_intents/{}/finish", id(&waiting));
        let finished = stripe.control(&control, &json!({ "outcome": outcome })).await;
        assert_eq!(finished["status"], status, "{what}");
        let path = format!("{SETUPS}/{}?expand[]=latest_attempt", id(&waiting));
        let after = stripe.get(&path).await.json();
        let made = &after["latest_attempt"];
        assert_eq!(made["status"], attempt, "{what}");
        let card = &made["payment_method_details"]["card"];
        let result = if authenticates { json!(secure) } else { Value::Null };
        assert_eq!(card["three_d_secure"]["result"], result, "{what}");
        assert_eq!(
            cvc_check(made),
            if outcome == "succeeded" { json!("pass") } else { Value::Null },
            "{what}"
        );
        if outcome == "failed" && authenticates {
            assert_eq!(after["last_setup_error"]["code"], "setup_intent_authentication_failure");
        }
        stripe.refused(&control, &json!({ "outcome": outcome })).await;
    }
    let body = "confirm=true&payment_method=pm_card_threeDSecure2Required&return_url=https://a.example/";
    let redirected = stripe.post(SETUPS, body).await.json();
    assert_eq!(redirected["next_action"]["redirect_to_url"]["return_url"], "https://a.example/");
    // Another confirmation leaves the attempt that still waited.
    let setup = id(&redirected);
    let again = stripe.post(&format!("{SETUPS}/{setup}/confirm"), "payment_method=pm_card_visa").await.json();
    assert_eq!(again["status"], "succeeded");
    let attempts = stripe.list(&format!("/v1/setup_attempts?setup_intent={setup}")).await;
    let statuses: Vec<&str> = attempts.iter().map(|attempt| attempt["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["succeeded", "abandoned"]);
}

#[tokio::test]
async fn what_is_set_up_belongs_to_the_customer_or_stays_free() {
    let stripe = Stripe::new().await;
    let (alice, bob) = (stripe.customer().await, stripe.customer().await);
    let pay = async |method: &str, more: &str| {
        stripe.post("/v1/payment_intents", &format!("{}{more}", confirm(method))).await
    };
    let kept = stripe.card("4242424242424242").await;
    let reply = stripe.set_up(&kept, &format!("&customer={alice}&expand[1]=payment_method")).await.json();
    assert_eq!(reply["payment_method"]["customer"], json!(alice));
    assert_eq!(reply["payment_method"]["card"]["checks"]["cvc_check"], "pass");
    assert_eq!(stripe.set_up(&kept, &format!("&customer={alice}")).await.status, 200);
    for other in [format!("&customer={bob}"), String::new()] {
        let refused = stripe.set_up(&kept, &other).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (400, &json!("payment_method")),
            "{other}"
        );
    }
    let paid = pay(&kept, &format!("&customer={alice}&off_session=true")).await.json();
    assert_eq!((&paid["status"], cvc_check(&paid["latest_charge"])), (&json!("succeeded"), Value::Null));

    let free = stripe.card("4242424242424242").await;
    let read = async |path: String| stripe.get(&path).await.json();
    let fresh = read(format!("/v1/payment_methods/{free}")).await;
    assert_eq!(fresh["card"]["checks"]["cvc_check"], "unchecked");
    assert_eq!(stripe.check(&free).await, "pass");
    let method = read(format!("/v1/payment_methods/{free}")).await;
    assert_eq!((&method["customer"], &method["card"]["checks"]["cvc_check"]), (&Value::Null, &json!("pass")));
    // The CVC is gone, whatever the PaymentMethod goes on saying.
    assert_eq!(stripe.check(&free).await, Value::Null);
    assert_eq!(pay(&free, "").await.json()["status"], "succeeded");
    assert!(stripe.set_up(&free, "").await.body.contains("It may not be used again"));

    let asking = stripe.card("4000002500003155").await;
    let setup = id(&stripe.set_up(&asking, &format!("&customer={alice}")).await.json());
    let off_session = format!("&customer={alice}&off_session=true");
    assert_eq!(pay(&asking, &off_session).await.error().2, "authentication_required");
    stripe.control(&format!("/_sim/setup_intents/{setup}/finish"), &json!({ "outcome": "succeeded" })).await;
    assert_eq!(pay(&asking, &off_session).await.json()["status"], "succeeded");

    let declined = stripe.card("4000000000000002").await;
    assert_eq!(stripe.set_up(&declined, &format!("&customer={alice}")).await.status, 402);
    assert_eq!(read(format!("/v1/payment_methods/{declined}")).await["customer"], Value::Null);
    let body = format!("payment_method={declined}");
    assert_eq!(stripe.post("/v1/customers", &body).await.error().3, "generic_decline");
}

#[tokio::test]
async fn a_bank_that_is_told_the_cvc_knows_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let stripe = Stripe::with(options(Some(file.clone()))).await;
    let told = json!({ "number": "4242424242424242", "cvc": "737" });
    stripe.control("/_sim/cvc", &told).await;
    for (cvc, check) in [(Some("737"), json!("pass")), (Some("738"), json!("fail")), (None, Value::Null)] {
        let method = stripe.typed_card("4242424242424242", cvc).await;
        assert_eq!(stripe.check(&method).await, check, "{cvc:?}");
        let method = stripe.typed_card("4242424242424242", cvc).await;
        let charge =
            stripe.post("/v1/payment_intents", &confirm(&method)).await.json()["latest_charge"].clone();
        assert_eq!(charge["status"], "succeeded", "{cvc:?}");
        assert_eq!(cvc_check(&charge), check, "{cvc:?}");
    }
    assert_eq!(stripe.check("pm_card_visa").await, "pass");
    let other = stripe.typed_card("5555555555554444", Some("111")).await;
    assert_eq!(stripe.check(&other).await, "pass");

    let strict = json!({ "number": "4242424242424242", "cvc": "737", "declines": true });
    stripe.control("/_sim/cvc", &strict).await;
    let wrong = stripe.typed_card("4242424242424242", Some("738")).await;
    let reply = stripe.set_up(&wrong, "").await;
    assert_eq!(reply.error().2, "incorrect_cvc", "{}", reply.body);
    assert_eq!(stripe.post("/v1/payment_intents", &confirm(&wrong)).await.error().2, "incorrect_cvc");
    let customer = stripe.customer().await;
    let attach = format!("/v1/payment_methods/{wrong}/attach");
    assert_eq!(stripe.post(&attach, &format!("customer={customer}")).await.error().2, "incorrect_cvc");
    stripe.control("/_sim/cvc", &json!({ "number": "4242424242424242" })).await;
    assert_eq!(stripe.check(&wrong).await, "pass");

    for told in [
        json!({ "number": "4111111111111111", "cvc": "737" }),
        json!({ "number": "4242424242424242", "cvc": "73" }),
        json!({ "number": "4242424242424242", "cvc": "7x7" }),
    ] {
        stripe.refused("/_sim/cvc", &told).await;
    }
    stripe.sim.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    // Ids are random: only a text of its own can be a CVC.
    for secret in ["\"737\"", "\"738\"", "4242424242424242"] {
        assert!(!text.contains(secret), "{secret} is in the books");
    }
}

#[tokio::test]
async fn a_permission_is_asked_for_before_the_object() {
    let stripe = Stripe::new().await;
    let cancel = format!("{SETUPS}/seti_nothing/cancel");
    let missing = stripe.post(&cancel, "").await;
    assert_eq!((missing.status, &*missing.error().2), (404, "resource_missing"));
    assert_eq!(missing.json()["error"]["param"], "intent");
    stripe.control("/_sim/permissions", &json!({ "withheld": ["rak_setup_intent_write"] })).await;
    for path in [&cancel, SETUPS, &format!("{SETUPS}/seti_nothing/confirm")] {
        let reply = stripe.keyed("k", path, "").await;
        assert_eq!(
            reply.error(),
            (403, "invalid_request_error".into(), String::new(), String::new()),
            "{path}"
        );
        let error = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.starts_with("The provided key 'sk_test_****"), "{error}");
        assert!(error.contains("does not have the required permissions for this endpoint"), "{error}");
        assert!(error.contains("'rak_setup_intent_write'"), "{error}");
        assert!(!error.contains(SANDBOX_SECRET_KEY), "{error}");
    }
    assert_eq!(stripe.get(&format!("{SETUPS}/seti_nothing")).await.status, 404);
    assert_eq!(stripe.get(SETUPS).await.status, 200);
    assert_eq!(stripe.customer().await.get(..4), Some("cus_"));
    stripe.refused("/_sim/permissions", &json!({ "withheld": ["rak_setup_intents_write"] })).await;
    stripe.control("/_sim/permissions", &json!({ "withheld": [] })).await;
    // A refused permission has not used the key up.
    assert_eq!(stripe.keyed("k", SETUPS, "").await.status, 200);
}

#[tokio::test]
async fn faults_and_keys_work_on_setups() {
    let stripe = Stripe::new().await;
    let body = format!("{NOW}&payment_method=pm_card_visa");
    for (number, (fault, status, made, replayed)) in [
        (json!({ "action": "fail_before" }), 500, 0, false),
        (json!({ "action": "fail_after" }), 500, 1, true),
        (json!({ "action": "rate_limit" }), 429, 0, false),
        (json!({ "action": "unparsable" }), 200, 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut instruction = fault.clone();
        instruction["on"] = json!("setup_intents.create");
        stripe.fault(instruction).await;
        let before = stripe.list(SETUPS).await.len();
        let key = format!("k-{number}");
        assert_eq!(stripe.keyed(&key, SETUPS, &body).await.status, status, "{fault}");
        assert_eq!(stripe.list(SETUPS).await.len() - before, made, "{fault}");
        let retry = stripe.keyed(&key, SETUPS, &body).await;
        assert_eq!(retry.json()["status"], "succeeded", "{fault}");
        assert_eq!(retry.header("idempotent-replayed").is_some(), replayed, "{fault}");
        assert_eq!(stripe.list(SETUPS).await.len() - before, 1, "{fault}");
    }
    let setup = id(&stripe.list(SETUPS).await[0]);
    let customer = stripe.customer().await;
    for name in [
        "setup_intents.confirm",
        "setup_intents.cancel",
        "setup_intents.retrieve",
        "setup_intents.list",
        "setup_attempts.list",
        "customers.update",
        "customers.search",
    ] {
        stripe.fault(json!({ "on": name, "action": "fail_before" })).await;
    }
    for (method, path) in [
        ("POST", format!("{SETUPS}/{setup}/confirm")),
        ("POST", format!("{SETUPS}/{setup}/cancel")),
        ("GET", format!("{SETUPS}/{setup}")),
        ("GET", SETUPS.to_owned()),
        ("GET", format!("/v1/setup_attempts?setup_intent={setup}")),
        ("POST", format!("/v1/customers/{customer}")),
        ("GET", "/v1/customers/search?query=created%3E1".to_owned()),
    ] {
        let reply = stripe.send(method, &path, "", &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await;
        assert_eq!(reply.unwrap().status, 500, "{method} {path}");
    }
}

#[tokio::test]
async fn wrong_parameters_of_a_setup_are_refused() {
    let stripe = Stripe::new().await;
    for (body, status, code) in [
        ("usage=sometimes", 400, ""),
        ("amount=500", 400, "parameter_unknown"),
        ("customer=cus_none", 400, "resource_missing"),
        ("payment_method=pm_none", 400, "resource_missing"),
        ("confirm=true&payment_method_types[]=card", 400, "setup_intent_unexpected_state"),
        ("confirm=true&payment_method=pm_card_visa", 400, ""),
        ("return_url=https://a.example/", 400, ""),
        ("payment_method_types[]=sepa_debit", 400, ""),
        ("payment_method_data[type]=card", 400, ""),
        ("expand[]=secret", 400, ""),
    ] {
        let reply = stripe.post(SETUPS, body).await;
        assert_eq!((reply.status, &*reply.error().2), (status, code), "{body} {}", reply.body);
    }
    for (path, status) in [
        ("/v1/setup_attempts", 400),
        ("/v1/setup_attempts?setup_intent=seti_none", 400),
        ("/v1/setup_intents?status=succeeded", 400),
        ("/v1/setup_intents/seti_none", 404),
    ] {
        assert_eq!(stripe.get(path).await.status, status, "{path}");
    }
    let headers = [("authorization", &*bearer(SANDBOX_PUBLISHABLE_KEY))];
    assert_eq!(stripe.send("POST", SETUPS, "", &headers).await.unwrap().status, 403);
    assert!(stripe.list(SETUPS).await.is_empty());
}

#[tokio::test]
async fn setups_are_listed_told_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let first = Stripe::with(options(Some(file.clone()))).await;
    let customer = first.customer().await;
    let kept = first.card("4000000000000101").await;
    let done = id(&first.set_up(&kept, &format!("&customer={customer}")).await.json());
    let declined = first.set_up("pm_card_visa_chargeDeclined", "").await.json();
    let declined = id(&declined["error"]["setup_intent"]);
    let waiting = id(&first.set_up("pm_card_authenticationRequired", "").await.json());
    let canceled = id(&first.post(SETUPS, "").await.json());
    first.post(&format!("{SETUPS}/{canceled}/cancel"), "").await;
    assert_eq!(
        first.told().await,
        [
            "setup_intent.succeeded",
            "setup_intent.setup_failed",
            "setup_intent.requires_action",
            "setup_intent.canceled"
        ]
    );
    let ids = async |stripe: &Stripe, query: &str| -> Vec<String> {
        stripe.list(&format!("{SETUPS}?{query}")).await.iter().map(id).collect()
    };
    let mut all = vec![canceled.clone(), waiting.clone(), declined.clone(), done.clone()];
    assert_eq!(ids(&first, "").await, all);
    assert_eq!(ids(&first, "limit=2").await, all[..2]);
    assert_eq!(ids(&first, &format!("starting_after={waiting}")).await, all[2..]);
    assert_eq!(ids(&first, &format!("ending_before={declined}")).await, all[..2]);
    assert_eq!(ids(&first, &format!("customer={customer}")).await, all[3..]);
    assert_eq!(ids(&first, &format!("payment_method={kept}")).await, all[3..]);
    assert!(ids(&first, "created[gt]=4000000000").await.is_empty());
    let show = async |stripe: &Stripe, setup: &str| {
        stripe.get(&format!("{SETUPS}/{setup}?expand[]=latest_attempt&expand[]=payment_method")).await.body
    };
    let mut before = Vec::new();
    for setup in &all {
        before.push(show(&first, setup).await);
    }
    let books = first.get("/_sim/books").await.json()["setup_intents"].clone();
    assert_eq!((books[0]["cvc_check"].as_str(), books.as_array().map(Vec::len)), (Some("fail"), Some(4)));
    first.sim.stop().await;

    let again = Stripe::with(options(Some(file))).await;
    for (setup, before) in all.iter().zip(&before) {
        assert_eq!(&show(&again, setup).await, before);
    }
    assert_eq!(again.get("/_sim/books").await.json()["setup_intents"], books);
    let control = format!("/_sim/setup_intents/{waiting}/finish");
    assert_eq!(again.control(&control, &json!({ "outcome": "succeeded" })).await["status"], "succeeded");
    all.truncate(1);
    assert_eq!(ids(&again, "limit=1").await, all);
}

/// Books of a time without SetupIntents and without checks of the CVC.
#[tokio::test]
async fn older_books_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let customer = json!({
        "id": "cus_old", "created": 1, "name": null, "email": "a@b.example", "phone": null, "description": null,
        "metadata": {},
    });
    let card = json!({
        "brand": "visa", "funding": "credit", "country": "US", "last4": "4242", "exp_month": 12, "exp_year": 2060,
        "cvc_given": true, "fingerprint": "old", "behaviour": "succeeds",
    });
    let method = json!({
        "id": "pm_old", "created": 1, "card": card, "customer": "cus_old", "consumed": false,
        "billing": { "name": null, "email": null, "phone": null, "address": {} }, "allow_redisplay": null,
        "metadata": {},
    });
    let charge = json!({
        "id": "ch_old", "created": 1, "payment_intent": "pi_old", "payment_method": "pm_old", "customer": "cus_old",
        "amount": 500, "amount_refunded": 0, "currency": "usd", "state": "succeeded", "failure": null,
        "balance_transaction": null,
    });
    let lines: Vec<String> = [("customer", customer), ("payment_method", method), ("charge", charge)]
        .into_iter()
        .map(|(kind, value)| format!("{}\n", json!([{ "kind": kind, "value": value }])))
        .collect();
    std::fs::write(&file, lines.concat()).unwrap();
    let stripe = Stripe::with(options(Some(file))).await;
    let method = stripe.get("/v1/payment_methods/pm_old").await.json();
    assert_eq!(method["card"]["checks"]["cvc_check"], "pass");
    assert_eq!(stripe.get("/v1/charges/ch_old").await.json()["amount"], 500);
    let found = stripe.list("/v1/customers/search?query=email:'a%40b.example'").await;
    assert_eq!(found[0]["id"], "cus_old");
    assert_eq!(stripe.set_up("pm_old", "&customer=cus_old").await.json()["status"], "succeeded");
}
