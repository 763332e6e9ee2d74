//! TLS on accepted connections. The first read or write does the handshake, in the connection's own task: the
//! accept loop waits for nobody, and the listener's bounds (`http/listener.rs`) hold from the first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// Another acceptor, with TLS around the connections that it accepts.
pub struct Secured<A> {
    inner: A,
    tls: TlsAcceptor,
}

impl<A> Secured<A> {
    /// Puts TLS around an acceptor.
    pub fn new(inner: A, config: Arc<ServerConfig>) -> Self {
        Self { inner, tls: config.into() }
    }
}

impl<A: Acceptor> Acceptor for Secured<A> {
    type Io = SecuredStream<A::Io>;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.inner.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (io, local, remote, _) = self.inner.accept().await?;
        Ok((SecuredStream::Handshake(self.tls.accept(io)), local, remote, Scheme::HTTPS))
    }
}

/// A connection before, in and after its handshake.
pub enum SecuredStream<I> {
    /// Under way; driven by reads and writes.
    Handshake(Accept<I>),
    /// Done.
    Open(TlsStream<I>),
    /// The handshake failed, and the peer was told by an alert.
    Failed,
}

impl<I: AsyncRead + AsyncWrite + Unpin> SecuredStream<I> {
    fn open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<I>>>> {
        if let Self::Handshake(handshake) = self {
            *self = match ready!(Pin::new(handshake).poll(context)) {
                Ok(stream) => Self::Open(stream),
                Err(error) => {
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(match self {
            Self::Open(stream) => Ok(Pin::new(stream)),
            Self::Handshake(_) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for SecuredStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.open(context))?.poll_read(context, into)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SecuredStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.open(context))?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.open(context))?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream) => Pin::new(stream).poll_flush(context),
            // Nothing was written yet.
            Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(context),
            // There is nothing to say goodbye with; dropping closes.
            Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }
}
