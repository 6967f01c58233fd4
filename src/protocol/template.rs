//! Texts with holes: what of an answer is known before anybody asks is written once, and what is not is filled in.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// A text with holes.
#[derive(Debug, Clone)]
pub struct Template(Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Debug, Clone)]
pub enum Piece {
    /// Known.
    Text(String),
    /// The URL of what is sold, escaped for a JSON text.
    Url,
    /// The request's number.
    RequestId,
    /// So many seconds after the answer, in seconds since 1970.
    Expires(u32),
    /// Different in each answer; base64url.
    Nonce,
    /// Seals other pieces; base64url.
    Mac(Seal),
}

/// HMAC-SHA256, begun with what is known, over the pieces that are not.
#[derive(Clone)]
pub struct Seal {
    begun: Hmac<Sha256>,
    over: Vec<Piece>,
}

/// What the holes of one answer are filled with.
#[derive(Debug)]
pub struct Filling<'a> {
    url: &'a str,
    request_id: &'a str,
    now: i64,
    nonce: OnceCell<[u8; 16]>,
}

impl<'a> Filling<'a> {
    /// `now`: seconds since 1970.
    #[must_use]
    pub fn new(url: &'a str, request_id: &'a str, now: i64) -> Self {
        Self { url, request_id, now, nonce: OnceCell::new() }
    }

    pub(super) fn url(&self) -> &str {
        self.url
    }

    /// Random, and made only for whom it is wanted.
    fn nonce(&self) -> &[u8; 16] {
        self.nonce.get_or_init(|| uuid::Uuid::new_v4().into_bytes())
    }
}

impl Template {
    /// These pieces, one after the other.
    #[must_use]
    pub fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces)
    }

    /// The text.
    #[must_use]
    pub fn filled(&self, filling: &Filling<'_>) -> String {
        self.filled_at(filling.url, filling)
    }

    /// The same, with another URL.
    pub(super) fn filled_at(&self, url: &str, filling: &Filling<'_>) -> String {
        let texts = self.0.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 48 });
        let mut text = String::with_capacity(texts.sum::<usize>() + url.len());
        for piece in &self.0 {
            piece.write(url, filling, &mut text);
        }
        text
    }
}

impl Piece {
    fn write(&self, url: &str, filling: &Filling<'_>, text: &mut String) {
        match self {
            Self::Text(known) => text.push_str(known),
            Self::Url => {
                let quoted = serde_json::to_string(url).unwrap_or_default();
                // The quotes are the template's.
                text.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
            }
            Self::RequestId => text.push_str(filling.request_id),
            Self::Expires(after) => {
                text.push_str(&filling.now.saturating_add(i64::from(*after)).to_string());
            }
            Self::Nonce => URL_SAFE_NO_PAD.encode_string(filling.nonce(), text),
            Self::Mac(seal) => URL_SAFE_NO_PAD.encode_string(seal.filled(filling), text),
        }
    }
}

impl Seal {
    /// Begins with what is known, after the name of its protocol: no other protocol's challenge is mistaken for it.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn begin(keys: &SealKeys, protocol: &str, known: &[&[u8]], over: Vec<Piece>) -> Self {
        Self { begun: begun(&keys.newest, protocol, known), over }
    }

    /// Whether this is the seal of these parts: what was known, then the pieces as they were written. Takes as long whatever is wrong.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn is_of(keys: &SealKeys, protocol: &str, parts: &[&[u8]], seal: &[u8; 32]) -> bool {
        let is_of = |key: &[u8; 32]| begun(key, protocol, parts).verify_slice(seal).is_ok();
        std::iter::once(&keys.newest).chain(&keys.older).any(is_of)
    }

    fn filled(&self, filling: &Filling<'_>) -> [u8; 32] {
        let mut begun = self.begun.clone();
        for piece in &self.over {
            let mut text = String::new();
            piece.write(filling.url, filling, &mut text);
            update(&mut begun, text.as_bytes());
        }
        begun.finalize().into_bytes().into()
    }
}

/// Where one part ends and the next begins matters.
fn update(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_le_bytes());
    mac.update(part);
}

fn begun(key: &[u8; 32], protocol: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    update(&mut mac, protocol.as_bytes());
    parts.iter().for_each(|part| update(&mut mac, part));
    mac
}

/// What challenges are sealed with: the newest key, and those that nodes which were not given it yet still seal with.
#[derive(Clone)]
pub struct SealKeys {
    newest: [u8; 32],
    older: Vec<[u8; 32]>,
}

impl SealKeys {
    /// Each is 256 bits that nobody else knows.
    #[must_use]
    pub fn new(newest: [u8; 32], older: Vec<[u8; 32]>) -> Self {
        Self { newest, older }
    }
}

impl std::fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealKeys({} versions, redacted)", self.older.len().saturating_add(1))
    }
}

/// Not the key.
impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("over", &self.over).finish_non_exhaustive()
    }
}
