//! Stripe's URLs that the simulator knows.

/// One of Stripe's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Endpoint {
    /// `POST /v1/payment_methods`
    CreateMethod,
    /// `GET /v1/payment_methods/{id}`
    RetrieveMethod,
    /// `GET /v1/payment_methods`
    ListMethods,
    /// `POST /v1/payment_methods/{id}/attach`
    AttachMethod,
    /// `POST /v1/payment_methods/{id}/detach`
    DetachMethod,
    /// `POST /v1/customers`
    CreateCustomer,
    /// `GET /v1/customers/{id}`
    RetrieveCustomer,
    /// `POST /v1/customers/{id}`
    UpdateCustomer,
    /// `GET /v1/customers/search`
    SearchCustomers,
    /// `DELETE /v1/customers/{id}`
    DeleteCustomer,
    /// `GET /v1/customers`
    ListCustomers,
    /// `GET /v1/customers/{id}/payment_methods`
    ListCustomerMethods,
    /// `POST /v1/payment_intents`
    CreateIntent,
    /// `POST /v1/payment_intents/{id}/confirm`
    ConfirmIntent,
    /// `POST /v1/payment_intents/{id}/cancel`
    CancelIntent,
    /// `GET /v1/payment_intents/{id}`
    RetrieveIntent,
    /// `GET /v1/payment_intents`
    ListIntents,
    /// `POST /v1/setup_intents`
    CreateSetup,
    /// `POST /v1/setup_intents/{id}/confirm`
    ConfirmSetup,
    /// `POST /v1/setup_intents/{id}/cancel`
    CancelSetup,
    /// `GET /v1/setup_intents/{id}`
    RetrieveSetup,
    /// `GET /v1/setup_intents`
    ListSetups,
    /// `GET /v1/setup_attempts`
    ListAttempts,
    /// `POST /v1/refunds`
    CreateRefund,
    /// `GET /v1/refunds/{id}`
    RetrieveRefund,
    /// `GET /v1/refunds`
    ListRefunds,
    /// `GET /v1/charges/{id}`
    RetrieveCharge,
    /// `GET /v1/charges`
    ListCharges,
    /// `GET /v1/balance_transactions/{id}`
    RetrieveBalance,
    /// `GET /v1/balance_transactions`
    ListBalance,
    /// `GET /v1/disputes/{id}`
    RetrieveDispute,
    /// `GET /v1/disputes`
    ListDisputes,
    /// `GET /v1/radar/early_fraud_warnings/{id}`
    RetrieveWarning,
    /// `GET /v1/radar/early_fraud_warnings`
    ListWarnings,
    /// `GET /v1/events/{id}`
    RetrieveEvent,
    /// `GET /v1/events`
    ListEvents,
}

impl Endpoint {
    /// All of them.
    pub(super) const ALL: [Self; 36] = [
        Self::CreateMethod,
        Self::RetrieveMethod,
        Self::ListMethods,
        Self::AttachMethod,
        Self::DetachMethod,
        Self::CreateCustomer,
        Self::RetrieveCustomer,
        Self::UpdateCustomer,
        Self::SearchCustomers,
        Self::DeleteCustomer,
        Self::ListCustomers,
        Self::ListCustomerMethods,
        Self::CreateIntent,
        Self::ConfirmIntent,
        Self::CancelIntent,
        Self::RetrieveIntent,
        Self::ListIntents,
        Self::CreateSetup,
        Self::ConfirmSetup,
        Self::CancelSetup,
        Self::RetrieveSetup,
        Self::ListSetups,
        Self::ListAttempts,
        Self::CreateRefund,
        Self::RetrieveRefund,
        Self::ListRefunds,
        Self::RetrieveCharge,
        Self::ListCharges,
        Self::RetrieveBalance,
        Self::ListBalance,
        Self::RetrieveDispute,
        Self::ListDisputes,
        Self::RetrieveWarning,
        Self::ListWarnings,
        Self::RetrieveEvent,
        Self::ListEvents,
    ];

