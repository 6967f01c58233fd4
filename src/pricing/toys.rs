//! A price that only tests have: what the body orders, by the piece. A rule is one file and the line where a route names it.

use super::{BodyPrice, PriceRule, Unpriced};
use crate::domain::Micros;

/// 200 micros for each piece, at most 1,000.
pub(super) const BY_THE_PIECE: PriceRule = PriceRule::ByBody(BodyPrice {
    name: "by the piece",
    most: Micros::new(1_000).expect("in range"),
    of: |body| {
        let pieces = std::str::from_utf8(body).ok().and_then(|text| text.trim().parse::<i64>().ok());
        let price = pieces.and_then(|pieces| pieces.checked_mul(200)).and_then(Micros::new);
        price.ok_or(Unpriced::Unreadable("the body is a number of pieces"))
    },
});
