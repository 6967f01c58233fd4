//! `[shield]`: what keeps stolen cards from being tried here.

use super::ShieldConfig;
use super::problem::Report;
use super::section::Section;
use super::validate::millis;

/// A limit above this is none.
const MOST: u32 = 100_000;

/// `is_live`: real cards are charged.
pub(super) fn read(section: &Section<'_>, is_live: bool, report: &mut Report) -> Option<ShieldConfig> {
    let enabled = section.boolean("enabled", report);
    if is_live && enabled == Some(false) {
        report.problem(
            &section.path("enabled"),
            "must be true with live keys: without these limits, thieves try stolen cards here, and your Stripe account pays for it",
        );
    }
    let mut limit = |key: &str| section.integer(key, 1..=MOST, report);
    let network_attempts_an_hour = limit("network_attempts_an_hour");
    let network_cards_a_day = limit("network_cards_a_day");
    let client_cards_a_day = limit("client_cards_a_day");
    let client_declines_a_day = limit("client_declines_a_day");
    let card_declines_a_day = limit("card_declines_a_day");
    let new_payer_declines = limit("new_payer_declines");
    let new_payers_at_once = limit("new_payers_at_once");
    let new_payer_decline_percent = section.integer("new_payer_decline_percent", 1..=100, report);
    let new_payer_window =
        section.duration("new_payer_window", millis(60_000)..=millis(24 * 3_600_000), report);
    Some(ShieldConfig {
        enabled: enabled?,
        network_attempts_an_hour: network_attempts_an_hour?,
        network_cards_a_day: network_cards_a_day?,
        client_cards_a_day: client_cards_a_day?,
        client_declines_a_day: client_declines_a_day?,
        card_declines_a_day: card_declines_a_day?,
        new_payer_declines: new_payer_declines?,
        new_payer_decline_percent: new_payer_decline_percent?,
        new_payer_window: new_payer_window?,
        new_payers_at_once: new_payers_at_once?,
    })
}
