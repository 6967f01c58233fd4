//! The `Idempotency-Key` of a priced request, and under which scope its row stands (`answers.rs`): the payer's, with method and path.

use super::core::ClientId;
use crate::domain::{PaymentMethodId, SecretHash};

/// Whether a text can be an `Idempotency-Key`: 1 to 255 visible ASCII characters.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The key of one request, and what it stands for.
#[derive(Clone)]
pub struct RepeatKey {
    key: String,
    method: String,
    path: String,
    fingerprint: SecretHash,
    headers: Option<SecretHash>,
}

impl std::fmt::Debug for RepeatKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepeatKey")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl RepeatKey {
    /// `key` is the header's value; `path` is the one that was priced. `variants` are headers that choose between
    /// representations, such as `Range`: another choice is another request.
    ///
    /// # Errors
    /// A sentence when the header's value cannot be a key.
    pub fn new(
        key: &str,
        method: &str,
        path: &str,
        query: Option<&str>,
        variants: &[u8],
        body: &[u8],
    ) -> Result<Self, &'static str> {
        if !is_key(key) {
            return Err("An Idempotency-Key has 1 to 255 visible characters.");
        }
        Ok(Self {
            key: key.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            fingerprint: SecretHash::of_parts(&[query.unwrap_or_default().as_bytes(), variants, body]),
            headers: None,
        })
    }

    /// With the digest of the headers that reach the API, for the case that it has to be asked again.
    #[must_use]
    pub fn with_headers(self, digest: SecretHash) -> Self {
        Self { headers: Some(digest), ..self }
    }

    /// See [`Self::with_headers`].
    #[must_use]
    pub fn headers(&self) -> Option<SecretHash> {
        self.headers
    }

    fn scope(&self, payer: &str) -> SecretHash {
        let parts = [payer, &self.method, &self.path, &self.key].map(str::as_bytes);
        SecretHash::of_parts(&parts)
    }

    /// The scope of a client.
    #[must_use]
    pub fn of_client(&self, client: ClientId) -> SecretHash {
        self.scope(&format!("client {client}"))
    }

    /// The scope of a card token that has not paid yet.
    #[must_use]
    pub fn of_card(&self, card: &PaymentMethodId) -> SecretHash {
        self.scope(&format!("card {}", card.expose()))
    }

    /// Of query, body and the headers that choose between representations.
    #[must_use]
    pub fn fingerprint(&self) -> SecretHash {
        self.fingerprint
    }
}
