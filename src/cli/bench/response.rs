//! HTTP/1.1 answers as a load test needs them: where one ends, and its status. Bodies are skipped, so memory is bounded.

use std::mem;

use httparse::{Error, Status};

/// The longest head, and the longest trailer section, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most headers; far more than any server sends on purpose.
const MAX_HEADERS: usize = 128;
/// The longest line that announces a chunk, in bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// Whether the connection cannot be used again.
    pub(super) closes: bool,
}

/// What is not an answer in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbage {
    /// No status line.
    #[error("an answer that is not HTTP/1.1")]
    StatusLine,
    /// Not `name: value`.
    #[error("an answer with a header that cannot be read")]
    Header,
    /// No way to know where the body ends, or two.
    #[error("an answer whose length is not clear")]
    Length,
    /// Not a chunk.
    #[error("an answer whose chunks cannot be read")]
    Chunk,
    /// Longer than any sane head.
    #[error("an answer with an endless head")]
    TooLong,
}

#[derive(Debug)]
enum State {
    Head,
    /// So many bytes of the body are left.
    Body(u64),
    /// The line that announces a chunk.
    ChunkLine,
    /// So many bytes of the chunk are left.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// Reads one answer from pieces of any size.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    /// The head or line that is not complete yet.
    text: Vec<u8>,
    answer: Answer,
}

impl Reader {
    /// Waits for the beginning of an answer.
    pub(super) fn new() -> Self {
        Self { state: State::Head, text: Vec::new(), answer: Answer { status: 0, closes: false } }
    }

    /// Takes the next piece. Gives how much of it belongs to this answer, and the answer when it is complete.
    ///
    /// # Errors
    /// [`Garbage`]; the connection is of no more use then.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(usize, Option<Answer>), Garbage> {
        let mut rest = piece;
        loop {
            // An answer without a body is complete although nothing follows.
            if matches!(self.state, State::Done) {
                self.state = State::Head;
                return Ok((piece.len() - rest.len(), Some(self.answer)));
            }
            if rest.is_empty() {
                return Ok((piece.len(), None));
            }
            match self.state {
                State::Head => {
                    if self.take_text(&mut rest, b"\r\n\r\n", MAX_HEAD)? {
                        let head = mem::take(&mut self.text);
                        self.state = self.read_head(&head)?;
                        self.reuse(head);
                    }
                }
                State::Body(left) => {
                    let left = skip(&mut rest, left);
                    self.state = if left == 0 { State::Done } else { State::Body(left) };
                }
                State::ChunkLine => {
                    if self.take_text(&mut rest, b"\r\n", MAX_CHUNK_LINE)? {
                        self.state = match httparse::parse_chunk_size(&self.text) {
                            // A line without a number would count as zero.
                            Ok(Status::Complete((_, 0))) if self.text.starts_with(b"0") => State::Trailers,
                            Ok(Status::Complete((_, length @ 1..))) => State::Chunk(length),
                            _ => return Err(Garbage::Chunk),
                        };
                        self.text.clear();
                    }
                }
                State::Chunk(left) => {
                    let left = skip(&mut rest, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                }
                State::ChunkEnd => {
                    if self.take_text(&mut rest, b"\r\n", 2).map_err(|_| Garbage::Chunk)? {
                        self.text.clear();
                        self.state = State::ChunkLine;
                    }
                }
                State::Trailers => {
                    // Line by line, because without trailers the one line end is the whole section.
                    if self.take_text(&mut rest, b"\r\n", MAX_HEAD)? {
                        let last = self.text == b"\r\n";
                        self.text.clear();
                        self.state = if last { State::Done } else { State::Trailers };
                    }
                }
                State::UntilClose => rest = &[],
                State::Done => {}
            }
        }
    }

    /// Whether the end of the connection ends this answer in order.
    pub(super) fn ends_with_connection(&self) -> Option<Answer> {
        matches!(self.state, State::UntilClose).then_some(self.answer)
    }

