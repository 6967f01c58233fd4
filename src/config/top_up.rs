//! `[top_up]`: how much may be charged, and the packs on offer.

use super::problem::Report;
use super::section::Section;
use super::{TopUpConfig, TopUpPack, validate};
use crate::domain::money::MICROS_PER_UNIT;
use crate::domain::{Currency, Micros};

/// More offers than that help nobody, and each 402 carries them all.
const MAX_OPTIONS: usize = 20;
const MAX_LABEL_CHARS: usize = 100;

pub(super) fn read(
    section: &Section<'_>,
    currency: Option<Currency>,
    report: &mut Report,
) -> Option<TopUpConfig> {
    let before = report.problems.len();
    let given_minimum = chargeable(section, "minimum", currency, report);
    let maximum = chargeable(section, "maximum", currency, report);
    let max_balance = section.amount("max_balance", report);
    let mut options = options(section, currency, report);
    let refund_on_fraud_warning = section.boolean("refund_on_fraud_warning", report);
    let reconcile_every =
        section.duration("reconcile_every", validate::millis(1_000)..=validate::millis(3_600_000), report);
    let compare_every =
        section.duration("compare_every", validate::millis(10_000)..=validate::millis(86_400_000), report);
    if report.problems.len() > before {
        return None;
    }
    let currency = currency?;
    let Some(minimum) = given_minimum.or_else(|| options.first().map(|pack| pack.amount)) else {
        section.missing("minimum", "write minimum = \"5.00\", the smallest charge", report);
        return None;
    };
    if options.is_empty() {
        options.push(TopUpPack {
            amount: minimum,
            bonus: Micros::ZERO,
            label: label(minimum, Micros::ZERO, currency),
        });
    }
    let top_up = TopUpConfig {
        minimum,
        maximum: maximum?,
        max_balance: max_balance?,
        options,
        refund_on_fraud_warning: refund_on_fraud_warning?,
        reconcile_every: reconcile_every?,
        compare_every: compare_every?,
    };
    check_together(section, &top_up, currency, report);
    (report.problems.len() == before).then_some(top_up)
}

/// An amount that Stripe can charge and the wire can carry.
fn chargeable(
    section: &Section<'_>,
    key: &str,
    currency: Option<Currency>,
    report: &mut Report,
) -> Option<Micros> {
    let amount = section.amount(key, report)?;
    let path = section.path(key);
    if amount.get() % MICROS_PER_UNIT.get() != 0 {
        report.problem(&path, "must be a whole number of ten-thousandths: at most four decimal places");
        return None;
    }
    let currency = currency?;
    if currency.micros_to_minor(amount).is_none() {
        let step = currency.decimal(currency.charge_step());
        report.problem(&path, format!("cannot be charged in {currency}: write a multiple of \"{step}\""));
        return None;
    }
    if amount < currency.min_charge() {
        let least = currency.decimal(currency.min_charge());
        report
            .problem(&path, format!("is below what Stripe charges in {currency}: write \"{least}\" or more"));
        return None;
    }
    if amount > currency.max_charge() {
        let most = currency.decimal(currency.max_charge());
        report
            .problem(&path, format!("is above what Stripe charges in {currency}: write \"{most}\" or less"));
        return None;
    }
    Some(amount)
}

fn options(section: &Section<'_>, currency: Option<Currency>, report: &mut Report) -> Vec<TopUpPack> {
    let elements = section.elements("options");
    if elements.len() > MAX_OPTIONS {
        report.problem(&section.path("options"), format!("there are more than {MAX_OPTIONS} options"));
        return Vec::new();
    }
    elements.iter().filter_map(|element| option(element, currency, report)).collect()
}

fn option(element: &Section<'_>, currency: Option<Currency>, report: &mut Report) -> Option<TopUpPack> {
    if !element.has("amount") {
        element.missing("amount", "write amount = \"20.00\"", report);
    }
    let amount = chargeable(element, "amount", currency, report);
    let bonus = if element.has("bonus") { element.amount("bonus", report) } else { Some(Micros::ZERO) };
    if bonus.is_some_and(|bonus| bonus.get() % MICROS_PER_UNIT.get() != 0) {
        let what = "must be a whole number of ten-thousandths: at most four decimal places";
        report.problem(&element.path("bonus"), what);
    }
    let given = element.text("label", report);
    if given
        .is_some_and(|given| given.chars().count() > MAX_LABEL_CHARS || given.chars().any(char::is_control))
    {
        let what = format!("must be one line of at most {MAX_LABEL_CHARS} characters");
        report.problem(&element.path("label"), what);
    }
    let (amount, bonus) = (amount?, bonus?);
    let label =
        given.map_or_else(|| currency.map(|currency| label(amount, bonus, currency)), |l| Some(l.to_owned()));
    Some(TopUpPack { amount, bonus, label: label? })
}

