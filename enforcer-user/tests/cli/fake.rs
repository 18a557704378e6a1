//! A control socket with a backend that answers from fixed reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use enforcer_user::control::protocol::*;
use enforcer_user::control::{Answer, Backend, BackendError, ControlSocket, serve};
use enforcer_user::learn::LearnedReport;
use enforcer_user::policy::Override;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// How many questions for the status are answered with "not ready".
pub struct Fake {
    unready: usize,
    asked: AtomicUsize,
    flows_asked: AtomicUsize,
}

fn web_flow(remote: &str) -> FlowReport {
    FlowReport {
        workload: "web".into(),
        direction: "egress".into(),
        protocol: "tcp".into(),
        local: "10.0.0.1:40000".into(),
        remote: remote.into(),
        peer: Some("spiffe://example.org/acme/db".into()),
        state: "established".into(),
        epoch: 7,
        packets: 12,
        bytes: 3400,
        idle_seconds: 2,
    }
}

impl Backend for Fake {
    async fn status(&self) -> Answer<StatusReport> {
        let ready = self.asked.fetch_add(1, Ordering::Relaxed) >= self.unready;
        let reasons =
            if ready { vec![] } else { vec!["workload web: eth0 is not attached".into()] };
        let method = ready.then_some(AttachMethod::Tcx);
        let (workload, interface) = ("web".to_owned(), "eth0".to_owned());
        Ok(StatusReport {
            version: "1.2.3".into(),
            abi: 4,
            instance: "default".into(),
            mode: "pki".into(),
            trust_domain: "example.org".into(),
            pid: 4711,
            ready,
            reasons_not_ready: reasons,
            uptime_seconds: 18_120,
            kernel: "6.18.1".into(),
            attach: vec![AttachReport {
                workload,
                interface,
                mode: "observe".into(),
                method,
                guard: None,
            }],
            epoch: 7,
            flows: 2,
            problems: if ready { vec![] } else { vec!["trust: node.key: cannot open".into()] },
            ..Default::default()
        })
    }

    async fn workloads(&self) -> Answer<Vec<WorkloadReport>> {
        Ok(vec![WorkloadReport {
            name: "web".into(),
            id: 3,
            spiffe_id: "spiffe://example.org/acme/web".into(),
            labels: [("tier".into(), "front".into())].into(),
            attributes: [("node.zone".into(), "north".into()), ("user".into(), "web".into())]
                .into(),
            interface: "eth0".into(),
            side: "own".into(),
            addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
            mode: "enforce".into(),
            credential_handle: Some("0011223344556677".into()),
            credential_expires_unix: Some(1),
            attached: Some(AttachMethod::Clsact),
        }])
    }

    /// The second flow is there at first and gone from the second question on.
    async fn flows(&self, query: FlowQuery) -> Answer<FlowsReport> {
        let first = self.flows_asked.fetch_add(1, Ordering::Relaxed) == 0;
        let mut flows = vec![web_flow("10.0.0.2:5432")];
        if first {
            flows.push(web_flow("10.0.0.3:5432"));
        }
        let total = flows.len() as u64;
        flows.truncate(query.limit);
        Ok(FlowsReport { flows, total })
    }

    async fn hosts(&self) -> Answer<Vec<HostReport>> {
        Ok(vec![HostReport {
            workload: "/acme/web".into(),
            host: "api.example.com".into(),
            address: "192.0.2.7".into(),
            expires_unix: 2_000_000_000_000,
        }])
    }

    async fn identities(&self) -> Answer<Vec<IdentityReport>> {
        Ok(vec![IdentityReport {
            handle: "8899aabbccddeeff".into(),
            spiffe_id: "spiffe://example.org/acme/db".into(),
            labels: [("a".into(), "b\u{1b}[2J".into())].into(),
            attributes: [("image".into(), "shop\u{1b}[2J".into())].into(),
            workload: "web".into(),
            expires_unix: 2_000_000_000_000,
        }])
    }

    async fn counters(&self) -> Answer<CountersReport> {
        Ok(CountersReport {
            drops: [("bad_mac".into(), 4), ("no_room".into(), 0)].into(),
            events: [("cold_segments".into(), 9)].into(),
            per_workload: [("web".into(), [("denied".into(), 2)].into())].into(),
        })
    }

    async fn explain(&self, request: ExplainRequest) -> Answer<ExplainReport> {
        let allow = request.port == 443 && request.from_labels.is_empty();
        let text = format!("{}: as the daemon says", if allow { "allow" } else { "deny" });
        Ok(ExplainReport { allow, text, ..Default::default() })
    }

    async fn reload(&self) -> Answer<ReloadReport> {
        Ok(ReloadReport {
            changed: true,
            epoch: 8,
            policy_generation: 2,
            rejudged: 5,
            flows_cut: 1,
        })
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
        Ok(vec![PolicyFileReport {
            file: "tree/acme/shop.cedar".into(),
            namespace: "/acme".into(),
            rules: 2,
        }])
    }

    async fn change_policy(&self, change: PolicyChange) -> Answer<ReloadReport> {
        if change.namespace.as_str() == "/not/yours" {
            return Err(BackendError::Forbidden("uid 1 may not write in /not/yours".into()));
        }
        let rejudged = change.text.map_or(0, |text| text.len() as u64);
        Ok(ReloadReport { changed: true, rejudged, ..Default::default() })
    }
}

/// A served fake; stops when dropped.
pub struct Daemon {
    pub dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Daemon {
    /// Serves instance `default` in a new run folder, which is the temporary folder itself.
    pub fn start(unready: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket =
            runtime.block_on(ControlSocket::bind(&dir.path().join("default"), None)).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let fake = Fake { unready, asked: AtomicUsize::new(0), flows_asked: AtomicUsize::new(0) };
        runtime.spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            serve(&socket, Arc::new(fake), shutdown).await;
        });
        Self { dir, stop: Some(stop), runtime: Some(runtime) }
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("default/control.sock")
    }

    /// Runs the binary against it.
    pub fn ask(&self, arguments: &[&str]) -> super::Ran {
        let socket = self.socket();
        super::run(&[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.runtime.take());
    }
}
