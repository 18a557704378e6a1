//! The loops that accept connections of the control socket and of the metrics listener.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::backend::Backend;
use super::http::{MAX_CONNECTIONS, Reply, serve_connection};
use super::peer::Peer;
use super::routes;
use super::socket::ControlSocket;

/// How long the backend may take for one answer.
pub const ANSWER_TIME_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait after accepting failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the control socket until `shutdown` completes; open connections are then cut.
pub async fn serve<B: Backend>(
    socket: &ControlSocket,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()>,
) {
    let handler = move |peer: Peer, request: Request<Incoming>| {
        routes::control(backend.clone(), peer, request)
    };
    accept_loop(&socket.listener, Arc::new(handler), shutdown).await;
}

/// Serves `GET /metrics` on a TCP listener until `shutdown` completes.
pub async fn serve_metrics<B: Backend>(
    listener: &TcpListener,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()>,
) {
    let handler =
        move |(), request: Request<Incoming>| routes::metrics_only(backend.clone(), request);
    accept_loop(listener, Arc::new(handler), shutdown).await;
}

/// Serves one connection of the control socket until it closes, however it was made.
///
/// # Errors
/// The kernel does not say who is at the other end.
pub async fn serve_stream<B: Backend>(
    stream: UnixStream,
    permit: OwnedSemaphorePermit,
    backend: Arc<B>,
) -> io::Result<()> {
    let peer = Peer::of(&stream)?;
    let handler = move |request: Request<Incoming>| routes::control(backend.clone(), peer, request);
    serve_connection(stream, permit, Arc::new(handler)).await;
    Ok(())
}

/// What connections come from.
trait Accept: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Who is at the other end, as far as the kernel says.
    type Peer: Copy + Send + Sync + 'static;

    fn accepted(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    type Peer = Peer;

    async fn accepted(&self) -> io::Result<(UnixStream, Peer)> {
        let stream = self.accept().await?.0;
        let peer = Peer::of(&stream)?;
        Ok((stream, peer))
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = ();

    async fn accepted(&self) -> io::Result<(TcpStream, ())> {
        Ok((self.accept().await?.0, ()))
    }
}

async fn accept_loop<A, H, F>(listener: &A, handler: Arc<H>, shutdown: impl Future<Output = ()>)
where
    A: Accept,
    H: Fn(A::Peer, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let next = async {
            let permit = slots.clone().acquire_owned().await;
            (permit, listener.accepted().await)
        };
        tokio::select! {
            () = &mut shutdown => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a control connection failed; others go on");
                }
            }
            (permit, stream) = next => match (permit, stream) {
                (Ok(permit), Ok((stream, peer))) => {
                    let handler = handler.clone();
                    let answer = Arc::new(move |request| handler(peer, request));
                    connections.spawn(serve_connection(stream, permit, answer));
                }
                (Err(_), _) => return,
                (Ok(_), Err(error)) => {
                    tracing::warn!(%error, "connection not accepted; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
