//! The caller's body on its way to the upstream: streamed, bounded in size and time, never ended cleanly when it was cut.
//! [`UploadReport`] tells how it is getting on, also when the answer breaks off: an upstream that gives up because the caller
//! does not send what it has announced has not broken anything.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot, watch};

use super::pace::{Patience, Sending};
use crate::crowd::Place;

/// Pieces between the caller and the upstream; more make the caller wait.
const PIECES: usize = 4;

/// Why a caller's body did not reach the upstream whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFault {
    /// Larger than allowed.
    TooLarge,
    /// Slower than allowed.
    TooSlow,
    /// Cut off, or malformed.
    Broken,
    /// No room for it in memory at this moment.
    NoRoom,
}

/// What happens to the body, readable by whoever waits for the upstream or passes its answer on.
#[derive(Debug, Clone, Default)]
pub struct UploadReport {
    /// `None`: there is nothing to upload, or all of it was here before.
    running: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    progress: Arc<UploadProgress>,
    /// Closed when nothing more is sent to the upstream.
    sending: watch::Receiver<()>,
}

/// How far the caller is with sending.
#[derive(Debug, Default)]
pub struct UploadProgress {
    fault: OnceLock<UploadFault>,
    has_arrived: AtomicBool,
    /// The upstream answers already.
    is_answered: AtomicBool,
    pace: Mutex<Sending>,
}

impl UploadProgress {
    /// From now on the caller is waited for.
    pub(crate) fn waiting(&self) {
        self.pace().waiting();
    }

    /// So much came from the caller.
    pub(crate) fn received(&self, bytes: usize) {
        self.pace().received(bytes);
    }

    /// Nobody wants the rest any more.
    pub(crate) fn not_wanted(&self) {
        self.pace().not_wanted();
    }

    fn pace(&self) -> MutexGuard<'_, Sending> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it came.
    pub(crate) fn arrived(&self) {
        self.has_arrived.store(true, Ordering::Release);
    }

    /// Why it does not come whole.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        self.fault.get().copied()
    }

    /// It will not come whole.
    pub(crate) fn failed(&self, fault: UploadFault) {
        let _ = self.fault.set(fault);
    }

    /// Whether an answer that breaks off now does so because of the caller: the body was cut, or the caller keeps everybody
    /// waiting for it. `is_safe`: a GET or HEAD, of which nobody waits for a body; one that is announced and does not come is
    /// there to break something.
    #[must_use]
    pub fn is_callers_fault(&self, is_safe: bool) -> bool {
        let is_owed = !self.has_arrived.load(Ordering::Acquire);
        self.fault.get().is_some() || (is_owed && (is_safe || self.pace().is_slow()))
    }
}

impl UploadReport {
    /// The fault, if there was one.
    #[must_use]
    pub fn fault(&self) -> Option<UploadFault> {
        self.running.as_ref()?.progress.fault()
    }

    /// See [`UploadProgress::is_callers_fault`].
    #[must_use]
    pub fn is_callers_fault(&self, is_safe: bool) -> bool {
        self.running.as_ref().is_some_and(|running| running.progress.is_callers_fault(is_safe))
    }

    /// The head of the answer is here: from now on it is the answer that ends the upload, and no time.
    pub(super) fn answered(&self) {
        if let Some(running) = &self.running {
            running.progress.is_answered.store(true, Ordering::Release);
        }
    }

    /// Waits until nothing more is sent to the upstream: all of it was, or it was cut.
    pub async fn sent(&self) {
        let Some(running) = &self.running else { return };
        let mut sending = running.sending.clone();
        while sending.changed().await.is_ok() {}
    }
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// The upstream's side of the body.
#[derive(Debug)]
pub struct UploadBody {
    /// Here already.
    whole: Option<Bytes>,
    pieces: Option<mpsc::Receiver<Piece>>,
    length: Option<u64>,
    /// Told when the upstream asks for the first piece.
    wanted: Option<oneshot::Sender<()>>,
}

/// The caller's body did not arrive whole.
#[derive(Debug, thiserror::Error)]
#[error("the caller's body was cut off")]
pub struct UploadCut;

impl UploadBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { whole: None, pieces: None, length: Some(0), wanted: None }
    }

    /// A body that is here already.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        let whole = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { whole, pieces: None, length, wanted: None }
    }

    /// The same once more. `None`: it is still to come.
    pub(super) fn copy(&self) -> Option<Self> {
        let (whole, length) = (self.whole.clone(), self.length);
        self.pieces.is_none().then_some(Self { whole, pieces: None, length, wanted: None })
    }
}

