//! Stripe's complete objects out of what the books keep.
//!
//! Complete matters: typed clients refuse an object with a required field missing, after the money has moved.

use serde_json::{Value, json};

use super::books::Books;
use super::error::ApiError;
use super::issuer::CvcCheck;
use super::objects::{
    BalanceKind, BalanceTransaction, Billing, Charge, ChargeState, Customer, Dispute, DisputeStatus, Failure,
    FraudWarning, IntentStatus, PaymentIntent, PaymentMethod, Refund, RefundStatus,
};

/// A list object.
pub(super) fn list(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    json!({ "object": "list", "url": url, "has_more": has_more, "data": data })
}

/// A Customer.
pub(super) fn customer(row: &Customer) -> Value {
    if row.deleted {
        return json!({ "id": row.id, "object": "customer", "deleted": true });
    }
    json!({
        "id": row.id,
        "object": "customer",
        "address": null,
        "balance": 0,
        "created": row.created,
        "currency": null,
        "default_source": null,
        "delinquent": false,
        "description": row.description,
        "discount": null,
        "email": row.email,
        "invoice_prefix": row.id.chars().rev().take(8).collect::<String>().to_uppercase(),
        "invoice_settings": {
            "custom_fields": null,
            "default_payment_method": null,
            "footer": null,
            "rendering_options": null,
        },
        "livemode": false,
        "metadata": row.metadata,
        "name": row.name,
        "next_invoice_sequence": 1,
        "phone": row.phone,
        "preferred_locales": [],
        "shipping": null,
        "tax_exempt": "none",
        "test_clock": null,
    })
}

fn billing(row: &Billing) -> Value {
    let line = |name: &str| row.address.get(name);
    json!({
        "address": {
            "city": line("city"),
            "country": line("country"),
            "line1": line("line1"),
            "line2": line("line2"),
            "postal_code": line("postal_code"),
            "state": line("state"),
        },
        "email": row.email,
        "name": row.name,
        "phone": row.phone,
        "tax_id": null,
    })
}

/// What a bank has checked.
pub(super) fn checks(cvc: Option<CvcCheck>) -> Value {
    json!({ "address_line1_check": null, "address_postal_code_check": null, "cvc_check": cvc })
}

/// Why an attempt failed, as the intent that it belongs to says it.
pub(super) fn failure(books: &Books, failure: &Failure) -> Value {
    let mut error = ApiError::card(&failure.code, failure.message.clone())
        .declined(failure.decline_code.as_deref(), failure.advice_code.as_deref())
        .with_charge(failure.charge.as_deref());
    if let Some(method) = books.methods.get(&failure.payment_method) {
        error = error.with_method(payment_method(method));
    }
    error.inner()
}

/// What the cardholder has to do.
pub(super) fn next_action(return_url: Option<&str>) -> Value {
    match return_url {
        Some(return_url) => json!({
            "type": "redirect_to_url",
            "redirect_to_url": {
                "return_url": return_url,
                "url": "https://example.com/the-simulated-bank-has-no-page",
            },
        }),
        None => json!({ "type": "use_stripe_sdk", "use_stripe_sdk": { "type": "three_d_secure_redirect" } }),
    }
}

/// `automatic_payment_methods` out of `allow_redirects`, when they are on.
pub(super) fn automatic(redirects: Option<&str>) -> Value {
    redirects.map_or(Value::Null, |redirects| json!({ "allow_redirects": redirects, "enabled": true }))
}

