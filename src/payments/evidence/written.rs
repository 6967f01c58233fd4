//! Evidence as people and programs read it.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::{Evidence, Outcome};
use crate::domain::decimal_in;

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Reversed => "reversed",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// `2026-01-31T12:00:00.123Z`.
fn moment(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default()
}

fn due(seconds: Option<i64>) -> Option<String> {
    seconds.map(|seconds| moment(seconds.saturating_mul(1_000_000)))
}

/// A field of a CSV file, RFC 4180. A spreadsheet takes a text that begins like a formula for one.
fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

impl Evidence {
    /// An amount as people write it in the payment's currency, without the currency.
    fn decimal(&self, micros: i64) -> String {
        let sign = if micros < 0 { "-" } else { "" };
        format!("{sign}{}", decimal_in(micros.unsigned_abs(), &self.currency))
    }

    /// Everything, as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let requests = self.requests.iter().map(|request| {
            json!({
                "requestId": request.id,
                "at": moment(request.at),
                "route": request.route,
                "price": self.decimal(request.price),
                "upstreamStatus": request.upstream_status,
                "outcome": request.outcome.word(),
                "balanceAfter": self.decimal(request.balance_after),
                "key": request.key,
            })
        });
        let refunds = self.refunds.iter().map(|refund| {
            json!({
                "id": refund.id,
                "amount": self.decimal(refund.amount.get()),
                "bonusForfeited": self.decimal(refund.bonus.get()),
                "state": refund.state,
                "origin": refund.origin,
                "stripeRefund": refund.stripe_refund,
                "reason": refund.reason,
                "createdAt": moment(refund.created_at),
            })
        });
        let freezes = self.freezes.iter().map(|freeze| {
            json!({
                "cause": freeze.cause,
                "createdAt": moment(freeze.created_at),
                "liftedAt": freeze.lifted_at.map(moment),
                "liftedBy": freeze.lifted_by,
            })
        });
        let adjustments = self.adjustments.iter().map(|made| {
            json!({
                "id": made.id,
                "kind": made.kind,
                "amount": self.decimal(made.amount),
                "reason": made.reason,
                "operator": made.operator,
                "createdAt": moment(made.created_at),
            })
        });
        json!({
            "currency": self.currency,
            "dispute": {
                "id": self.dispute.id,
                "amount": self.decimal(self.dispute.amount),
                "status": self.dispute.status,
                "reason": self.dispute.reason,
                "evidenceDueBy": due(self.dispute.due_by),
                "createdAt": moment(self.dispute.created_at),
            },
            "payment": {
                "topUp": self.payment.top_up,
                "charge": self.payment.charge,
                "paymentIntent": self.payment.payment_intent,
                "amount": self.decimal(self.payment.amount),
                "bonus": self.decimal(self.payment.bonus),
                "createdAt": moment(self.payment.created_at),
                "creditedAt": self.payment.credited_at.map(moment),
                "balanceAfter": self.payment.balance_after.map(|micros| self.decimal(micros)),
            },
            "client": {
                "id": self.client.public_id,
                "status": self.client.status,
                "createdAt": moment(self.client.created_at),
                "keyPrefixes": self.client.key_prefixes,
                "paid": self.decimal(self.client.paid),
                "bonus": self.decimal(self.client.bonus),
                "debt": self.decimal(self.client.debt),
            },
            "requests": requests.collect::<Vec<_>>(),
            "requestsAreCut": self.is_cut,
            "refunds": refunds.collect::<Vec<_>>(),
            "freezes": freezes.collect::<Vec<_>>(),
            "adjustments": adjustments.collect::<Vec<_>>(),
        })
    }

    /// The requests, as a CSV file.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv =
            "time,request_id,route,price,currency,upstream_status,outcome,balance_after,key\r\n".to_owned();
        for request in &self.requests {
            let status = request.upstream_status.map(|status| status.to_string()).unwrap_or_default();
            let fields = [
                moment(request.at),
                request.id.clone(),
                request.route.clone(),
                self.decimal(request.price),
                self.currency.clone(),
                status,
                request.outcome.word().to_owned(),
                self.decimal(request.balance_after),
                request.key.clone().unwrap_or_default(),
            ];
            csv.push_str(&fields.map(|text| field(&text)).join(","));
            csv.push_str("\r\n");
        }
        csv
    }

    /// What a person pastes into the form, without the list of requests.
    #[must_use]
    pub fn text(&self) -> String {
        let money = |micros: i64| format!("{} {}", self.decimal(micros), self.currency.to_ascii_uppercase());
        let (dispute, payment, client) = (&self.dispute, &self.payment, &self.client);
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{label:<22} {value}");
        };
        line("Dispute", dispute.id.clone());
        line("  amount", money(dispute.amount));
        line("  reason", dispute.reason.clone());
        line("  status", dispute.status.clone());
        line("  since", moment(dispute.created_at));
        line("  evidence due by", due(dispute.due_by).unwrap_or_else(|| "not known".to_owned()));
        line("Payment", payment.top_up.clone());
        line("  charge", payment.charge.clone());
        line("  PaymentIntent", payment.payment_intent.clone().unwrap_or_default());
        line("  amount", money(payment.amount));
        line("  bonus on top", money(payment.bonus));
        line("  begun", moment(payment.created_at));
        line("  credited", payment.credited_at.map(moment).unwrap_or_else(|| "not in the books".to_owned()));
        line("  balance after it", payment.balance_after.map(money).unwrap_or_default());
        line("Client", client.public_id.clone());
        line("  keys begin with", client.key_prefixes.join(", "));
        line("  since", moment(client.created_at));
        line(
            "  now",
            format!("{}, {} paid, {} bonus", client.status, money(client.paid), money(client.bonus)),
        );
        line("  owes", money(client.debt));
        let of = |outcome| self.requests.iter().filter(move |request| request.outcome == outcome);
        let count = |outcome| of(outcome).count();
        let paid = of(Outcome::Delivered).fold(0_i64, |sum, request| sum.saturating_add(request.price));
        line("Requests", "paid from the balance between the payment and the dispute".to_owned());
        line("  delivered", format!("{}, for {}", count(Outcome::Delivered), money(paid)));
        line("  given back", count(Outcome::Reversed).to_string());
        line("  not certain yet", count(Outcome::Unconfirmed).to_string());
        if self.is_cut {
            line("", "there are more entries than are looked at: the oldest requests are missing".to_owned());
        }
        for refund in &self.refunds {
            let amount = money(refund.amount.get());
            line(
                "Refund",
                format!("{amount}, {}, {}, {}", refund.state, moment(refund.created_at), refund.id),
            );
        }
        for freeze in &self.freezes {
            let until =
                freeze.lifted_at.map_or_else(|| "until now".to_owned(), |at| format!("until {}", moment(at)));
            line("Frozen", format!("{}, from {} {until}", freeze.cause, moment(freeze.created_at)));
        }
        for made in &self.adjustments {
            let what = if made.kind == "credit" { "given" } else { "of debt written off" };
            line(
                "Adjusted",
                format!("{} {what}, {}: {}", money(made.amount), moment(made.created_at), made.reason),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_are_no_formulas() {
        for (text, expected) in [
            ("GET /a", "GET /a"),
            ("GET /a,b", "\"GET /a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "'=1+1"),
            ("", ""),
        ] {
            assert_eq!(field(text), expected);
        }
    }
}
