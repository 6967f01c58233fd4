//! One spelling for every request path, so that the path that is priced is the path that the upstream gets.
//!
//! RFC 3986, section 6.2.2: escapes of unreserved characters are decoded, the others are written in upper case. What servers
//! disagree about (dot segments, empty segments, encoded delimiters, `;`, `\`, a second layer of encoding) is refused, never
//! repaired.

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
    /// An escape of a character that servers treat differently: `/`, `\`, `;`, `%`, `?`, `#` or a control character.
    #[error("The request path has a percent escape of a character that may not be encoded in a path.")]
    AmbiguousEscape,
    /// Escapes that are not UTF-8, overlong forms included.
    #[error("The request path has percent escapes that are not UTF-8.")]
    NotUtf8,
    /// A character that may not stand in a path unencoded.
    #[error("The request path has a character that is not allowed there.")]
    ForbiddenCharacter,
    /// `//`.
    #[error("The request path has an empty segment.")]
    EmptySegment,
    /// `.` or `..`, encoded or not.
    #[error("The request path has a '.' or '..' segment.")]
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
    let mut has_escapes = false;
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
            has_escapes = true;
            written.push('%');
            written.push(char::from(high.to_ascii_uppercase()));
            written.push(char::from(low.to_ascii_uppercase()));
        }
    }
    if has_escapes {
        let decoded = String::from_utf8(decoded_bytes(&written)).map_err(|_| PathError::NotUtf8)?;
        // The controls beyond ASCII, U+0080 to U+009F.
        if decoded.chars().any(char::is_control) {
            return Err(PathError::AmbiguousEscape);
        }
    }
    check_segments(&written)?;
    Ok(CanonicalPath(written))
}

/// The path as the most lenient upstream would understand it: fully decoded, without case and without a trailing slash.
/// Case is folded by upper- and then lower-casing every character, so that `ſ` is `s` and the Kelvin sign is `k`.
#[must_use]
pub fn folded(path: &CanonicalPath) -> String {
    fold(path.as_str())
}

/// [`folded`] for a text that is known to be canonical.
pub(super) fn fold(canonical: &str) -> String {
    let decoded = decoded_bytes(canonical.strip_suffix('/').unwrap_or(canonical));
    let text = String::from_utf8_lossy(&decoded);
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Only the last segment may be empty: that is a trailing slash.
fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Err(PathError::EmptySegment),
            "." | ".." => return Err(PathError::DotSegment),
            _ => {}
        }
    }
    Ok(())
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

/// What an upstream that decodes early or twice would act upon. `?` and `#` end the path for such a server.
fn is_ambiguous(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b';' | b'%' | b'?' | b'#')
}

#[cfg(test)]
mod tests;