/// A PaymentMethod.
pub(super) fn payment_method(row: &PaymentMethod) -> Value {
    let card = &row.card;
    let check = match (card.cvc_check, &row.customer) {
        (Some(check), _) => check,
        // Attached in books from before checks were kept.
        (None, Some(_)) => CvcCheck::Pass,
        (None, None) => CvcCheck::Unchecked,
    };
    json!({
        "id": row.id,
        "object": "payment_method",
        "allow_redisplay": row.allow_redisplay.as_deref().unwrap_or("unspecified"),
        "billing_details": billing(&row.billing),
        "card": {
            "brand": card.brand,
            "checks": checks(card.cvc_given.then_some(check)),
            "country": card.country,
            "display_brand": card.brand,
            "exp_month": card.exp_month,
            "exp_year": card.exp_year,
            "fingerprint": card.fingerprint,
            "funding": card.funding,
            "generated_from": null,
            "last4": card.last4,
            "networks": { "available": [card.brand], "preferred": null },
            "regulated_status": "unregulated",
            "three_d_secure_usage": { "supported": true },
            "wallet": null,
        },
        "created": row.created,
        "customer": row.customer,
        "livemode": false,
        "metadata": row.metadata,
        "type": "card",
    })
}

/// A PaymentIntent.
pub(super) fn payment_intent(books: &Books, row: &PaymentIntent) -> Value {
    let waits = row.status == IntentStatus::RequiresAction;
    json!({
        "id": row.id,
        "object": "payment_intent",
        "amount": row.amount,
        "amount_capturable": 0,
        "amount_details": { "tip": {} },
        "amount_received": row.amount_received,
        "application": null,
        "application_fee_amount": null,
        "automatic_payment_methods": automatic(row.automatic.as_deref()),
        "canceled_at": row.canceled_at,
        "cancellation_reason": row.cancellation_reason,
        "capture_method": row.capture_method,
        "client_secret": row.client_secret,
        "confirmation_method": row.confirmation_method,
        "created": row.created,
        "currency": row.currency,
        "customer": row.customer,
        "description": row.description,
        "excluded_payment_method_types": null,
        "last_payment_error": row.last_failure.as_ref().map(|row| failure(books, row)),
        "latest_charge": row.latest_charge,
        "livemode": false,
        "metadata": row.metadata,
        "next_action": waits.then(|| next_action(row.return_url.as_deref())),
        "on_behalf_of": null,
        "payment_method": row.payment_method,
        "payment_method_configuration_details": null,
        "payment_method_options": {
            "card": {
                "installments": null,
                "mandate_options": null,
                "network": null,
                "request_three_d_secure": "automatic",
            },
        },
        "payment_method_types": ["card"],
        "processing": null,
        "receipt_email": row.receipt_email,
        "review": null,
        "setup_future_usage": row.setup_future_usage,
        "shipping": null,
        "source": null,
        "statement_descriptor": null,
        "statement_descriptor_suffix": row.statement_descriptor_suffix,
        "status": row.status.word(),
        "transfer_data": null,
        "transfer_group": row.transfer_group,
    })
}

fn outcome(row: &Charge) -> Value {
    match (row.state, &row.failure) {
        (ChargeState::Failed, Some(failure)) => json!({
            "advice_code": failure.advice_code,
            "network_advice_code": null,
            "network_decline_code": null,
            "network_status": "declined_by_network",
            "reason": failure.decline_code.as_ref().unwrap_or(&failure.code),
            "risk_level": "normal",
            "risk_score": 10,
            "seller_message": "The bank did not accept the payment.",
            "type": "issuer_declined",
        }),
        _ => json!({
            "advice_code": null,
            "network_advice_code": null,
            "network_decline_code": null,
            "network_status": "approved_by_network",
            "reason": null,
            "risk_level": "normal",
            "risk_score": 10,
            "seller_message": "Payment complete.",
            "type": "authorized",
        }),
    }
}