    /// The operation of a request and the id in its path, which is empty where there is none.
    pub(super) fn of<'p>(method: &str, path: &'p str) -> Option<(Self, &'p str)> {
        let path = path.strip_prefix("/v1/")?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let endpoint = match (method, parts.as_slice()) {
            ("POST", ["payment_methods"]) => Self::CreateMethod,
            ("GET", ["payment_methods"]) => Self::ListMethods,
            ("GET", ["payment_methods", _]) => Self::RetrieveMethod,
            ("POST", ["payment_methods", _, "attach"]) => Self::AttachMethod,
            ("POST", ["payment_methods", _, "detach"]) => Self::DetachMethod,
            ("POST", ["customers"]) => Self::CreateCustomer,
            ("GET", ["customers"]) => Self::ListCustomers,
            ("GET", ["customers", "search"]) => Self::SearchCustomers,
            ("GET", ["customers", _]) => Self::RetrieveCustomer,
            ("POST", ["customers", _]) => Self::UpdateCustomer,
            ("DELETE", ["customers", _]) => Self::DeleteCustomer,
            ("GET", ["customers", _, "payment_methods"]) => Self::ListCustomerMethods,
            ("POST", ["payment_intents"]) => Self::CreateIntent,
            ("GET", ["payment_intents"]) => Self::ListIntents,
            ("GET", ["payment_intents", id]) if *id != "search" => Self::RetrieveIntent,
            ("POST", ["payment_intents", _, "confirm"]) => Self::ConfirmIntent,
            ("POST", ["payment_intents", _, "cancel"]) => Self::CancelIntent,
            ("POST", ["setup_intents"]) => Self::CreateSetup,
            ("GET", ["setup_intents"]) => Self::ListSetups,
            ("GET", ["setup_intents", _]) => Self::RetrieveSetup,
            ("POST", ["setup_intents", _, "confirm"]) => Self::ConfirmSetup,
            ("POST", ["setup_intents", _, "cancel"]) => Self::CancelSetup,
            ("GET", ["setup_attempts"]) => Self::ListAttempts,
            ("POST", ["refunds"]) => Self::CreateRefund,
            ("GET", ["refunds"]) => Self::ListRefunds,
            ("GET", ["refunds", _]) => Self::RetrieveRefund,
            ("GET", ["charges"]) => Self::ListCharges,
            ("GET", ["charges", id]) if *id != "search" => Self::RetrieveCharge,
            ("GET", ["balance_transactions"]) => Self::ListBalance,
            ("GET", ["balance_transactions", _]) => Self::RetrieveBalance,
            ("GET", ["disputes"]) => Self::ListDisputes,
            ("GET", ["disputes", _]) => Self::RetrieveDispute,
            ("GET", ["radar", "early_fraud_warnings"]) => Self::ListWarnings,
            ("GET", ["radar", "early_fraud_warnings", _]) => Self::RetrieveWarning,
            ("GET", ["events"]) => Self::ListEvents,
            ("GET", ["events", _]) => Self::RetrieveEvent,
            _ => return None,
        };
        let at = if parts.first() == Some(&"radar") { 2 } else { 1 };
        Some((endpoint, parts.get(at).copied().unwrap_or("")))
    }

    /// The name in `/_sim/faults` and `/_sim/requests`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateMethod => "payment_methods.create",
            Self::RetrieveMethod => "payment_methods.retrieve",
            Self::ListMethods => "payment_methods.list",
            Self::AttachMethod => "payment_methods.attach",
            Self::DetachMethod => "payment_methods.detach",
            Self::CreateCustomer => "customers.create",
            Self::RetrieveCustomer => "customers.retrieve",
            Self::UpdateCustomer => "customers.update",
            Self::SearchCustomers => "customers.search",
            Self::DeleteCustomer => "customers.delete",
            Self::ListCustomers => "customers.list",
            Self::ListCustomerMethods => "customers.payment_methods",
            Self::CreateIntent => "payment_intents.create",
            Self::ConfirmIntent => "payment_intents.confirm",
            Self::CancelIntent => "payment_intents.cancel",
            Self::RetrieveIntent => "payment_intents.retrieve",
            Self::ListIntents => "payment_intents.list",
            Self::CreateSetup => "setup_intents.create",
            Self::ConfirmSetup => "setup_intents.confirm",
            Self::CancelSetup => "setup_intents.cancel",
            Self::RetrieveSetup => "setup_intents.retrieve",
            Self::ListSetups => "setup_intents.list",
            Self::ListAttempts => "setup_attempts.list",
            Self::CreateRefund => "refunds.create",
            Self::RetrieveRefund => "refunds.retrieve",
            Self::ListRefunds => "refunds.list",
            Self::RetrieveCharge => "charges.retrieve",
            Self::ListCharges => "charges.list",
            Self::RetrieveBalance => "balance_transactions.retrieve",
            Self::ListBalance => "balance_transactions.list",
            Self::RetrieveDispute => "disputes.retrieve",
            Self::ListDisputes => "disputes.list",
            Self::RetrieveWarning => "early_fraud_warnings.retrieve",
            Self::ListWarnings => "early_fraud_warnings.list",
            Self::RetrieveEvent => "events.retrieve",
            Self::ListEvents => "events.list",
        }
    }

    /// What a restricted key needs for it, such as `rak_setup_intent_write`.
    pub(super) fn permission(self) -> String {
        let (objects, verb) = self.name().split_once('.').unwrap_or((self.name(), ""));
        let object = match objects {
            "refunds" => "charge",
            "setup_attempts" => "setup_intent",
            objects => objects.trim_end_matches('s'),
        };
        let reads = matches!(verb, "retrieve" | "list" | "search" | "payment_methods");
        format!("rak_{object}_{}", if reads { "read" } else { "write" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_operations() {
        for (method, path, expected) in [
            ("POST", "/v1/payment_methods", Some((Endpoint::CreateMethod, ""))),
            ("GET", "/v1/payment_methods/pm_1", Some((Endpoint::RetrieveMethod, "pm_1"))),
            ("POST", "/v1/payment_methods/pm_1/attach", Some((Endpoint::AttachMethod, "pm_1"))),
            ("GET", "/v1/customers/cus_1/payment_methods", Some((Endpoint::ListCustomerMethods, "cus_1"))),
            ("POST", "/v1/payment_intents/pi_1/confirm", Some((Endpoint::ConfirmIntent, "pi_1"))),
            ("GET", "/v1/payment_intents/", Some((Endpoint::ListIntents, ""))),
            ("GET", "/v1/radar/early_fraud_warnings", Some((Endpoint::ListWarnings, ""))),
            ("GET", "/v1/radar/early_fraud_warnings/issfr_1", Some((Endpoint::RetrieveWarning, "issfr_1"))),
            ("GET", "/v1/radar", None),
            ("GET", "/v1/payment_intents/search", None),
            ("POST", "/v1/customers/cus_1", Some((Endpoint::UpdateCustomer, "cus_1"))),
            ("GET", "/v1/customers/search", Some((Endpoint::SearchCustomers, "search"))),
            ("POST", "/v1/setup_intents/seti_1/cancel", Some((Endpoint::CancelSetup, "seti_1"))),
            ("GET", "/v1/setup_attempts", Some((Endpoint::ListAttempts, ""))),
            ("DELETE", "/v1/customers/cus_1", Some((Endpoint::DeleteCustomer, "cus_1"))),
            ("DELETE", "/v1/charges/ch_1", None),
            ("GET", "/v1", None),
            ("GET", "/v2/payment_intents", None),
        ] {
            assert_eq!(Endpoint::of(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> =
            Endpoint::ALL.iter().map(|endpoint| endpoint.name()).collect();
        assert_eq!(names.len(), Endpoint::ALL.len());
    }

    #[test]
    fn restricted_keys_need_stripes_permissions() {
        for (endpoint, permission) in [
            (Endpoint::CreateSetup, "rak_setup_intent_write"),
            (Endpoint::CancelSetup, "rak_setup_intent_write"),
            (Endpoint::ListAttempts, "rak_setup_intent_read"),
            (Endpoint::SearchCustomers, "rak_customer_read"),
            (Endpoint::AttachMethod, "rak_payment_method_write"),
            (Endpoint::CreateRefund, "rak_charge_write"),
        ] {
            assert_eq!(endpoint.permission(), permission);
        }
    }
}