/// What people see when the seller wrote nothing.
pub(crate) fn label(amount: Micros, bonus: Micros, currency: Currency) -> String {
    let amount = currency.text(amount);
    if bonus.is_zero() { amount } else { format!("{amount} + {} bonus", currency.decimal(bonus)) }
}

impl TopUpConfig {
    /// Bonus of the largest pack that the amount reaches.
    #[must_use]
    pub fn bonus_for(&self, amount: Micros) -> Micros {
        self.options.iter().rfind(|pack| pack.amount <= amount).map_or(Micros::ZERO, |pack| pack.bonus)
    }

    /// What `max_balance` must be for a request at this price: whoever has nearly its price must be able to top up. The top-up is the
    /// smallest one with its bonus, or what is missing, rounded up to what can be charged, with the bonus that this reaches.
    #[must_use]
    pub fn room_for(&self, price: Micros, currency: Currency) -> Micros {
        let whole = currency.round_up_to_chargeable(price).unwrap_or(Micros::MAX);
        let smallest = self.minimum.checked_add(self.bonus_for(self.minimum));
        let exact = currency.charge_step().checked_add(self.bonus_for(whole));
        let top_up = smallest.max(exact.filter(|_| whole > self.minimum));
        top_up.and_then(|top_up| price.checked_add(top_up)).unwrap_or(Micros::MAX)
    }
}

/// Refuses settings under which somebody could not pay the dearest price.
pub(super) fn check_dearest(top_up: &TopUpConfig, dearest: Micros, currency: Currency, report: &mut Report) {
    let needed = top_up.room_for(dearest, currency);
    if top_up.max_balance < needed {
        let what = format!(
            "must hold the dearest price, {}, and a top-up beside it, or whoever has a little less than that price cannot go on: write \"{}\" or more",
            currency.text(dearest),
            currency.decimal(needed)
        );
        report.problem("top_up.max_balance", what);
    }
}

fn check_together(section: &Section<'_>, top_up: &TopUpConfig, currency: Currency, report: &mut Report) {
    let TopUpConfig { minimum, maximum, max_balance, options, .. } = top_up;
    if minimum > maximum {
        let what = format!("is below the minimum, {} {currency}", currency.decimal(*minimum));
        report.problem(&section.path("maximum"), what);
    }
    if options.first().is_some_and(|first| first.amount != *minimum) {
        let what = format!(
            "must equal top_up.minimum, {}: who names no amount is charged the minimum",
            currency.decimal(*minimum)
        );
        report.problem("top_up.options[0].amount", what);
    }
    for (index, pack) in options.iter().enumerate() {
        let path = format!("top_up.options[{index}].amount");
        if index > 0 && options.get(index - 1).is_some_and(|before| before.amount >= pack.amount) {
            report.problem(&path, "must be larger than the option before it");
        }
        if index > 0 && options.get(index - 1).is_some_and(|before| before.bonus > pack.bonus) {
            let path = format!("top_up.options[{index}].bonus");
            report
                .problem(&path, "must not be below that of the option before it: who pays more gets no less");
        }
        // The minimum was compared above.
        if pack.amount > *maximum && pack.amount != *minimum {
            report.problem(&path, format!("is above top_up.maximum, {}", currency.decimal(*maximum)));
        }
    }
    let bonus = options.iter().map(|pack| pack.bonus).max().unwrap_or(Micros::ZERO);
    let needed = maximum.checked_add(bonus);
    if needed.is_none_or(|needed| *max_balance < needed) {
        let needed = currency.decimal(needed.unwrap_or(Micros::MAX));
        let what = format!("must hold the largest top-up and its bonus: write \"{needed}\" or more");
        report.problem(&section.path("max_balance"), what);
    }
}
