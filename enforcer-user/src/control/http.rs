//! One HTTP/1 connection with a bound on everything: connections, headers, bodies, time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::backend::BackendError;
use super::protocol::ErrorReport;

/// Connections served at once; more wait in the socket's backlog.
pub const MAX_CONNECTIONS: usize = 32;
/// The most bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The most header lines of a request.
const MAX_HEADERS: usize = 64;
/// How long a request's head may take, and how long a connection may idle.
const HEAD_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long one connection may live in all, so that nobody holds a slot for ever.
const CONNECTION_TIME_LIMIT: Duration = Duration::from_mins(2);
/// How long a request's body may take.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(10);

/// A whole answer in memory.
pub(super) type Reply = Response<Full<Bytes>>;

/// Serves one connection until it closes or its time is over; `permit` frees its slot at the end.
pub(super) async fn serve_connection<S, H, F>(
    stream: S,
    permit: OwnedSemaphorePermit,
    handler: Arc<H>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send,
{
    let service = service_fn(|request| {
        let reply = handler(request);
        async { Ok::<_, Infallible>(reply.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "control connection ended early"),
        Err(_) => tracing::debug!("control connection closed: its time is over"),
    }
    drop(permit);
}

/// The whole body, within its bounds.
pub(super) async fn body(request: Request<Incoming>) -> Result<Bytes, Reply> {
    let limited = Limited::new(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_TIME_LIMIT, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("request body: expected at most {MAX_BODY_BYTES} bytes");
            Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Ok(Err(error)) => Err(refusal(StatusCode::BAD_REQUEST, format!("request body: {error}"))),
        Err(_) => {
            let text = format!("request body: not here within {} s", BODY_TIME_LIMIT.as_secs());
            Err(refusal(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, "application/json", body),
        Err(error) => {
            // Only a map with keys that are not strings fails to serialise, and no report has one.
            tracing::error!(%error, "report not serialised");
            reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Vec::new())
        }
    }
}

/// An answer of any type.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, value);
    reply
}

/// A refusal with its reason.
pub(super) fn refusal(status: StatusCode, error: String) -> Reply {
    json(status, &ErrorReport { error })
}

/// Refuses a method, naming the one that is allowed.
pub(super) fn wrong_method(allowed: &'static str) -> Reply {
    let text = format!("wrong method; expected {allowed}");
    let mut reply = refusal(StatusCode::METHOD_NOT_ALLOWED, text);
    reply.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static(allowed));
    reply
}

/// The refusal that a backend's error becomes.
pub(super) fn backend_refusal(error: BackendError) -> Reply {
    match error {
        BackendError::BadRequest(text) => refusal(StatusCode::BAD_REQUEST, text),
        BackendError::Forbidden(text) => refusal(StatusCode::FORBIDDEN, text),
        BackendError::Unavailable(text) => refusal(StatusCode::SERVICE_UNAVAILABLE, text),
        BackendError::Internal(text) => refusal(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}
