//! Stripe's error bodies.

use serde_json::{Value, json};

/// An answer that refuses, as Stripe words it: a status and an `error` object.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    /// The HTTP status.
    pub(super) status: u16,
    kind: &'static str,
    code: Option<String>,
    decline_code: Option<String>,
    advice_code: Option<String>,
    message: String,
    param: Option<String>,
    charge: Option<String>,
    payment_intent: Option<Value>,
    setup_intent: Option<Value>,
    payment_method: Option<Value>,
    /// Whether an idempotency key remembers it. What is refused before execution is not remembered.
    pub(super) saved: bool,
}

/// Boxed: the answer to a good request should not pay for the size of a refusal.
pub(super) type Refusal = Box<ApiError>;

impl ApiError {
    fn new(status: u16, kind: &'static str, message: String) -> Refusal {
        Box::new(Self {
            status,
            kind,
            code: None,
            decline_code: None,
            advice_code: None,
            message,
            param: None,
            charge: None,
            payment_intent: None,
            setup_intent: None,
            payment_method: None,
            saved: false,
        })
    }

    /// 400: a parameter is wrong. Not remembered by an idempotency key.
    pub(super) fn parameter(name: &str, message: impl Into<String>) -> Refusal {
        let mut error = Self::new(400, "invalid_request_error", message.into());
        error.param = Some(name.to_owned());
        error
    }

    /// 400: the request as a whole is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Refusal {
        Self::new(400, "invalid_request_error", message.into())
    }

    /// 400: the request is well formed and the state of the objects forbids it. Remembered by an idempotency key.
    pub(super) fn state(message: impl Into<String>) -> Refusal {
        let mut error = Self::new(400, "invalid_request_error", message.into());
        error.saved = true;
        error
    }

    /// Another HTTP status with the type `invalid_request_error`: keys, unknown URLs, sizes.
    pub(super) fn request(status: u16, message: impl Into<String>) -> Refusal {
        Self::new(status, "invalid_request_error", message.into())
    }

    /// An id in the path (404) names nothing.
    pub(super) fn missing(what: &str, id: &str) -> Refusal {
        let mut error =
            Self::new(404, "invalid_request_error", format!("No such {what}: '{}'", shortened(id)));
        let intent = matches!(what, "payment_intent" | "setupintent");
        error.param = Some(if intent { "intent" } else { "id" }.to_owned());
        error.coded("resource_missing")
    }

    /// An id in a parameter (400) names nothing.
    pub(super) fn missing_param(param: &str, what: &str, id: &str) -> Refusal {
        Self::parameter(param, format!("No such {what}: '{}'", shortened(id))).coded("resource_missing")
    }

    /// 402: the card.
    pub(super) fn card(code: &str, message: impl Into<String>) -> Refusal {
        let mut error = Self::new(402, "card_error", message.into());
        error.saved = true;
        error.coded(code)
    }

    /// 400: the key was used for something else.
    pub(super) fn idempotency_mismatch() -> Refusal {
        Self::new(
            400,
            "idempotency_error",
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try \
             using a key other than the one given if you meant to execute a different request."
                .to_owned(),
        )
    }

    /// 500: Stripe's fault.
    pub(super) fn api(message: impl Into<String>) -> Refusal {
        Self::new(500, "api_error", message.into())
    }

    /// Adds the code.
    pub(super) fn coded(mut self: Box<Self>, code: &str) -> Refusal {
        self.code = Some(code.to_owned());
        self
    }

    /// Adds the parameter's name.
    pub(super) fn at(mut self: Box<Self>, param: &str) -> Refusal {
        self.param = Some(param.to_owned());
        self
    }

    /// Adds the issuer's reason and Stripe's advice.
    pub(super) fn declined(mut self: Box<Self>, decline_code: Option<&str>, advice: Option<&str>) -> Refusal {
        self.decline_code = decline_code.map(str::to_owned);
        self.advice_code = advice.map(str::to_owned);
        self
    }

    /// Adds the failed charge's id.
    pub(super) fn with_charge(mut self: Box<Self>, charge: Option<&str>) -> Refusal {
        self.charge = charge.map(str::to_owned);
        self
    }

    /// Adds the PaymentIntent as it stands after the refusal.
    pub(super) fn with_intent(mut self: Box<Self>, intent: Value) -> Refusal {
        self.payment_intent = Some(intent);
        self
    }

    /// Adds the SetupIntent as it stands after the refusal.
    pub(super) fn with_setup(mut self: Box<Self>, setup: Value) -> Refusal {
        self.setup_intent = Some(setup);
        self
    }

    /// Adds the PaymentMethod.
    pub(super) fn with_method(mut self: Box<Self>, method: Value) -> Refusal {
        self.payment_method = Some(method);
        self
    }

    /// The inner object, as it also appears in a PaymentIntent's `last_payment_error`.
    pub(super) fn inner(&self) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        let optional = [
            ("code", self.code.as_deref()),
            ("decline_code", self.decline_code.as_deref()),
            ("advice_code", self.advice_code.as_deref()),
            ("param", self.param.as_deref()),
            ("charge", self.charge.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                error[name] = json!(value);
            }
        }
        if let Some(code) = &self.code {
            error["doc_url"] =
                json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
        }
        if let Some(method) = &self.payment_method {
            error["payment_method"] = method.clone();
            error["payment_method_type"] = json!("card");
        }
        if let Some(intent) = &self.payment_intent {
            error["payment_intent"] = intent.clone();
        }
        if let Some(setup) = &self.setup_intent {
            error["setup_intent"] = setup.clone();
        }
        error
    }

    /// The answer's body.
    pub(super) fn body(&self) -> Value {
        json!({ "error": self.inner() })
    }
}

/// At most this much of a caller's text is said back.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
