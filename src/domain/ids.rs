//! Identifiers. Secrets among them redact themselves in `Debug` and have no `Display`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Fills a buffer from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give; nothing safe can be done without it.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUIDv7, RFC 9562).
            #[must_use]
            #[allow(clippy::new_without_default, reason = "an id is made, not defaulted")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads the hyphenated text form.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(Self)
            }

            /// Its 16 bytes.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

uuid_id! {
    /// One attempt to turn a card charge into credit. Stripe's idempotency keys derive from it.
    TopUpId
}
uuid_id! {
    /// Money on its way back to a card. Stripe's idempotency key derives from it.
    RefundId
}
uuid_id! {
    /// One HTTP request to the gateway; the source of its usage entry.
    RequestId
}
uuid_id! {
    /// What people see of a client; never a credential.
    ClientPublicId
}
uuid_id! {
    /// One run of one process, among those that share a database.
    NodeId
}
uuid_id! {
    /// The random, public part a client key is derived from. Version 7 ids carry 74 random bits; the secret is the HMAC key.
    KeyId
}

uuid_id! {
    /// One gateway, with all its nodes and for as long as its books live, among those that charge through one Stripe account.
    InstallationId
}

impl ClientPublicId {
    /// The id of the client that a key makes: the same one whenever that client has to be made anew. Tells nothing of the key.
    #[must_use]
    pub fn of_first_key(key: KeyId) -> Self {
        let digest = Sha256::new()
            .chain_update("prepaid402 client of key\0")
            .chain_update(key.0.as_bytes())
            .finalize();
        // The time stays, so that clients made later sort later.
        let mut bytes = key.0.into_bytes();
        bytes[6..].copy_from_slice(&digest[..10]);
        let built = uuid::Builder::from_bytes(bytes)
            .with_version(uuid::Version::SortRand)
            .with_variant(uuid::Variant::RFC4122);
        Self(built.into_uuid())
    }
}

/// The SHA-256 of a secret with 256 bits of entropy: what is stored, and what lookups compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Hashes several values; where one ends and the next begins matters.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// From a stored column. `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For a stored column.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For a text: 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From such a text.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let bytes = digits.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        Self::from_slice(&bytes.collect::<Option<Vec<u8>>>()?)
    }
}

/// A client key, the wire's `clientId`: a bearer secret of 256 bits that names a wallet.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey(String);

/// Every client key starts with this, so that a leaked one is recognised by scanners.
pub const CLIENT_KEY_PREFIX: &str = "pck_";
/// Prefix and 43 characters of base64url (256 bits).
const CLIENT_KEY_LEN: usize = 47;
/// How much of a key may be shown to people: the prefix and six characters (36 of 256 bits).
const SHOWN_LEN: usize = 10;

impl ClientKey {
    /// `HMAC-SHA256(key secret, key id)`: can be given again after a crash although only its hash is stored.
    #[must_use]
    pub fn derive(key_secret: &[u8; 32], id: KeyId) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key_secret).expect("HMAC takes a key of any length");
        mac.update(b"prepaid402 client key v1\0");
        mac.update(id.to_string().as_bytes());
        let bytes = mac.finalize().into_bytes();
        Self(format!("{CLIENT_KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Accepts anything that could be a client key: 1 to 128 visible ASCII characters. Whether it is one, the hash tells.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plausible = !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
        plausible.then(|| Self(text.to_owned()))
    }

    /// Whether the text has the shape of a key that we issue.
    #[must_use]
    pub fn has_issued_shape(&self) -> bool {
        self.0.len() == CLIENT_KEY_LEN && self.0.starts_with(CLIENT_KEY_PREFIX)
    }

    /// The secret itself, for the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first characters, for people.
    #[must_use]
    pub fn shown_prefix(&self) -> &str {
        self.0.get(..SHOWN_LEN).unwrap_or("")
    }

    /// What is stored.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(redacted)")
    }
}

/// Stripe's id of a tokenised card, `pm_…`. A credential here, because repeating it reaches a wallet: redacted and hashed.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentMethodId(String);

impl PaymentMethodId {
    /// Accepts Stripe's form: `pm_` and letters, digits or `_`, at most 255 characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("pm_")?;
        let plausible = !rest.is_empty()
            && text.len() <= 255
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        plausible.then(|| Self(text.to_owned()))
    }

    /// Whether this is one of Stripe's shared test names such as `pm_card_visa`, which identify nobody.
    #[must_use]
    pub fn is_shared_test_name(&self) -> bool {
        self.0.starts_with("pm_card_")
    }

    /// The id itself, for Stripe.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for PaymentMethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaymentMethodId(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_derived_again_from_its_id() {
        let (secret, id) = (random_bytes(), KeyId::new());
        let key = ClientKey::derive(&secret, id);
        assert_eq!(key, ClientKey::derive(&secret, id));
        assert_ne!(key, ClientKey::derive(&secret, KeyId::new()));
        assert_ne!(key, ClientKey::derive(&random_bytes(), id));
        assert!(key.has_issued_shape());
    }

    #[test]
    fn a_client_has_one_id_for_its_first_key() {
        let (key, other) = (KeyId::new(), KeyId::new());
        let client = ClientPublicId::of_first_key(key);
        assert_eq!(client, ClientPublicId::of_first_key(key));
        assert_ne!(client, ClientPublicId::of_first_key(other));
        let (client, key) = (client.to_string(), key.to_string());
        assert_eq!(client[..14], key[..14], "the time, by which ids are sorted");
        assert_eq!(&client[14..15], "7");
        assert_ne!(client[15..], key[15..]);
        assert_eq!(ClientPublicId::parse(&client).map(|id| id.to_string()), Some(client));
    }

    #[test]
    fn a_hash_is_read_from_its_digits_and_from_nothing_else() {
        let hash = SecretHash::of("x");
        let digits = hash.hex();
        assert_eq!(digits.len(), 64);
        assert_eq!(SecretHash::from_hex(&digits), Some(hash));
        assert_eq!(SecretHash::from_hex(&digits.to_uppercase()), Some(hash));
        for wrong in [
            "",
            "00",
            &digits[1..],
            &format!("{digits}0"),
            &format!("{digits}00"),
            &"é".repeat(32),
            &"+1".repeat(32),
        ] {
            assert_eq!(SecretHash::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_redact_themselves() {
        let key = ClientKey::derive(&[7; 32], KeyId::new());
        assert!(!format!("{key:?}").contains(key.shown_prefix()));
        let pm = PaymentMethodId::parse("pm_1abc").expect("valid");
        assert!(!format!("{pm:?}").contains("1abc"));
    }

    #[test]
    fn payment_method_ids_have_stripes_form() {
        for text in ["", "pm_", "pm_a/b", "pi_1", "pm_é", "4242424242424242", "pm_1 "] {
            assert!(PaymentMethodId::parse(text).is_none(), "{text:?}");
        }
        let shared = PaymentMethodId::parse("pm_card_visa").expect("valid");
        assert!(shared.is_shared_test_name());
    }
}