/// A Charge.
pub(super) fn charge(books: &Books, row: &Charge) -> Value {
    // Fields of a charge that a card charge here never fills.
    const NOT_USED: [&str; 12] = [
        "application",
        "application_fee",
        "application_fee_amount",
        "failure_balance_transaction",
        "on_behalf_of",
        "receipt_number",
        "receipt_url",
        "review",
        "shipping",
        "source_transfer",
        "statement_descriptor",
        "transfer_data",
    ];
    let (status, paid) = match row.state {
        ChargeState::Pending => ("pending", false),
        ChargeState::Succeeded => ("succeeded", true),
        ChargeState::Failed => ("failed", false),
    };
    let intent = books.intents.get(&row.payment_intent);
    let method = books.methods.get(&row.payment_method);
    let details = method.map(|method| {
        let card = &method.card;
        json!({
            "type": "card",
            "card": {
                "amount_authorized": paid.then_some(row.amount),
                "brand": card.brand,
                "checks": checks(row.cvc_check),
                "country": card.country,
                "exp_month": card.exp_month,
                "exp_year": card.exp_year,
                "extended_authorization": { "status": "disabled" },
                "fingerprint": card.fingerprint,
                "funding": card.funding,
                "incremental_authorization": { "status": "unavailable" },
                "installments": null,
                "last4": card.last4,
                "mandate": null,
                "multicapture": { "status": "unavailable" },
                "network": card.brand,
                "network_token": { "used": false },
                "overcapture": { "maximum_amount_capturable": row.amount, "status": "unavailable" },
                "regulated_status": "unregulated",
                "three_d_secure": null,
                "wallet": null,
            },
        })
    });
    let mut value = json!({
        "id": row.id,
        "object": "charge",
        "amount": row.amount,
        "amount_captured": if paid { row.amount } else { 0 },
        "amount_refunded": row.amount_refunded,
        "balance_transaction": row.balance_transaction,
        "billing_details": billing(&method.map(|method| method.billing.clone()).unwrap_or_default()),
        "calculated_statement_descriptor": "SANDBOX",
        "captured": paid,
        "created": row.created,
        "currency": row.currency,
        "customer": row.customer,
        "description": intent.and_then(|intent| intent.description.as_ref()),
        "disputed": row.disputed,
        "failure_code": row.failure.as_ref().map(|failure| &failure.code),
        "failure_message": row.failure.as_ref().map(|failure| &failure.message),
        "fraud_details": {},
        "livemode": false,
        "metadata": intent.map(|intent| intent.metadata.clone()).unwrap_or_default(),
        "outcome": if row.state == ChargeState::Pending { Value::Null } else { outcome(row) },
        "paid": paid,
        "payment_intent": row.payment_intent,
        "payment_method": row.payment_method,
        "payment_method_details": details,
        "radar_options": {},
        "receipt_email": intent.and_then(|intent| intent.receipt_email.as_ref()),
        "refunded": paid && row.amount_refunded == row.amount,
        "statement_descriptor_suffix": intent.and_then(|intent| intent.statement_descriptor_suffix.as_ref()),
        "status": status,
        "transfer_group": intent.and_then(|intent| intent.transfer_group.as_ref()),
    });
    for name in NOT_USED {
        value[name] = Value::Null;
    }
    value
}

/// A Refund.
pub(super) fn refund(row: &Refund) -> Value {
    let mut value = json!({
        "id": row.id,
        "object": "refund",
        "amount": row.amount,
        "balance_transaction": row.balance_transaction,
        "charge": row.charge,
        "created": row.created,
        "currency": row.currency,
        "destination_details": {
            "type": "card",
            "card": { "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" },
        },
        "metadata": row.metadata,
        "payment_intent": row.payment_intent,
        "reason": row.reason,
        "receipt_number": null,
        "source_transfer_reversal": null,
        "status": row.status.word(),
        "transfer_reversal": null,
    });
    // Stripe leaves these out unless they say something.
    if row.status == RefundStatus::Pending {
        value["pending_reason"] = json!("processing");
    }
    if let Some(transaction) = &row.failure_balance_transaction {
        value["failure_balance_transaction"] = json!(transaction);
        value["failure_reason"] = json!("expired_or_canceled_card");
    }
    value
}

