//! What the control socket asks of the daemon: one method a route.

use std::future::Future;

use thiserror::Error;

use super::protocol::{
    CountersReport, ExplainReport, ExplainRequest, FlowQuery, FlowsReport, HostReport,
    IdentityReport, ObservedReport, OverrideRequest, PolicyChange, PolicyFileReport, ReloadReport,
    StatusReport, WorkloadReport,
};
use crate::learn::LearnedReport;
use crate::policy::Override;

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// The question names something that is not here or makes no sense (HTTP 400).
    #[error("{0}")]
    BadRequest(String),
    /// Whoever asks may not have it (HTTP 403).
    #[error("{0}")]
    Forbidden(String),
    /// The daemon cannot answer now; a later try may succeed (HTTP 503).
    #[error("{0}")]
    Unavailable(String),
    /// Something failed inside, such as reading a map (HTTP 500).
    #[error("{0}")]
    Internal(String),
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, BackendError>;

/// The daemon as the control socket sees it. Every answer must come within
/// [`super::server::ANSWER_TIME_LIMIT`].
pub trait Backend: Send + Sync + 'static {
    /// `GET /v1/status`.
    fn status(&self) -> impl Future<Output = Answer<StatusReport>> + Send;
    /// `GET /v1/workloads`.
    fn workloads(&self) -> impl Future<Output = Answer<Vec<WorkloadReport>>> + Send;
    /// `GET /v1/flows`.
    fn flows(&self, query: FlowQuery) -> impl Future<Output = Answer<FlowsReport>> + Send;
    /// `GET /v1/identities`.
    fn identities(&self) -> impl Future<Output = Answer<Vec<IdentityReport>>> + Send;
    /// `GET /v1/hosts`.
    fn hosts(&self) -> impl Future<Output = Answer<Vec<HostReport>>> + Send;
    /// `GET /v1/counters`.
    fn counters(&self) -> impl Future<Output = Answer<CountersReport>> + Send;
    /// `POST /v1/explain`.
    fn explain(
        &self,
        request: ExplainRequest,
    ) -> impl Future<Output = Answer<ExplainReport>> + Send;
    /// `POST /v1/reload`.
    fn reload(&self) -> impl Future<Output = Answer<ReloadReport>> + Send;
    /// `GET /v1/policy`.
    fn policy_files(&self) -> impl Future<Output = Answer<Vec<PolicyFileReport>>> + Send;
    /// `GET /v1/observed`.
    fn observed(&self) -> impl Future<Output = Answer<Vec<ObservedReport>>> + Send;
    /// `GET /v1/denied`.
    fn denied(&self) -> impl Future<Output = Answer<Vec<ObservedReport>>> + Send;
    /// `GET /v1/learned`.
    fn learned(&self) -> impl Future<Output = Answer<LearnedReport>> + Send;
    /// `DELETE /v1/learned`.
    fn forget_learned(&self) -> impl Future<Output = Answer<LearnedReport>> + Send;
    /// `GET /v1/overrides`.
    fn overrides(&self) -> impl Future<Output = Answer<Vec<Override>>> + Send;
    /// `POST /v1/overrides`, by this user.
    fn override_policy(
        &self,
        uid: u32,
        request: OverrideRequest,
    ) -> impl Future<Output = Answer<Override>> + Send;
    /// `DELETE /v1/overrides/NUMBER`, by this user.
    fn end_override(&self, uid: u32, number: u64) -> impl Future<Output = Answer<Override>> + Send;
    /// `PUT` and `DELETE /v1/policy/…`.
    fn change_policy(
        &self,
        change: PolicyChange,
    ) -> impl Future<Output = Answer<ReloadReport>> + Send;
}
