//! `/_sim/`: what a test tells about a card's CVC, about the key's permissions and about the search index.

use std::collections::BTreeSet;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::super::cards;
use super::super::endpoint::Endpoint;
use super::super::server::Sim;
use super::money::read;
use super::{change, ok, refused};

/// The URLs.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/cvc", web::post().to(cvc))
        .route("/permissions", web::post().to(permissions))
        .route("/search/catch-up", web::post().to(catch_up));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TellCvc {
    number: String,
    cvc: Option<String>,
    #[serde(default)]
    declines: bool,
}

async fn cvc(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let TellCvc { number, cvc, declines } = match read(&body) {
        Ok(told) => told,
        Err(error) => return refused(error),
    };
    let Some(card) = cards::by_number(&number) else { return refused("\"number\" must be a test card's") };
    if cvc.as_ref().is_some_and(|cvc| !card.takes_cvc(cvc)) {
        return refused("\"cvc\" must have as many digits as the card's");
    }
    change(&sim, |books| {
        let fingerprint = books.fingerprint(card.number);
        let told = json!({ "fingerprint": fingerprint, "known": cvc.is_some(), "declines": declines });
        books.cvcs.tell(fingerprint, cvc, declines);
        Ok(told)
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    withheld: BTreeSet<String>,
}

async fn permissions(sim: web::Data<Sim>, body: web::Bytes) -> HttpResponse {
    let Permissions { withheld } = match read(&body) {
        Ok(permissions) => permissions,
        Err(error) => return refused(error),
    };
    let known: BTreeSet<String> = Endpoint::ALL.into_iter().map(Endpoint::permission).collect();
    if !withheld.is_subset(&known) {
        let known: Vec<String> = known.into_iter().collect();
        return refused(format!("\"withheld\" must be some of {}", known.join(", ")));
    }
    let answer = json!({ "withheld": withheld });
    sim.state().withheld = withheld;
    ok(&answer)
}

async fn catch_up(sim: web::Data<Sim>) -> HttpResponse {
    change(&sim, |books| {
        books.index.arrive(i64::MAX);
        Ok(json!({ "caught_up": true }))
    })
    .await
}
