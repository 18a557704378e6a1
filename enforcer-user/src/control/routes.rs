//! Which request asks what of the backend.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::backend::{Answer, Backend};
use super::http::{Reply, backend_refusal, body, json, refusal, reply, wrong_method};
use super::peer::Peer;
use super::protocol::{ExplainRequest, FlowQuery, MAX_FLOW_LIMIT, OverrideRequest, PolicyChange};
use super::server::ANSWER_TIME_LIMIT;
use crate::metrics;

/// Every route of the control socket, for the refusal of an unknown one.
const ROUTES: &str = "GET /v1/status /v1/workloads /v1/flows /v1/identities /v1/hosts /v1/counters /v1/policy \
                      /v1/observed /v1/denied /v1/learned /v1/overrides /metrics, \
                      POST /v1/explain /v1/reload /v1/overrides, PUT and DELETE /v1/policy/NAMESPACE/NAME.cedar, \
                      DELETE /v1/overrides/NUMBER /v1/learned";

/// Files of the policy tree lie below.
const POLICY: &str = "/v1/policy";
/// What is said over the policy for a while.
const OVERRIDES: &str = "/v1/overrides";
/// What workloads that learn did.
const LEARNED: &str = "/v1/learned";

/// Routes that change something: for root only, and noted in the log.
const CHANGES: [&str; 1] = ["/v1/reload"];

/// Answers one request of the control socket.
pub(super) async fn control<B: Backend>(
    backend: Arc<B>,
    peer: Peer,
    request: Request<Incoming>,
) -> Reply {
    if let Some(file) =
        request.uri().path().strip_prefix(POLICY).filter(|rest| rest.starts_with('/'))
    {
        let file = file.to_owned();
        return change_policy(&*backend, peer, &file, request).await;
    }
    if let Some(which) = request.uri().path().strip_prefix(OVERRIDES).filter(|rest| is_below(rest))
    {
        let which = which.to_owned();
        return overrides(&*backend, peer, &which, request).await;
    }
    if request.uri().path() == LEARNED {
        return learned(&*backend, peer, request.method()).await;
    }
    let expected = match request.uri().path() {
        "/v1/explain" | "/v1/reload" => Method::POST,
        "/v1/status" | "/v1/workloads" | "/v1/flows" | "/v1/identities" | "/v1/hosts"
        | "/v1/counters" | POLICY | "/v1/observed" | "/v1/denied" | "/metrics" => Method::GET,
        path => {
            let text = format!("no route {path:?}; expected one of {ROUTES}");
            return refusal(StatusCode::NOT_FOUND, text);
        }
    };
    if *request.method() != expected {
        return wrong_method(if expected == Method::GET { "GET" } else { "POST" });
    }
    if CHANGES.contains(&request.uri().path())
        && let Some(refused) = refuse_change(peer, request.uri().path())
    {
        return refused;
    }
    match request.uri().path() {
        "/v1/status" => answer(backend.status()).await,
        "/v1/workloads" => answer(backend.workloads()).await,
        "/v1/flows" => match flow_query(request.uri().query().unwrap_or_default()) {
            Ok(query) => answer(backend.flows(query)).await,
            Err(text) => refusal(StatusCode::BAD_REQUEST, text),
        },
        "/v1/identities" => answer(backend.identities()).await,
        "/v1/hosts" => answer(backend.hosts()).await,
        "/v1/counters" => answer(backend.counters()).await,
        "/v1/explain" => explain(&*backend, request).await,
        "/v1/reload" => answer(backend.reload()).await,
        POLICY => answer(backend.policy_files()).await,
        "/v1/observed" => answer(backend.observed()).await,
        "/v1/denied" => answer(backend.denied()).await,
        _ => metrics_text(&*backend).await,
    }
}

/// Notes who asks for a change, and refuses who may only read.
fn refuse_change(peer: Peer, path: &str) -> Option<Reply> {
    if peer.may_change() {
        tracing::info!(%peer, "control: {path}");
        return None;
    }
    tracing::warn!(%peer, "control: {path} refused: not root");
    let text = format!("{path} changes what is enforced; only root may ask for it, not {peer}");
    Some(refusal(StatusCode::FORBIDDEN, text))
}

/// Whether what stands behind a route is that route's: nothing, or something below.
fn is_below(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// Whoever may read may see what was learned; only root makes it forgotten.
async fn learned<B: Backend>(backend: &B, peer: Peer, method: &Method) -> Reply {
    match *method {
        Method::GET => answer(backend.learned()).await,
        Method::DELETE => match refuse_change(peer, LEARNED) {
            Some(refused) => refused,
            None => answer(backend.forget_learned()).await,
        },
        _ => wrong_method("GET, DELETE"),
    }
}

/// Whoever may read may see what is overridden; only root changes it.
async fn overrides<B: Backend>(
    backend: &B,
    peer: Peer,
    which: &str,
    request: Request<Incoming>,
) -> Reply {
    let method = request.method().clone();
    if method == Method::GET && which.is_empty() {
        return answer(backend.overrides()).await;
    }
    if method != if which.is_empty() { Method::POST } else { Method::DELETE } {
        return wrong_method(if which.is_empty() { "GET, POST" } else { "DELETE" });
    }
    if let Some(refused) = refuse_change(peer, OVERRIDES) {
        return refused;
    }
    if let Some(number) = which.strip_prefix('/') {
        let Ok(known) = number.parse() else {
            let text = format!("override {number:?}: expected its number");
            return refusal(StatusCode::BAD_REQUEST, text);
        };
        return answer(backend.end_override(peer.uid(), known)).await;
    }
    let bytes = match body(request).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused,
    };
    match serde_json::from_slice::<OverrideRequest>(&bytes) {
        Ok(wanted) => answer(backend.override_policy(peer.uid(), wanted)).await,
        Err(error) => {
            let text =
                format!("override request: {error}; expected {{allow, from, to, seconds, reason}}");
            refusal(StatusCode::BAD_REQUEST, text)
        }
    }
}

