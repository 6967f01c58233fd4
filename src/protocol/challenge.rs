//! A 402 in parts, for a carrier to write.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::template::{Filling, Template};

/// What protocols say in a 402. Those of several are joined.
#[derive(Debug, Clone, Default)]
pub struct Challenge {
    /// Header lines; two protocols may have lines of one name.
    pub lines: Vec<Line>,
    /// The envelope, which is also the body.
    pub envelope: Option<Envelope>,
}

/// A header line.
#[derive(Debug, Clone)]
pub struct Line {
    /// In lower case.
    pub name: &'static str,
    /// Its value.
    pub value: Template,
}

/// JSON that is both the body and, as base64, a header.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The header, in lower case.
    pub name: &'static str,
    /// All of it.
    pub whole: Template,
    /// For the header, where all of it does not fit.
    pub short: Template,
    /// Most bytes of JSON in the header.
    pub max_bytes: usize,
    /// The URL for a header that is short of room.
    pub shorter_url: fn(&str) -> &str,
}

/// A challenge as one answer has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Header lines.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: String,
}

impl Challenge {
    /// Adds another protocol's. Of envelopes the first stays: what others add to one is in it already.
    pub(super) fn join(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.envelope = self.envelope.take().or(other.envelope);
    }

    /// For one request.
    #[must_use]
    pub fn filled(&self, filling: &Filling<'_>) -> Written {
        let mut headers = Vec::with_capacity(self.lines.len() + 1);
        let mut body = String::new();
        if let Some(envelope) = &self.envelope {
            body = envelope.whole.filled(filling);
            let header = if body.len() <= envelope.max_bytes {
                STANDARD.encode(&body)
            } else {
                let url = (envelope.shorter_url)(filling.url());
                STANDARD.encode(envelope.short.filled_at(url, filling))
            };
            headers.push((envelope.name, header));
        }
        headers.extend(self.lines.iter().map(|line| (line.name, line.value.filled(filling))));
        Written { headers, body }
    }

    /// Whether its envelope fits into a header whole.
    #[must_use]
    pub fn fits(&self, filling: &Filling<'_>) -> bool {
        self.envelope
            .as_ref()
            .is_none_or(|envelope| envelope.whole.filled(filling).len() <= envelope.max_bytes)
    }
}
