//! One spelling for every request path, so that the path that is priced is the path that the upstream gets.
//!
//! RFC 3986, section 6.2.2: escapes of unreserved characters are decoded, the others are written in upper case. What servers
//! disagree about (dot segments, empty segments, encoded separators, `;`, `\`, a second layer of encoding) is refused, never
//! repaired. An encoded `?` or `#` is kept, because searches need it; an upstream that decodes it early sees a shorter path,
//! which the route table guards.

mod best_fit;
mod fold;

pub use fold::folded;
pub(super) use fold::{fold, split_afterwards};

/// Most bytes of a request path.
pub const MAX_PATH_BYTES: usize = 4096;

/// A path in its only spelling. Starts with `/`; a trailing slash is significant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath(String);

impl CanonicalPath {
    /// The path, for matching and for the upstream.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a path is refused. Never repeats the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Such as `*`, or a whole URL.
    #[error("The request path does not start with '/'.")]
    NotAbsolute,
    /// More than [`MAX_PATH_BYTES`].
    #[error("The request path is longer than 4096 bytes.")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("The request path has an invalid percent escape.")]
    InvalidEscape,
    /// An escape of a character that servers treat differently: `/`, `\`, `;` or a control character.
    #[error("The request path has a percent escape of a character that may not be encoded in a path.")]
    AmbiguousEscape,
    /// `%25` before two hexadecimal digits, such as `%2541`, or before `u`: who decodes twice sees another path.
    #[error("The request path is percent-encoded twice.")]
    DoubleEscape,
    /// Escapes that are not UTF-8, overlong forms included.
    #[error("The request path has percent escapes that are not UTF-8.")]
    NotUtf8,
    /// A character that may not stand in a path unencoded.
    #[error("The request path has a character that is not allowed there.")]
    ForbiddenCharacter,
    /// `//`.
    #[error("The request path has an empty segment.")]
    EmptySegment,
    /// `.` or `..`, encoded or not, or any other segment of only dots, blanks, `+` and characters that are not seen.
    #[error("The request path has a segment of only dots, blanks, '+' or characters that are not seen.")]
    DotSegment,
}

/// Brings the path of a request (without `?` and query) into its only spelling.
///
/// # Errors
/// [`PathError`] when it has none that every server would understand the same way.
pub fn canonicalise(raw_path: &str) -> Result<CanonicalPath, PathError> {
    if raw_path.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    if !raw_path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut written = String::with_capacity(raw_path.len());
    let mut rest = raw_path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            if !is_allowed_raw(*first) {
                return Err(PathError::ForbiddenCharacter);
            }
            written.push(char::from(*first));
            continue;
        }
        let [high, low, after @ ..] = rest else {
            return Err(PathError::InvalidEscape);
        };
        rest = after;
        let byte = escaped_byte(*high, *low).ok_or(PathError::InvalidEscape)?;
        if is_ambiguous(byte) {
            return Err(PathError::AmbiguousEscape);
        }
        if is_unreserved(byte) {
            written.push(char::from(byte));
        } else {
            written.push('%');
            written.push(char::from(high.to_ascii_uppercase()));
            written.push(char::from(low.to_ascii_uppercase()));
        }
    }
    let decoded = String::from_utf8(decoded_bytes(&written)).map_err(|_| PathError::NotUtf8)?;
    // The controls beyond ASCII, U+0080 to U+009F.
    if decoded.chars().any(char::is_control) {
        return Err(PathError::AmbiguousEscape);
    }
    if is_escaped_twice(&decoded) {
        return Err(PathError::DoubleEscape);
    }
    check_segments(&decoded)?;
    fold::check(&decoded)?;
    Ok(CanonicalPath(written))
}

/// What some file systems and frameworks cut off the end of a name; a form decoder reads `+` as a blank.
pub(super) fn is_dot_or_blank(c: char) -> bool {
    c == '.' || c == '+' || c.is_whitespace()
}

/// Checks the segments of a decoded path. Only the last may be empty: that is a trailing slash. Others have a character that
/// [`fold()`] does not cut off, so that `/..%20/x` does not become `/../x` further on.
fn check_segments(decoded: &str) -> Result<(), PathError> {
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathError::EmptySegment);
            }
        } else if segment.chars().all(is_dot_or_blank) || is_dots_before_query(segment) {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// Whether the segment would be one of dots only if its `?` or `#` were not encoded.
fn is_dots_before_query(segment: &str) -> bool {
    let before = segment.split(['?', '#']).next().unwrap_or_default();
    !before.is_empty() && before.chars().all(is_dot_or_blank)
}

/// Whether decoding once more would find an escape; `%u` is the form of some Windows servers.
fn is_escaped_twice(decoded: &str) -> bool {
    decoded.split('%').skip(1).any(|after| match after.as_bytes() {
        [high, low, ..] => {
            escaped_byte(*high, *low).is_some() || (high | 0x20 == b'u' && low.is_ascii_hexdigit())
        }
        _ => false,
    })
}

/// Decodes every escape of a text whose escapes are valid; others stay as they are.
fn decoded_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return bytes,
            [b'%', high, low, after @ ..] if escaped_byte(*high, *low).is_some() => {
                bytes.extend(escaped_byte(*high, *low));
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
}

fn escaped_byte(high: u8, low: u8) -> Option<u8> {
    let high = char::from(high).to_digit(16)?;
    let low = char::from(low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986, section 3.3, and `/`; without `;`, after which some servers cut the segment off.
fn is_allowed_raw(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

/// What an upstream that decodes early would act upon.
fn is_ambiguous(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b';')
}

#[cfg(test)]
mod tests;