/// Who may write where is the backend's to say: it has the policy of the owners.
async fn change_policy<B: Backend>(
    backend: &B,
    peer: Peer,
    file: &str,
    request: Request<Incoming>,
) -> Reply {
    let text = match *request.method() {
        Method::PUT => match body(request).await.map(|bytes| String::from_utf8(bytes.to_vec())) {
            Ok(Ok(text)) => Some(text),
            Ok(Err(error)) => {
                return refusal(StatusCode::BAD_REQUEST, format!("{file} is not UTF-8: {error}"));
            }
            Err(refused) => return refused,
        },
        Method::DELETE => None,
        _ => return wrong_method("PUT, DELETE"),
    };
    let verb = if text.is_some() { "written" } else { "removed" };
    match PolicyChange::new(peer.uid(), file, text) {
        Ok(change) => {
            let reply = answer(backend.change_policy(change)).await;
            let status = reply.status();
            if status.is_success() {
                tracing::info!(%peer, "control: policy file {file} was {verb}");
            } else if may_log_refusal() {
                tracing::warn!(%peer, status = status.as_u16(), "control: policy file {file} was not {verb}");
            }
            reply
        }
        Err(text) => refusal(StatusCode::BAD_REQUEST, text),
    }
}

/// Whether one more line fits: whoever reaches the socket may ask as often as they like.
fn may_log_refusal() -> bool {
    /// Lines a second.
    const MOST: u64 = 4;
    /// The second, and behind it the lines of it, in the low byte.
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let second = START.elapsed().as_secs() << 8;
    let next = |logged: u64| {
        let lines = if logged & !0xff == second { logged & 0xff } else { 0 };
        (lines < MOST).then_some(second | (lines + 1))
    };
    LOGGED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

/// Answers one request of the metrics listener: nothing but `GET /metrics`.
pub(super) async fn metrics_only<B: Backend>(backend: Arc<B>, request: Request<Incoming>) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => metrics_text(&*backend).await,
        (_, "/metrics") => wrong_method("GET"),
        (_, path) => {
            refusal(StatusCode::NOT_FOUND, format!("no route {path:?}; expected GET /metrics"))
        }
    }
}

async fn answer<T: Serialize>(asked: impl Future<Output = Answer<T>>) -> Reply {
    match tokio::time::timeout(ANSWER_TIME_LIMIT, asked).await {
        Ok(Ok(report)) => json(StatusCode::OK, &report),
        Ok(Err(error)) => backend_refusal(error),
        Err(_) => late(),
    }
}

async fn explain<B: Backend>(backend: &B, request: Request<Incoming>) -> Reply {
    let bytes = match body(request).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused,
    };
    let fault = match serde_json::from_slice::<ExplainRequest>(&bytes) {
        Ok(question) if question.is_complete() => return answer(backend.explain(question)).await,
        Ok(_) => "it does not say whom it is about".to_owned(),
        Err(error) => error.to_string(),
    };
    let text =
        format!("explain request: {fault}; expected {{from, to, port}}, {{denial}} or {{flow}}");
    refusal(StatusCode::BAD_REQUEST, text)
}

async fn metrics_text<B: Backend>(backend: &B) -> Reply {
    let both = async { Ok((backend.status().await?, backend.counters().await?)) };
    match tokio::time::timeout(ANSWER_TIME_LIMIT, both).await {
        Ok(Ok((status, counters))) => {
            let text = metrics::prometheus(&status, &counters);
            reply(StatusCode::OK, metrics::CONTENT_TYPE, text.into_bytes())
        }
        Ok(Err(error)) => backend_refusal(error),
        Err(_) => late(),
    }
}

fn late() -> Reply {
    let text = format!("no answer within {} s; try again", ANSWER_TIME_LIMIT.as_secs());
    refusal(StatusCode::GATEWAY_TIMEOUT, text)
}

fn flow_query(text: &str) -> Result<FlowQuery, String> {
    let mut query = FlowQuery::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", value)) => query.limit = flow_limit(value)?,
            // Names and paths of workloads have no character that a query would escape.
            Some(("workload", value)) => query.workload = Some(value.to_owned()),
            _ => return Err(format!("query {pair:?}: expected limit=N or workload=NAME")),
        }
    }
    Ok(query)
}

fn flow_limit(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(limit) if (1..=MAX_FLOW_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(format!("limit {value:?}: expected a number from 1 to {MAX_FLOW_LIMIT}")),
    }
}