    /// Whether nothing of an answer has come yet.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.text.is_empty()
    }

    /// Collects up to the end mark, which is kept. `true` when it is there.
    fn take_text(&mut self, rest: &mut &[u8], end: &[u8], most: usize) -> Result<bool, Garbage> {
        // The mark may begin in what came before.
        let from = self.text.len().saturating_sub(end.len() - 1);
        let before = self.text.len();
        let room = (most - before.min(most)).min(rest.len());
        self.text.extend_from_slice(&rest[..room]);
        let found = self.text[from..].windows(end.len()).position(|window| window == end);
        match found {
            Some(at) => {
                let length = from + at + end.len();
                self.text.truncate(length);
                *rest = &rest[length - before..];
                Ok(true)
            }
            None if self.text.len() >= most => Err(Garbage::TooLong),
            None => {
                *rest = &rest[room..];
                Ok(false)
            }
        }
    }

    /// Keeps the memory of a head that was read.
    fn reuse(&mut self, mut text: Vec<u8>) {
        text.clear();
        self.text = text;
    }

    fn read_head(&mut self, head: &[u8]) -> Result<State, Garbage> {
        // Looked at here, because empty lines before it would be passed over.
        if !head.starts_with(b"HTTP/1.1 ") {
            return Err(Garbage::StatusLine);
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(head) {
            Ok(Status::Complete(end)) if end == head.len() => {}
            Err(Error::Status) => return Err(Garbage::StatusLine),
            Err(Error::TooManyHeaders) => return Err(Garbage::TooLong),
            _ => return Err(Garbage::Header),
        }
        let status = response.code.unwrap_or_default();
        let mut length = None;
        let (mut chunked, mut closes) = (false, false);
        for header in response.headers {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("content-length") {
                let announced = decimal(value).ok_or(Garbage::Length)?;
                if length.replace(announced).is_some_and(|before| before != announced) {
                    return Err(Garbage::Length);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Garbage::Length);
                }
                chunked = true;
            } else if name.eq_ignore_ascii_case("connection") {
                let mut options = value.split(|byte| *byte == b',');
                closes |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        match status {
            // Nobody asked for another protocol.
            101 => return Err(Garbage::StatusLine),
            // Not the answer yet.
            100..200 => return Ok(State::Head),
            200..600 => self.answer = Answer { status, closes },
            _ => return Err(Garbage::StatusLine),
        }
        if matches!(status, 204 | 304) {
            return Ok(State::Done);
        }
        match (chunked, length) {
            (true, Some(_)) => Err(Garbage::Length),
            (true, None) => Ok(State::ChunkLine),
            (false, Some(0)) => Ok(State::Done),
            (false, Some(length)) => Ok(State::Body(length)),
            (false, None) => {
                self.answer.closes = true;
                Ok(State::UntilClose)
            }
        }
    }
}

/// Passes over up to `left` bytes; what is left then.
fn skip(rest: &mut &[u8], left: u64) -> u64 {
    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    *rest = &rest[skipped..];
    left.saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX))
}

/// A whole number of plain digits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statuses of all answers in pieces of this size; the last one may end with the connection.
    fn read(text: &[u8], size: usize) -> Result<Vec<(u16, bool)>, Garbage> {
        let mut reader = Reader::new();
        let mut answers = Vec::new();
        for piece in text.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (taken, answer) = reader.push(rest)?;
                answers.extend(answer.map(|answer| (answer.status, answer.closes)));
                rest = &rest[taken..];
            }
        }
        answers.extend(reader.ends_with_connection().map(|answer| (answer.status, answer.closes)));
        Ok(answers)
    }

    /// The same, which must not depend on how the text is cut.
    fn read_all_ways(text: &[u8]) -> Result<Vec<(u16, bool)>, Garbage> {
        let whole = read(text, text.len());
        for size in 1..text.len() {
            assert_eq!(read(text, size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn answers_end_where_they_say() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 402 Payment Required\r\n\
                     content-length:  2 \r\nConnection: keep-alive\r\n\r\n{}HTTP/1.1 204\r\n\r\nHTTP/1.1 304 \r\n\
                     content-length: 9\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n";
        let expected = vec![(200, false), (402, false), (204, false), (304, false), (200, true)];
        assert_eq!(read_all_ways(text), Ok(expected));
    }

    #[test]
    fn chunked_answers_end_with_their_trailers() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;note=x\r\nhello\r\n0A\r\n0123\r\n6789\r\n0\r\n\r\n\
                     HTTP/1.1 500 Oops\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nsum: 1\r\nend: 2\r\n\r\n";
        assert_eq!(read_all_ways(text), Ok(vec![(200, false), (500, false)]));
    }

    #[test]
    fn early_hints_are_not_the_answer() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\nx";
        assert_eq!(read_all_ways(text), Ok(vec![(201, false)]));
    }

    #[test]
    fn without_a_length_the_connection_ends_the_answer() {
        let text = b"HTTP/1.1 200 OK\r\nserver: old\r\n\r\nuntil the end\r\n\r\n";
        assert_eq!(read_all_ways(text), Ok(vec![(200, true)]));
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        for text in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        ] {
            assert_eq!(read_all_ways(text), Ok(Vec::new()), "{:?}", String::from_utf8_lossy(text));
        }
        assert!(Reader::new().is_untouched());
    }

    #[test]
    fn garbage_is_told_apart() {
        for (text, expected) in [
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.0 200 OK\r\n\r\n", Garbage::StatusLine),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.1 200 OK\n\nx: y\r\n\r\n", Garbage::Header),
            ("HTTP/1.1 2000 OK\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.1 20\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.1 101 Switching\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.1 999 ?\r\n\r\n", Garbage::StatusLine),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Garbage::Header),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Garbage::Length),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", Garbage::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", Garbage::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n", Garbage::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n;x\r\n", Garbage::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", Garbage::Chunk),
        ] {
            assert_eq!(read_all_ways(text.as_bytes()), Err(expected), "{text:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD));
        assert_eq!(read(endless.as_bytes(), 1 << 20), Err(Garbage::TooLong));
        assert_eq!(read(endless.as_bytes(), 777), Err(Garbage::TooLong));
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", 9).map(|_| ()),
            Ok(()),
            "not long yet"
        );
    }
}
