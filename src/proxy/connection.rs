//! A connection to the upstream whose answer is read to its end although the upstream takes no more of the request.
//!
//! A server may answer without reading the request's body, and close. The next byte of that body then meets a closed
//! connection, and the HTTP client would throw away what it has not read yet of an answer that is here in full: callers could
//! break any answer by sending a byte, and one who uploads would lose its end. So what cannot be written is thrown away instead, and
//! the reading side alone says how the answer ends. RFC 9112, section 9.5.
//!
//! What passes is noted with its time ([`Traffic`]), for requests that fail.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::traffic::Traffic;

type Plain = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;
type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Connects as `HttpsConnector` does.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub(super) HttpsConnector<HttpConnector>);

impl Service<Uri> for Connector {
    type Response = TokioIo<AnswerFirst<Plain>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<AnswerFirst<Plain>>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let stream = connecting.await?;
            let is_tls = matches!(stream, MaybeHttpsStream::Https(_));
            let (inner, traffic) = (TokioIo::new(stream), Traffic::new());
            Ok(TokioIo::new(AnswerFirst { inner, is_tls, takes_no_more: false, traffic }))
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct AnswerFirst<T> {
    inner: T,
    /// Then a write that fails may have sent a part of what it was given.
    is_tls: bool,
    takes_no_more: bool,
    traffic: Traffic,
}

impl<T> AnswerFirst<T> {
    /// `done`: what is answered when the peer takes no more.
    fn unless_closed<R>(
        &mut self,
        done: R,
        write: impl FnOnce(&mut T) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if self.takes_no_more {
            return Poll::Ready(Ok(done));
        }
        match write(&mut self.inner) {
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "the upstream takes no more of a request");
                self.takes_no_more = true;
                Poll::Ready(Ok(done))
            }
            written => written,
        }
    }
}

impl<T> AnswerFirst<T> {
    /// What the connection itself takes is noted; what is thrown away is not.
    fn write(
        &mut self,
        all: usize,
        write: impl FnOnce(&mut T) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let (traffic, is_tls) = (self.traffic.clone(), self.is_tls);
        self.unless_closed(all, |inner| {
            let written = write(inner);
            let may_have_gone = match &written {
                Poll::Ready(Ok(taken)) => *taken > 0,
                Poll::Ready(Err(_)) => is_tls,
                Poll::Pending => false,
            };
            if may_have_gone {
                traffic.taken();
            }
            written
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AnswerFirst<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(bytes.len(), |inner| Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().unless_closed((), |inner| Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().unless_closed((), |inner| Pin::new(inner).poll_shutdown(context))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.get_mut().write(all, |inner| Pin::new(inner).poll_write_vectored(context, slices))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AnswerFirst<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.traffic.came();
        }
        read
    }
}

impl<T: Connection> Connection for AnswerFirst<T> {
    fn connected(&self) -> Connected {
        self.inner.connected().extra(self.traffic.clone())
    }
}
