//! The currencies that a charge may have. A table of the simulator's own, so that a mistake in ours does not hide here.
//! <https://docs.stripe.com/currencies>

/// The largest charge: eight digits of the smallest unit.
pub(super) const MAX_AMOUNT: i64 = 99_999_999;

/// Currencies with a published minimum, in their smallest unit.
const MINIMUMS: &[(&str, i64)] = &[
    ("usd", 50),
    ("aed", 200),
    ("aud", 50),
    ("brl", 50),
    ("cad", 50),
    ("chf", 50),
    ("czk", 1_500),
    ("dkk", 250),
    ("eur", 50),
    ("gbp", 30),
    ("hkd", 400),
    ("huf", 17_500),
    ("inr", 50),
    ("jpy", 50),
    ("mxn", 1_000),
    ("myr", 200),
    ("nok", 300),
    ("nzd", 50),
    ("pln", 200),
    ("ron", 200),
    ("sek", 300),
    ("sgd", 50),
    ("thb", 1_000),
];

/// The others.
const OTHERS: &str = "afn all amd ang aoa ars awg azn bam bbd bdt bgn bhd bif bmd bnd bob bsd bwp byn bzd cdf clp cny \
    cop crc cve djf dop dzd egp etb fjd fkp gel gip gmd gnf gtq gyd hnl htg idr ils isk jmd jod kes kgs khr kmf krw kwd \
    kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mro mur mvr mwk mzn nad ngn nio npr omr pab pen pgk php pkr \
    pyg qar rsd rub rwf sar sbd scr shp sle sos srd std szl tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf \
    xcd xof xpf yer zar zmw";

/// The smallest charge in a currency, or `None` when Stripe does not know the currency. `code` is in lower case.
pub(super) fn minimum(code: &str) -> Option<i64> {
    match MINIMUMS.iter().find(|(known, _)| *known == code) {
        Some((_, minimum)) => Some(*minimum),
        None => OTHERS.split(' ').any(|known| known == code && !known.is_empty()).then_some(1),
    }
}

/// Amounts must be a multiple of this: three-decimal currencies end in 0, and two are quoted in whole units.
pub(super) fn step(code: &str) -> i64 {
    match code {
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 10,
        "isk" | "ugx" => 100,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currencies_have_minimums_and_steps() {
        for (code, expected) in
            [("usd", Some(50)), ("jpy", Some(50)), ("kwd", Some(1)), ("zzz", None), ("", None)]
        {
            assert_eq!(minimum(code), expected, "{code}");
        }
        assert_eq!((step("usd"), step("kwd"), step("isk")), (1, 10, 100));
    }
}
