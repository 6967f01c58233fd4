//! Customers: changed, deleted and looked for.

use super::*;

const SEARCH: &str = "/v1/customers/search";

impl Stripe {
    /// The names of the customers that a search finds.
    async fn names(&self, query: &str) -> Vec<String> {
        let query = query.replace('%', "%25").replace(' ', "%20").replace('"', "%22").replace('>', "%3E");
        let rows = self.list(&format!("{SEARCH}?query={query}")).await;
        rows.iter().map(|row| row["name"].as_str().unwrap_or("").to_owned()).collect()
    }
}

#[tokio::test]
async fn a_customer_is_changed_field_by_field() {
    let stripe = Stripe::new().await;
    let body = "name=Ada&email=a@b.example&phone=1&description=x&metadata[a]=1&metadata[b]=2";
    let path =
        format!("/v1/customers/{}", stripe.post("/v1/customers", body).await.json()["id"].as_str().unwrap());
    for (change, name, email, metadata) in [
        ("", json!("Ada"), json!("a@b.example"), json!({ "a": "1", "b": "2" })),
        ("name=Bob", json!("Bob"), json!("a@b.example"), json!({ "a": "1", "b": "2" })),
        ("name=&email=", Value::Null, Value::Null, json!({ "a": "1", "b": "2" })),
        ("metadata[a]=&metadata[c]=3", Value::Null, Value::Null, json!({ "b": "2", "c": "3" })),
        ("invoice_settings[footer]=x&metadata[b]=4", Value::Null, Value::Null, json!({ "b": "4", "c": "3" })),
        ("metadata=&email=c@d.example", Value::Null, json!("c@d.example"), json!({})),
    ] {
        let changed = stripe.post(&path, change).await;
        assert_eq!(changed.status, 200, "{change} {}", changed.body);
        let row = changed.json();
        assert_eq!((&row["name"], &row["email"], &row["metadata"]), (&name, &email, &metadata), "{change}");
        assert_eq!((&row["phone"], &row["description"]), (&json!("1"), &json!("x")), "{change}");
        assert_eq!(stripe.get(&path).await.json(), row, "{change}");
    }
    for (change, code) in [
        ("nme=x", "parameter_unknown"),
        ("payment_method=pm_card_visa", "parameter_unknown"),
        ("source=tok_visa", ""),
        ("metadata[x][y]=z", ""),
        ("expand[]=secret", ""),
    ] {
        let refused = stripe.post(&path, change).await;
        assert_eq!((refused.status, &*refused.error().2), (400, code), "{change}");
    }
    let many: Vec<String> = (0..50).map(|number| format!("metadata[k{number}]=v")).collect();
    assert_eq!(stripe.post(&path, &many.join("&")).await.status, 200);
    assert_eq!(stripe.post(&path, "metadata[k50]=v").await.status, 400);
    assert_eq!(stripe.post(&path, "metadata[k0]=&metadata[k50]=v").await.status, 200);
}

#[tokio::test]
async fn a_deleted_customer_is_only_its_name() {
    let stripe = Stripe::new().await;
    let id = stripe.customer().await;
    let path = format!("/v1/customers/{id}");
    let delete = async |path: &str| {
        stripe.send("DELETE", path, "", &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await.unwrap()
    };
    let gone = json!({ "id": id, "object": "customer", "deleted": true });
    assert_eq!(delete(&path).await.json(), gone);
    let found = stripe.get(&path).await;
    assert_eq!((found.status, found.json()), (200, gone));
    for path in [&*path, "/v1/customers/cus_none"] {
        for reply in [delete(path).await, stripe.post(path, "name=x").await] {
            assert_eq!((reply.status, &*reply.error().2), (404, "resource_missing"), "{path}");
            assert!(reply.body.contains("No such customer"), "{}", reply.body);
        }
    }
    assert_eq!(stripe.get("/v1/customers/cus_none").await.status, 404);
    let setup = stripe.post("/v1/setup_intents", &format!("customer={id}")).await;
    assert_eq!((setup.status, &*setup.error().2), (400, "resource_missing"));
}

#[tokio::test]
async fn a_search_finds_what_was_there_a_while_ago() {
    let stripe = Stripe::new().await;
    let caught_up = async || stripe.control("/_sim/search/catch-up", &json!({})).await;
    let body = "name=Ada&email=ada@example.org&metadata[client]=c_1";
    let ada = stripe.post("/v1/customers", body).await.json()["id"].as_str().unwrap().to_owned();
    let mine = "metadata['client']:'c_1'";
    assert!(stripe.names(mine).await.is_empty(), "at once");
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 60 })).await;
    assert_eq!(stripe.names(mine).await, ["Ada"], "after a minute");
    stripe.post(&format!("/v1/customers/{ada}"), "name=Eve").await;
    assert_eq!(stripe.names(mine).await, ["Ada"], "as it was");
    caught_up().await;
    assert_eq!(stripe.names(mine).await, ["Eve"], "caught up");
    let path = format!("/v1/customers/{ada}");
    stripe.send("DELETE", &path, "", &[("authorization", &bearer(SANDBOX_SECRET_KEY))]).await.unwrap();
    assert_eq!(stripe.names(mine).await, ["Eve"], "deleted, and the search does not know");
    caught_up().await;
    assert!(stripe.names(mine).await.is_empty(), "deleted");
}

#[tokio::test]
async fn queries_and_pages_of_a_search() {
    let stripe = Stripe::new().await;
    for body in [
        "name=A&email=a@example.org&metadata[client]=c_1",
        "name=B&email=b@example.org&metadata[client]=c_2",
        "name=C&email=c@other.example",
    ] {
        stripe.post("/v1/customers", body).await;
    }
    stripe.control("/_sim/search/catch-up", &json!({})).await;
    for (query, names) in [
        ("metadata['client']:'c_1'", &["A"] as &[&str]),
        ("metadata[\"client\"]:\"c_2\"", &["B"]),
        ("email:'A@example.org'", &["A"]),
        ("email~'example.org'", &["B", "A"]),
        ("-email~'example.org'", &["C"]),
        ("name:'A' OR name:'C'", &["C", "A"]),
        ("email~'example.org' AND -name:'A'", &["B"]),
        ("-metadata['client']:null AND created>1000", &["B", "A"]),
        ("created>9999999999", &[]),
    ] {
        assert_eq!(stripe.names(query).await, names, "{query}");
    }
    let get =
        async |rest: &str| stripe.get(&format!("{SEARCH}?query=created%3E0&limit=2{rest}")).await.json();
    let page = get("").await;
    assert_eq!((&page["object"], &page["url"]), (&json!("search_result"), &json!(SEARCH)));
    assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (2, &json!(true)));
    let next = get(&format!("&page={}", page["next_page"].as_str().unwrap())).await;
    assert_eq!((&next["data"][0]["name"], &next["has_more"]), (&json!("A"), &json!(false)));
    assert_eq!(next["next_page"], Value::Null);
    for wrong in
        ["query=ada", "query=", "limit=1", "query=created%3E0&page=x", "query=created%3E0&starting_after=x"]
    {
        let reply = stripe.get(&format!("{SEARCH}?{wrong}")).await;
        assert_eq!((reply.status, &*reply.error().1), (400, "invalid_request_error"), "{wrong}");
    }
    let headers = [("authorization", &*bearer(SANDBOX_PUBLISHABLE_KEY))];
    assert_eq!(stripe.send("GET", SEARCH, "", &headers).await.unwrap().status, 403);
}
