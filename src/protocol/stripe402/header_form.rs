//! The offer as it fits into a header.
//!
//! Proxies read the whole head of an answer into one buffer, of 4 KiB where nobody has said otherwise (nginx), and answer 502 when
//! it is larger. An offer that fits is the same in the header and in the body. One that does not fit loses in the header what is
//! not needed to pay; the body has all of it.

use super::{PaymentRequired, WayToPay};

/// Most bytes of an offer as JSON in a header. Base64 makes 2 KiB of them, which leaves as much again for a `payment-response` and
/// everything else in the head.
pub const MAX_OFFER_BYTES: usize = 1536;
/// Most bytes of the URL in a header that is short of room.
const MAX_URL_BYTES: usize = 300;
/// Most bytes of the description in a header that is short of room, as JSON.
const MAX_DESCRIPTION_BYTES: usize = 120;
/// A request's number, which is not known yet when an offer is prepared.
const REQUEST_ID_BYTES: usize = 40;

impl PaymentRequired<WayToPay> {
    /// What a header holds instead of this, when this does not fit: the description once and cut, no sentence, no labels, and of
    /// the top-up options as many as there is room for, the smallest first. It does not depend on the URL or the request's number.
    #[must_use]
    pub fn shortened(&self) -> Self {
        let mut short = self.clone();
        short.message.clear();
        for option in &mut short.top_up_options {
            option.label.clear();
        }
        // Clients show people the one of the first way to pay.
        for way in &mut short.accepts {
            if let WayToPay::Stripe(requirement) = way {
                requirement.description =
                    requirement.description.take().map(|text| cut(&text, MAX_DESCRIPTION_BYTES));
            }
        }
        short.resource.description = match short.accepts.is_empty() {
            true => short.resource.description.map(|text| cut(&text, MAX_DESCRIPTION_BYTES)),
            false => None,
        };
        let mut bytes = short.bytes_at_most();
        if bytes > MAX_OFFER_BYTES {
            short.resource.mime_type = None;
            bytes = short.bytes_at_most();
        }
        while bytes > MAX_OFFER_BYTES && short.top_up_options.len() > 1 {
            // With the comma before it.
            let dropped = short.top_up_options.pop().map_or(0, |option| json_bytes(&option) + 1);
            bytes = bytes.saturating_sub(dropped);
        }
        short
    }

    fn bytes_at_most(&self) -> usize {
        let known = json_bytes(&self.resource.url) + json_bytes(&self.request_id);
        json_bytes(self).saturating_sub(known) + MAX_URL_BYTES + REQUEST_ID_BYTES
    }
}

/// The URL for a header that is short of room: of one that is too long only the origin.
#[must_use]
pub fn shorter_url(url: &str) -> &str {
    if json_bytes(url) <= MAX_URL_BYTES {
        return url;
    }
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| host + at + 1);
    url.get(..end).unwrap_or_default()
}

fn json_bytes<T: serde::Serialize + ?Sized>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

/// The beginning of a text, with a mark that it goes on. Counted as JSON, where some characters take six bytes.
fn cut(text: &str, most: usize) -> String {
    const MORE: char = '…';
    if json_bytes(text) <= most {
        return text.to_owned();
    }
    let mut left = most.saturating_sub(2 + MORE.len_utf8());
    let fits = |c: &char| {
        let bytes = json_bytes(c).saturating_sub(2);
        let is_fit = bytes <= left;
        left = left.saturating_sub(bytes);
        is_fit
    };
    text.chars().take_while(fits).chain([MORE]).collect()
}
