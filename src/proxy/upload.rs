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
use tokio::sync::{mpsc, watch};

use super::pace::Sending;

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
}

/// What a caller may take for its body, at every door: so many bytes, and so much time in which it is waited for. What others take
/// is not counted.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes: u64,
    time: Duration,
}

impl Allowance {
    pub(crate) fn new(bytes: u64, time: Duration) -> Self {
        Self { bytes, time }
    }

    /// How long the caller may be waited for from now on.
    pub(crate) fn patience(&self) -> Duration {
        self.time
    }

    /// The caller was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.time = self.time.saturating_sub(time);
    }

    /// A piece has come.
    ///
    /// # Errors
    /// It is too much.
    pub(crate) fn came(&mut self, bytes: usize) -> Result<(), UploadFault> {
        let left = u64::try_from(bytes).ok().and_then(|bytes| self.bytes.checked_sub(bytes));
        self.bytes = left.ok_or(UploadFault::TooLarge)?;
        Ok(())
    }
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
}

/// The caller's body did not arrive whole.
#[derive(Debug, thiserror::Error)]
#[error("the caller's body was cut off")]
pub struct UploadCut;

impl UploadBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { whole: None, pieces: None, length: Some(0) }
    }

    /// A body that is here already.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self { whole: Some(bytes).filter(|bytes| !bytes.is_empty()), pieces: None, length }
    }
}

/// Reads the caller's body whole, within bounds.
///
/// # Errors
/// [`UploadFault`].
pub async fn read_whole(
    mut payload: Payload,
    max_bytes: u64,
    max_time: Duration,
) -> Result<Bytes, UploadFault> {
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(piece) = payload.next().await {
            bytes.extend_from_slice(&piece.map_err(|_| UploadFault::Broken)?);
            if bytes.len() as u64 > max_bytes {
                return Err(UploadFault::TooLarge);
            }
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(max_time, reading).await.unwrap_or(Err(UploadFault::TooSlow))
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
#[must_use]
pub fn stream(
    mut payload: Payload,
    length: Option<u64>,
    max_bytes: u64,
    max_time: Duration,
) -> (UploadBody, UploadReport) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (sending, watched) = watch::channel(());
    let progress = Arc::<UploadProgress>::default();
    let report =
        UploadReport { running: Some(Running { progress: Arc::clone(&progress), sending: watched }) };
    actix_web::rt::spawn(async move {
        let deadline = tokio::time::Instant::now() + max_time;
        let mut allowance = Allowance::new(max_bytes, max_time);
        let fault = loop {
            progress.waiting();
            let begun = tokio::time::Instant::now();
            let next = tokio::time::timeout(allowance.patience(), payload.next()).await;
            allowance.waited(begun.elapsed());
            match next {
                Err(_) => break Some(UploadFault::TooSlow),
                Ok(Some(Err(_))) => break Some(UploadFault::Broken),
                Ok(Some(Ok(data))) => {
                    progress.received(data.len());
                    if let Err(fault) = allowance.came(data.len()) {
                        break Some(fault);
                    }
                    let Some(is_taken) = pass_on(&sender, data, deadline, &progress).await else {
                        break None;
                    };
                    if !is_taken {
                        // The upstream wants no more: the rest is read away, within the same bounds, so that the
                        // caller is not stuck writing while its answer waits.
                        progress.waiting();
                        let deadline = tokio::time::Instant::now() + allowance.patience();
                        drain(&mut payload, deadline, allowance).await;
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
    (UploadBody { whole: None, pieces: Some(receiver), length }, report)
}

/// Whether the upstream took it. `None`: it neither reads nor answers in time, and must not hold the upload for ever. One that
/// answers already takes what it wants when it wants; ending the upload would break its answer.
async fn pass_on(
    sender: &mpsc::Sender<Piece>,
    data: Bytes,
    deadline: tokio::time::Instant,
    progress: &UploadProgress,
) -> Option<bool> {
    let mut sending = std::pin::pin!(sender.send(Piece::Data(data)));
    match tokio::time::timeout_at(deadline, &mut sending).await {
        Ok(sent) => Some(sent.is_ok()),
        Err(_) if progress.is_answered.load(Ordering::Acquire) => Some(sending.await.is_ok()),
        Err(_) => None,
    }
}

async fn drain(payload: &mut Payload, deadline: tokio::time::Instant, mut allowance: Allowance) {
    while let Ok(Some(Ok(data))) = tokio::time::timeout_at(deadline, payload.next()).await {
        if allowance.came(data.len()).is_err() {
            return;
        }
    }
}