/// Reads the caller's body whole, within bounds. `room`: where the bytes that are here are counted.
///
/// # Errors
/// [`UploadFault`].
pub(crate) async fn read_whole(
    mut payload: Payload,
    max_bytes: u64,
    mut patience: Patience,
    room: &mut Place,
) -> Result<Bytes, UploadFault> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = next(&mut payload, &mut patience).await? {
        if (bytes.len() as u64).saturating_add(piece.len() as u64) > max_bytes {
            return Err(UploadFault::TooLarge);
        }
        if !room.more(u32::try_from(piece.len()).unwrap_or(u32::MAX)) {
            return Err(UploadFault::NoRoom);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The next piece, as long as the caller may take for it. `None`: that was all.
async fn next(payload: &mut Payload, patience: &mut Patience) -> Result<Option<Bytes>, UploadFault> {
    let begun = tokio::time::Instant::now();
    let next = tokio::time::timeout(patience.left(), payload.next()).await;
    patience.waited(begun.elapsed());
    let piece = next.map_err(|_| UploadFault::TooSlow)?.transpose().map_err(|_| UploadFault::Broken)?;
    patience.received(piece.as_ref().map_or(0, Bytes::len));
    Ok(piece)
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = UploadCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadCut>>> {
        if let Some(bytes) = self.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(wanted) = self.wanted.take() {
            let _ = wanted.send(());
        }
        let Some(pieces) = &mut self.pieces else {
            return Poll::Ready(None);
        };
        match pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Piece::Data(data))) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(Some(Piece::End)) => {
                self.pieces = None;
                Poll::Ready(None)
            }
            // The sender has gone without saying that this was all: an error, so that the upstream sees a cut.
            Poll::Ready(None) => {
                self.pieces = None;
                Poll::Ready(Some(Err(UploadCut)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.length, self.is_end_stream()) {
            (Some(length), false) => SizeHint::with_exact(length),
            (_, true) => SizeHint::with_exact(0),
            (None, false) => SizeHint::default(),
        }
    }
}

/// Starts passing the caller's body on. The task ends with the body, with a fault, or when the upstream has hung up.
/// `patience`: how far behind the caller may be, and how long the upstream may take for one piece before it answers.
/// `when_wanted`: a caller who asks before sending is not listened to before the upstream wants the body.
#[must_use]
pub fn stream(
    mut payload: Payload,
    length: Option<u64>,
    max_bytes: u64,
    patience: Duration,
    when_wanted: bool,
) -> (UploadBody, UploadReport) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (wanted, is_wanted) = oneshot::channel();
    let (sending, watched) = watch::channel(());
    let progress = Arc::<UploadProgress>::default();
    let report =
        UploadReport { running: Some(Running { progress: Arc::clone(&progress), sending: watched }) };
    actix_web::rt::spawn(async move {
        if when_wanted && is_wanted.await.is_err() {
            return;
        }
        // Only the caller's time: the upstream's own is not counted.
        let mut callers = Patience::steady(patience);
        let mut seen = 0u64;
        let fault = loop {
            progress.waiting();
            match next(&mut payload, &mut callers).await {
                Err(fault) => break Some(fault),
                Ok(Some(data)) => {
                    progress.received(data.len());
                    seen = seen.saturating_add(data.len() as u64);
                    if seen > max_bytes {
                        break Some(UploadFault::TooLarge);
                    }
                    let Some(is_taken) = pass_on(&sender, data, patience, &progress).await else {
                        break None;
                    };
                    if !is_taken {
                        // The upstream wants no more: the rest is read away, within the same bounds, so that the
                        // caller is not stuck writing while its answer waits.
                        progress.waiting();
                        drain(&mut payload, callers, max_bytes.saturating_sub(seen)).await;
                        break None;
                    }
                }
                Ok(None) => {
                    progress.arrived();
                    let _ = sender.send(Piece::End).await;
                    break None;
                }
            }
        };
        if let Some(fault) = fault {
            progress.failed(fault);
        }
        drop((sending, sender));
    });
    (UploadBody { whole: None, pieces: Some(receiver), length, wanted: Some(wanted) }, report)
}

/// Whether the upstream took it. `None`: it neither reads nor answers in time, and must not hold the upload for ever. One that
/// answers already takes what it wants when it wants; ending the upload would break its answer.
async fn pass_on(
    sender: &mpsc::Sender<Piece>,
    data: Bytes,
    patience: Duration,
    progress: &UploadProgress,
) -> Option<bool> {
    let mut sending = std::pin::pin!(sender.send(Piece::Data(data)));
    match tokio::time::timeout(patience, &mut sending).await {
        Ok(sent) => Some(sent.is_ok()),
        Err(_) if progress.is_answered.load(Ordering::Acquire) => Some(sending.await.is_ok()),
        Err(_) => None,
    }
}

async fn drain(payload: &mut Payload, mut patience: Patience, mut left: u64) {
    while let Ok(Some(data)) = next(payload, &mut patience).await {
        match left.checked_sub(data.len() as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
