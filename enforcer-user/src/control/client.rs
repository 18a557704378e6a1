//! Asks a running daemon over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use super::protocol::{
    CountersReport, ErrorReport, ExplainReport, ExplainRequest, FlowQuery, FlowsReport, HostReport,
    IdentityReport, ObservedReport, OverrideRequest, PolicyFileReport, ReloadReport, StatusReport,
    WorkloadReport,
};
use crate::learn::LearnedReport;
use crate::policy::Override;

/// How long a question may take in all; longer than the server's own limit, whose words are better.
const QUESTION_TIME_LIMIT: Duration = Duration::from_secs(20);
/// The most bytes of an answer: [`super::protocol::MAX_FLOW_LIMIT`] flows, generously.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no enforcer answers on {}: is it running? start it with `enforcer run --config FILE`, or name \
         another with --config or --socket", socket.display()
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket is there, and not for us.
    #[error("{}: permission denied; the control socket is root's, try again as root", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon did not answer in time.
    #[error("{}: no answer within {} s; the daemon's log may say why", socket.display(), limit.as_secs())]
    Late {
        /// The socket.
        socket: PathBuf,
        /// The time it had.
        limit: Duration,
    },
    /// The daemon refused the question.
    #[error("{error}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's words.
        error: String,
    },
    /// What came back is not what this version expects.
    #[error("{}: {what}; do the command line and the daemon have the same version?", socket.display())]
    Malformed {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        what: String,
    },
}

/// A daemon to ask; every question opens its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket that is asked.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<StatusReport, ClientError> {
        self.ask("/v1/status").await
    }

    /// `GET /v1/workloads`.
    pub async fn workloads(&self) -> Result<Vec<WorkloadReport>, ClientError> {
        self.ask("/v1/workloads").await
    }

    /// `GET /v1/flows`.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowsReport, ClientError> {
        let mut path = format!("/v1/flows?limit={}", query.limit);
        if let Some(workload) = &query.workload {
            path.push_str("&workload=");
            path.push_str(workload);
        }
        self.ask(&path).await
    }

    /// `GET /v1/identities`.
    pub async fn identities(&self) -> Result<Vec<IdentityReport>, ClientError> {
        self.ask("/v1/identities").await
    }

    /// `GET /v1/hosts`.
    pub async fn hosts(&self) -> Result<Vec<HostReport>, ClientError> {
        self.ask("/v1/hosts").await
    }

    /// `GET /v1/counters`.
    pub async fn counters(&self) -> Result<CountersReport, ClientError> {
        self.ask("/v1/counters").await
    }

    /// `POST /v1/explain`.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainReport, ClientError> {
        let body = serde_json::to_vec(request)
            .map_err(|error| self.malformed(format!("request: {error}")))?;
        self.json(Method::POST, "/v1/explain", body).await
    }

    /// `POST /v1/reload`.
    pub async fn reload(&self) -> Result<ReloadReport, ClientError> {
        self.json(Method::POST, "/v1/reload", Vec::new()).await
    }

    /// `GET /v1/observed`.
    pub async fn observed(&self) -> Result<Vec<ObservedReport>, ClientError> {
        self.ask("/v1/observed").await
    }

    /// `GET /v1/denied`.
    pub async fn denied(&self) -> Result<Vec<ObservedReport>, ClientError> {
        self.ask("/v1/denied").await
    }

    /// `GET /v1/learned`.
    pub async fn learned(&self) -> Result<LearnedReport, ClientError> {
        self.ask("/v1/learned").await
    }

    /// `DELETE /v1/learned`: what was forgotten.
    pub async fn forget_learned(&self) -> Result<LearnedReport, ClientError> {
        self.json(Method::DELETE, "/v1/learned", Vec::new()).await
    }

    /// `GET /v1/overrides`.
    pub async fn overrides(&self) -> Result<Vec<Override>, ClientError> {
        self.ask("/v1/overrides").await
    }

    /// `POST /v1/overrides`.
    pub async fn override_policy(
        &self,
        request: &OverrideRequest,
    ) -> Result<Override, ClientError> {
        let body = serde_json::to_vec(request)
            .map_err(|error| self.malformed(format!("request: {error}")))?;
        self.json(Method::POST, "/v1/overrides", body).await
    }

    /// `DELETE /v1/overrides/NUMBER`.
    pub async fn end_override(&self, number: u64) -> Result<Override, ClientError> {
        self.json(Method::DELETE, &format!("/v1/overrides/{number}"), Vec::new()).await
    }

    /// `GET /v1/policy`.
    pub async fn policy_files(&self) -> Result<Vec<PolicyFileReport>, ClientError> {
        self.ask("/v1/policy").await
    }

    /// `PUT /v1/policy/NAMESPACE/NAME.cedar`; `file` is the part behind `/v1/policy`.
    pub async fn put_policy(&self, file: &str, text: String) -> Result<ReloadReport, ClientError> {
        self.json(Method::PUT, &format!("/v1/policy{file}"), text.into_bytes()).await
    }

    /// `DELETE /v1/policy/NAMESPACE/NAME.cedar`, likewise.
    pub async fn remove_policy(&self, file: &str) -> Result<ReloadReport, ClientError> {
        self.json(Method::DELETE, &format!("/v1/policy{file}"), Vec::new()).await
    }

    /// `GET /metrics`, as text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let bytes = self.bytes(Method::GET, "/metrics", Vec::new()).await?;
        String::from_utf8(bytes.into()).map_err(|error| self.malformed(format!("metrics: {error}")))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Vec::new()).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.malformed(format!("{path}: {error}")))
    }

    async fn bytes(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let limit = QUESTION_TIME_LIMIT;
        tokio::time::timeout(limit, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(ClientError::Late { socket: self.socket.clone(), limit }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let broken = |error: hyper::Error| self.malformed(format!("{path}: {error}"));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "enforcer")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Refused { status: 400, error: error.to_string() })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let limited = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let body = limited.collect().await;
            let body = body.map_err(|error| self.malformed(format!("{path}: {error}")))?;
            accepted(status, body.to_bytes())
        };
        // The connection must be driven until the answer is whole; its own errors reach the exchange.
        let driver = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = exchange => answer,
            never = driver => never,
        }
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket }
            }
            _ => self.malformed(error.to_string()),
        }
    }

    fn malformed(&self, what: String) -> ClientError {
        ClientError::Malformed { socket: self.socket.clone(), what }
    }
}

fn accepted(status: StatusCode, body: Bytes) -> Result<Bytes, ClientError> {
    if status.is_success() {
        return Ok(body);
    }
    let error = match serde_json::from_slice::<ErrorReport>(&body) {
        Ok(report) => report.error,
        Err(_) => format!("the daemon answered {status}"),
    };
    Err(ClientError::Refused { status: status.as_u16(), error })
}
