#![allow(clippy::unwrap_used)]

use super::*;
use crate::domain::Micros;
use crate::pricing::toys::BY_THE_PIECE;
use crate::pricing::{ListNumber, Measuring, Meter, Price, RouteNumber};

fn micros(amount: i64) -> Micros {
    Micros::new(amount).unwrap()
}

fn usd() -> Currency {
    "usd".parse().unwrap()
}

fn listing(name: &str, rule: PriceRule) -> Arc<Listing> {
    Arc::new(Listing::new(name.to_owned(), rule, usd(), Arc::new(StatusSet::default_charged())))
}

struct Counted(i64);

impl Measuring for Counted {
    fn piece(&mut self, bytes: &[u8]) {
        self.0 += i64::try_from(bytes.len()).unwrap();
    }

    fn price(&self) -> Micros {
        micros(self.0)
    }
}

const COUNTED: Meter = Meter { name: "bytes", begin: || Box::new(Counted(0)) };

#[test]
fn a_body_decides_what_its_rule_says_and_never_above_the_list() {
    let listing = listing("POST /pieces", BY_THE_PIECE);
    assert_eq!(listing.list_quote().price(), Price::Exact(micros(1_000)), "a challenge names the most");
    for (body, expected) in [
        (&b"3"[..], Ok(600)),
        (b" 5\n", Ok(1_000)),
        (b"6", Err(Unpriced::AboveMost)),
        (b"9223372036854775807", Err(Unpriced::Unreadable("the body is a number of pieces"))),
        (b"-1", Err(Unpriced::Unreadable("the body is a number of pieces"))),
        (b"0", Err(Unpriced::Nothing)),
        (b"\xff", Err(Unpriced::Unreadable("the body is a number of pieces"))),
    ] {
        let quoted = listing.quote(Asked { body: Some(body) }).map(|quote| quote.most().get());
        assert_eq!(quoted, expected, "{body:?}");
    }
    assert_eq!(listing.quote(Asked::default()).unwrap_err(), Unpriced::NoBody);
}

#[test]
fn a_fixed_price_needs_nothing_of_the_request() {
    let listing = listing("GET /a", PriceRule::Fixed(micros(500)));
    let quote = listing.quote(Asked::default()).unwrap();
    assert_eq!((quote.price(), quote.currency()), (Price::Exact(micros(500)), usd()));
    assert_eq!(quote.digest(), listing.list_quote().digest());
    assert!(quote.charges(200) && quote.charges(299) && !quote.charges(304) && !quote.charges(500));
}

#[test]
fn a_metered_price_sets_its_most_aside() {
    let listing = listing("GET /a", PriceRule::Metered { most: micros(300), meter: COUNTED });
    let quote = listing.list_quote();
    assert_eq!(quote.most(), micros(300));
    let Price::UpTo { meter, .. } = quote.price() else { panic!("it is metered") };
    let mut measuring = (meter.begin)();
    measuring.piece(b"163 of them, or so");
    assert_eq!(measuring.price(), micros(18));
}

#[test]
fn a_digest_tells_everything_apart_that_a_payer_agrees_to() {
    let euro: Currency = "eur".parse().unwrap();
    let named = |name: &str, currency, rule| {
        let listing = Listing::new(name.to_owned(), rule, currency, Arc::new(StatusSet::default_charged()));
        Arc::new(listing).list_quote().digest()
    };
    let other = Meter { name: "words", ..COUNTED };
    let digests = [
        named("GET /a", usd(), PriceRule::Fixed(micros(500))),
        named("GET /b", usd(), PriceRule::Fixed(micros(500))),
        named("GET /a", euro, PriceRule::Fixed(micros(500))),
        named("GET /a", usd(), PriceRule::Fixed(micros(501))),
        named("GET /a", usd(), PriceRule::Metered { most: micros(500), meter: COUNTED }),
        named("GET /a", usd(), PriceRule::Metered { most: micros(500), meter: other }),
    ];
    for (place, digest) in digests.iter().enumerate() {
        assert!(!digests[..place].contains(digest), "{place}");
    }
    let again = listing("GET /a", PriceRule::Fixed(micros(500)));
    again.book(Booking { route: RouteNumber::new(7), list: ListNumber::new(9) });
    assert_eq!(again.list_quote().digest(), digests[0], "numbers are this database's business");
}

#[test]
fn the_first_booking_stays() {
    let listing = listing("GET /a", PriceRule::Fixed(micros(500)));
    let booking = |route| Booking { route: RouteNumber::new(route), list: ListNumber::new(1) };
    assert_eq!(listing.list_quote().booking(), None);
    assert_eq!(listing.book(booking(3)), booking(3));
    assert_eq!(listing.book(booking(4)), booking(3));
    assert_eq!(listing.list_quote().booking(), Some(booking(3)));
}
