//! Who asks for something priced, in the same way at every door that sells: found out before anything is read of a body that may
//! never come.

use std::net::IpAddr;

use crate::crowd::Crowd;
use crate::paywall::{Paywall, Refusal, Refused, Wallet};
use crate::pricing::Quote;
use crate::protocol::Credential;

/// What is asked.
pub(crate) struct Ask<'a> {
    /// What the caller presents.
    pub(crate) credential: &'a mut Credential,
    /// Where the request comes from.
    pub(crate) caller: Option<IpAddr>,
    /// What it costs.
    pub(crate) quote: &'a Quote,
    /// Whether it has an `Idempotency-Key`.
    pub(crate) is_repeat: bool,
}

/// The wallet, by the database. `None`: one who has none yet.
pub(crate) async fn look_up(
    paywall: &Paywall,
    crowd: &Crowd,
    ask: Ask<'_>,
) -> Result<Option<Wallet>, Refused> {
    let Some(_looking) = crowd.look_up(ask.caller, paywall.was_here(ask.credential)).await else {
        return Err(Refused::because(Refusal::Busy));
    };
    paywall.recognise_first(ask.credential, ask.quote.most(), ask.is_repeat).await
}
