//! The control socket's side of the event loop: each question goes there and waits for its answer.

use tokio::sync::{mpsc, oneshot};

use crate::control::protocol::{
    CountersReport, ExplainReport, ExplainRequest, FlowQuery, FlowsReport, HostReport,
    IdentityReport, ObservedReport, OverrideRequest, PolicyChange, PolicyFileReport, ReloadReport,
    StatusReport, WorkloadReport,
};
use crate::control::{Answer, Backend, BackendError};
use crate::learn::LearnedReport;
use crate::policy::Override;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Answer<T>>;

/// A question of the control socket.
#[derive(Debug)]
pub(super) enum Request {
    Status(Reply<StatusReport>),
    Workloads(Reply<Vec<WorkloadReport>>),
    Flows(FlowQuery, Reply<FlowsReport>),
    Identities(Reply<Vec<IdentityReport>>),
    Hosts(Reply<Vec<HostReport>>),
    Counters(Reply<CountersReport>),
    Explain(ExplainRequest, Reply<ExplainReport>),
    Reload(Reply<ReloadReport>),
    PolicyFiles(Reply<Vec<PolicyFileReport>>),
    Observed(Reply<Vec<ObservedReport>>),
    Denied(Reply<Vec<ObservedReport>>),
    Learned(Reply<LearnedReport>),
    ForgetLearned(Reply<LearnedReport>),
    Overrides(Reply<Vec<Override>>),
    Override(u32, OverrideRequest, Reply<Override>),
    EndOverride(u32, u64, Reply<Override>),
    ChangePolicy(PolicyChange, Reply<ReloadReport>),
}

/// Asks the event loop.
#[derive(Debug)]
pub(super) struct Remote {
    sender: mpsc::Sender<Request>,
}

impl Remote {
    pub(super) fn new(sender: mpsc::Sender<Request>) -> Self {
        Self { sender }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request + Send) -> Answer<T>
    where
        T: Send,
    {
        let (reply, answer) = oneshot::channel();
        let gone = || BackendError::Unavailable("the daemon is stopping; try again".to_owned());
        self.sender.try_send(request(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BackendError::Unavailable(
                "too many questions wait for the daemon; try again".to_owned(),
            ),
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }
}

impl Backend for Remote {
    async fn status(&self) -> Answer<StatusReport> {
        self.ask(Request::Status).await
    }

    async fn workloads(&self) -> Answer<Vec<WorkloadReport>> {
        self.ask(Request::Workloads).await
    }

    async fn flows(&self, query: FlowQuery) -> Answer<FlowsReport> {
        self.ask(|reply| Request::Flows(query, reply)).await
    }

    async fn identities(&self) -> Answer<Vec<IdentityReport>> {
        self.ask(Request::Identities).await
    }

    async fn hosts(&self) -> Answer<Vec<HostReport>> {
        self.ask(Request::Hosts).await
    }

    async fn counters(&self) -> Answer<CountersReport> {
        self.ask(Request::Counters).await
    }

    async fn explain(&self, request: ExplainRequest) -> Answer<ExplainReport> {
        self.ask(|reply| Request::Explain(request, reply)).await
    }

    async fn reload(&self) -> Answer<ReloadReport> {
        self.ask(Request::Reload).await
    }

    async fn policy_files(&self) -> Answer<Vec<PolicyFileReport>> {
        self.ask(Request::PolicyFiles).await
    }

    async fn observed(&self) -> Answer<Vec<ObservedReport>> {
        self.ask(Request::Observed).await
    }

    async fn denied(&self) -> Answer<Vec<ObservedReport>> {
        self.ask(Request::Denied).await
    }

    async fn learned(&self) -> Answer<LearnedReport> {
        self.ask(Request::Learned).await
    }

    async fn forget_learned(&self) -> Answer<LearnedReport> {
        self.ask(Request::ForgetLearned).await
    }

    async fn overrides(&self) -> Answer<Vec<Override>> {
        self.ask(Request::Overrides).await
    }

    async fn override_policy(&self, uid: u32, request: OverrideRequest) -> Answer<Override> {
        self.ask(|reply| Request::Override(uid, request, reply)).await
    }

    async fn end_override(&self, uid: u32, number: u64) -> Answer<Override> {
        self.ask(|reply| Request::EndOverride(uid, number, reply)).await
    }

    async fn change_policy(&self, change: PolicyChange) -> Answer<ReloadReport> {
        self.ask(|reply| Request::ChangePolicy(change, reply)).await
    }
}
