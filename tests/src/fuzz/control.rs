//! Requests of the control socket.

use std::cell::LazyCell;
use std::sync::Arc;

use enforcer_user::control::protocol::{
    CountersReport, ExplainReport, ExplainRequest, FlowQuery, FlowsReport, HostReport,
    IdentityReport, MAX_FLOW_LIMIT, ObservedReport, OverrideRequest, PolicyChange,
    PolicyFileReport, ReloadReport, StatusReport, WorkloadReport,
};
use enforcer_user::control::{Answer, Backend, BackendError, serve_stream};
use enforcer_user::learn::LearnedReport;
use enforcer_user::policy::Override;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// What a server of HTTP/1 answers here.
const STATUSES: [&[u8]; 9] =
    [b"200", b"400", b"404", b"405", b"408", b"413", b"414", b"431", b"503"];

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        Builder::new_current_thread().enable_all().build().expect("a runtime of one thread")
    });
}

/// `data` is everything that one connection sends, and the body of a question.
pub fn run(data: &[u8]) {
    if let Ok(question) = serde_json::from_slice::<ExplainRequest>(data) {
        let bytes = serde_json::to_vec(&question).expect("it came from JSON");
        assert_eq!(serde_json::from_slice::<ExplainRequest>(&bytes).ok(), Some(question));
    }
    let answer = RUNTIME.with(|runtime| runtime.block_on(exchange(data)));
    if answer.is_empty() {
        return;
    }
    let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
    let status = status.and_then(|rest| rest.first_chunk::<3>()).map(|status| &status[..]);
    assert!(
        status.is_some_and(|status| STATUSES.contains(&status)),
        "{}",
        String::from_utf8_lossy(&answer[..answer.len().min(80)])
    );
}

/// Sends all and hangs up; what came back. The connection must end by itself and free its slot.
async fn exchange(data: &[u8]) -> Vec<u8> {
    let slots = Arc::new(Semaphore::new(1));
    let permit = slots.clone().try_acquire_owned().expect("the only slot");
    let (client, server) = UnixStream::pair().expect("a pair of sockets");
    let (mut incoming, mut outgoing) = client.into_split();
    // It may be refused, and hung up on, before it is through.
    let asks = async move {
        let _ = outgoing.write_all(data).await;
        let _ = outgoing.shutdown().await;
    };
    let hears = async move {
        let mut answer = Vec::new();
        let _ = incoming.read_to_end(&mut answer).await;
        answer
    };
    let (served, (), answer) =
        tokio::join!(serve_stream(server, permit, Arc::new(Fake)), asks, hears);
    served.expect("the kernel knows this process");
    assert_eq!(slots.available_permits(), 1, "a connection ended and kept its slot");
    answer
}

/// A daemon that is asked only what may be asked.
struct Fake;

impl Backend for Fake {
    async fn status(&self) -> Answer<StatusReport> {
        Ok(StatusReport::default())
    }

    async fn workloads(&self) -> Answer<Vec<WorkloadReport>> {
        Ok(vec![WorkloadReport::default()])
    }

    async fn flows(&self, query: FlowQuery) -> Answer<FlowsReport> {
        assert!((1..=MAX_FLOW_LIMIT).contains(&query.limit), "{query:?}");
        Ok(FlowsReport::default())
    }

    async fn identities(&self) -> Answer<Vec<IdentityReport>> {
        Err(BackendError::Unavailable("still starting".to_owned()))
    }

    async fn hosts(&self) -> Answer<Vec<HostReport>> {
        Ok(vec![HostReport::default()])
    }

    async fn counters(&self) -> Answer<CountersReport> {
        Ok(CountersReport::default())
    }

    async fn explain(&self, request: ExplainRequest) -> Answer<ExplainReport> {
        Ok(ExplainReport { from: request.from, to: request.to, ..ExplainReport::default() })
    }

    async fn reload(&self) -> Answer<ReloadReport> {
        Ok(ReloadReport::default())
    }

    async fn observed(&self) -> Answer<Vec<ObservedReport>> {
        Ok(Vec::new())
    }

    async fn denied(&self) -> Answer<Vec<ObservedReport>> {
        Ok(Vec::new())
    }

    async fn learned(&self) -> Answer<LearnedReport> {
        Ok(LearnedReport::default())
    }

    async fn forget_learned(&self) -> Answer<LearnedReport> {
        Ok(LearnedReport::default())
    }

    async fn overrides(&self) -> Answer<Vec<Override>> {
        Ok(Vec::new())
    }

    async fn override_policy(&self, uid: u32, request: OverrideRequest) -> Answer<Override> {
        let OverrideRequest { allow, from, to, port, seconds, reason } = request;
        let until_unix = i64::try_from(seconds).unwrap();
        Ok(Override { number: 1, allow, from, to, port, until_unix, reason, uid })
    }

    async fn end_override(&self, _: u32, number: u64) -> Answer<Override> {
        Err(BackendError::BadRequest(format!("override {number}: there is none in force")))
    }

    async fn policy_files(&self) -> Answer<Vec<PolicyFileReport>> {
        Ok(Vec::new())
    }

    async fn change_policy(&self, change: PolicyChange) -> Answer<ReloadReport> {
        assert!(!change.name.contains('/') && change.name.contains(".cedar"), "{change:?}");
        assert!(!change.name.starts_with('.'), "{change:?}");
        Ok(ReloadReport::default())
    }
}