/// A Dispute.
pub(super) fn dispute(books: &Books, row: &Dispute) -> Value {
    const TEXTS: [&str; 27] = [
        "access_activity_log",
        "billing_address",
        "cancellation_policy",
        "cancellation_policy_disclosure",
        "cancellation_rebuttal",
        "customer_communication",
        "customer_email_address",
        "customer_name",
        "customer_purchase_ip",
        "customer_signature",
        "duplicate_charge_documentation",
        "duplicate_charge_explanation",
        "duplicate_charge_id",
        "product_description",
        "receipt",
        "refund_policy",
        "refund_policy_disclosure",
        "refund_refusal_explanation",
        "service_date",
        "service_documentation",
        "shipping_address",
        "shipping_carrier",
        "shipping_date",
        "shipping_documentation",
        "shipping_tracking_number",
        "uncategorized_file",
        "uncategorized_text",
    ];
    let mut evidence = json!({ "enhanced_evidence": {} });
    for name in TEXTS {
        evidence[name] = Value::Null;
    }
    let charge = books.charges.get(&row.charge);
    let brand = charge
        .and_then(|charge| books.methods.get(&charge.payment_method))
        .map_or("visa", |method| method.card.brand.as_str());
    // Visa's codes: <https://docs.stripe.com/disputes/categories>
    let code = match row.reason.as_str() {
        "product_not_received" => "13.1",
        "duplicate" => "12.6.1",
        "product_unacceptable" => "13.3",
        "subscription_canceled" => "13.2",
        "credit_not_processed" => "13.7",
        _ => "10.4",
    };
    let inquiry = matches!(row.status, DisputeStatus::WarningNeedsResponse | DisputeStatus::WarningClosed);
    let transactions: Vec<Value> = row
        .balance_transactions
        .iter()
        .filter_map(|id| books.balance.get(id))
        .map(balance_transaction)
        .collect();
    json!({
        "id": row.id,
        "object": "dispute",
        "amount": row.amount,
        "balance_transactions": transactions,
        "charge": row.charge,
        "created": row.created,
        "currency": row.currency,
        "enhanced_eligibility_types": [],
        "evidence": evidence,
        "evidence_details": {
            "due_by": row.due_by,
            "enhanced_eligibility": {},
            "has_evidence": false,
            "past_due": false,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry && charge.is_some_and(|charge| charge.refundable() > 0),
        "livemode": false,
        "metadata": {},
        "network_reason_code": code,
        "payment_intent": row.payment_intent,
        "payment_method_details": {
            "card": {
                "brand": brand,
                "case_type": if row.inquiry { "inquiry" } else { "chargeback" },
                "network": brand,
                "network_reason_code": code,
            },
            "type": "card",
        },
        "reason": row.reason,
        "status": row.status.word(),
    })
}

/// An early fraud warning.
pub(super) fn fraud_warning(books: &Books, row: &FraudWarning) -> Value {
    let charge = books.charges.get(&row.charge);
    json!({
        "id": row.id,
        "object": "radar.early_fraud_warning",
        "actionable": charge.is_some_and(|charge| !charge.disputed && charge.refundable() > 0),
        "charge": row.charge,
        "created": row.created,
        "fraud_type": row.fraud_type,
        "livemode": false,
        "payment_intent": row.payment_intent,
    })
}

/// A BalanceTransaction.
pub(super) fn balance_transaction(row: &BalanceTransaction) -> Value {
    let kind = row.kind();
    let dispute = kind == BalanceKind::Dispute;
    let description = match kind {
        BalanceKind::Charge => None,
        BalanceKind::Refund => Some("REFUND FOR CHARGE"),
        BalanceKind::RefundFailure => Some("REFUND FAILURE"),
        BalanceKind::Dispute => Some("Chargeback withdrawal"),
        BalanceKind::DisputeReversal => Some("Chargeback reversal"),
    };
    let fees = if row.fee == 0 {
        json!([])
    } else {
        json!([{
            "amount": row.fee,
            "application": null,
            "currency": row.currency,
            "description": if dispute { "Dispute fee" } else { "Stripe processing fees" },
            "type": "stripe_fee",
        }])
    };
    json!({
        "id": row.id,
        "object": "balance_transaction",
        "amount": row.amount,
        "available_on": row.created,
        "balance_type": "payments",
        "created": row.created,
        "currency": row.currency,
        "description": description,
        "exchange_rate": null,
        "fee": row.fee,
        "fee_details": fees,
        "net": row.amount.saturating_sub(row.fee),
        "reporting_category": kind.category(),
        "source": row.source,
        "status": "available",
        "type": kind.word(),
    })
}
