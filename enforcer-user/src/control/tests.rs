//! Tests of the control socket: a real one in a temporary folder, with a backend that answers from fields.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::protocol::*;
use super::*;
use crate::learn::LearnedReport;
use crate::policy::Override;

#[derive(Default)]
struct Fake {
    reloads: AtomicU64,
}

impl Backend for Fake {
    async fn status(&self) -> Answer<StatusReport> {
        Ok(StatusReport { version: "1.2.3".into(), ready: true, epoch: 7, ..Default::default() })
    }

    async fn workloads(&self) -> Answer<Vec<WorkloadReport>> {
        let attached = Some(AttachMethod::Tcx);
        Ok(vec![WorkloadReport { name: "web".into(), attached, ..Default::default() }])
    }

    async fn flows(&self, query: FlowQuery) -> Answer<FlowsReport> {
        let workload = query.workload.unwrap_or_else(|| "any".into());
        let flow = FlowReport { workload, ..Default::default() };
        Ok(FlowsReport { flows: vec![flow; query.limit.min(3)], total: 3 })
    }

    async fn identities(&self) -> Answer<Vec<IdentityReport>> {
        Err(BackendError::Unavailable("identities: still starting; try again".into()))
    }

    async fn hosts(&self) -> Answer<Vec<HostReport>> {
        Ok(Vec::new())
    }

    async fn counters(&self) -> Answer<CountersReport> {
        let drops = [("bad_mac".to_owned(), 4)].into();
        Ok(CountersReport { drops, ..Default::default() })
    }

    async fn explain(&self, request: ExplainRequest) -> Answer<ExplainReport> {
        if request.from == "nobody" {
            return Err(BackendError::BadRequest("from \"nobody\": no such workload".into()));
        }
        Ok(ExplainReport { allow: request.port == 80, from: request.from, ..Default::default() })
    }

    async fn reload(&self) -> Answer<ReloadReport> {
        let policy_generation = self.reloads.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(ReloadReport { changed: true, policy_generation, ..Default::default() })
    }

    async fn observed(&self) -> Answer<Vec<ObservedReport>> {
        Ok(Vec::new())
    }

    async fn denied(&self) -> Answer<Vec<ObservedReport>> {
        Ok(Vec::new())
    }

    async fn learned(&self) -> Answer<LearnedReport> {
        Ok(LearnedReport { lost: 3, ..Default::default() })
    }

    async fn forget_learned(&self) -> Answer<LearnedReport> {
        Ok(LearnedReport { lost: 4, ..Default::default() })
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

/// A served socket; it stops when dropped.
struct Served {
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(&dir.path().join("i"), None).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            serve(&socket, Arc::new(Fake::default()), shutdown).await;
        });
        Self { dir, stop: Some(stop), task }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("i").join(SOCKET_NAME)
    }

    fn client(&self) -> Client {
        Client::new(self.path())
    }

    async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
        self.dir
    }

    /// Sends bytes as they are and reads the answer to its end.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        // A server that refuses early closes with our bytes unread: the answer then ends in a reset.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn every_route_answers_through_the_client() {
    let served = Served::start().await;
    let client = served.client();
    let status = client.status().await.unwrap();
    assert_eq!((status.version.as_str(), status.ready, status.epoch), ("1.2.3", true, 7));
    let workloads = client.workloads().await.unwrap();
    assert_eq!(workloads[0].attached, Some(AttachMethod::Tcx));
    let query = FlowQuery { limit: 2, workload: Some("web".into()) };
    let flows = client.flows(&query).await.unwrap();
    assert_eq!((flows.flows.len(), flows.total), (2, 3));
    assert_eq!(flows.flows[0].workload, "web");
    assert_eq!(client.counters().await.unwrap().drops["bad_mac"], 4);
    let request =
        ExplainRequest { from: "a".into(), to: "b".into(), port: 80, ..Default::default() };
    assert!(client.explain(&request).await.unwrap().allow);
    assert!(!client.explain(&ExplainRequest { port: 81, ..request }).await.unwrap().allow);
    assert_eq!(client.reload().await.unwrap().policy_generation, 1);
    assert_eq!(client.reload().await.unwrap().policy_generation, 2);
    let request = OverrideRequest {
        allow: true,
        from: "*".parse().unwrap(),
        to: "/acme".parse().unwrap(),
        port: None,
        seconds: 60,
        reason: "why".into(),
    };
    let made = client.override_policy(&request).await.unwrap();
    assert_eq!((made.until_unix, made.to.to_string()), (60, "/acme".to_owned()));
    assert!(client.overrides().await.unwrap().is_empty());
    assert_eq!(client.learned().await.unwrap().lost, 3);
    assert_eq!(client.forget_learned().await.unwrap().lost, 4);
    assert_eq!(client.policy_files().await.unwrap()[0].rules, 2);
    let put = client.put_policy("/acme/a.cedar", "text".into()).await.unwrap();
    assert_eq!((put.changed, put.rejudged), (true, 4));
    assert_eq!(client.remove_policy("/acme/a.cedar").await.unwrap().rejudged, 0);
    let metrics = client.metrics().await.unwrap();
    assert!(metrics.contains("enforcer_drops_total{reason=\"bad_mac\"} 4\n"), "{metrics}");
}

#[tokio::test]
async fn refusals_reach_the_client_in_the_daemons_words() {
    let served = Served::start().await;
    let client = served.client();
    let refused = client.identities().await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 503, .. }), "{refused:?}");
    assert_eq!(refused.to_string(), "identities: still starting; try again");
    let nobody = ExplainRequest { from: "nobody".into(), to: "b".into(), ..Default::default() };
    let refused = client.explain(&nobody).await.unwrap_err();
    assert_eq!(refused.to_string(), "from \"nobody\": no such workload");
    let refused = client.put_policy("/not/yours/a.cedar", String::new()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 403, .. }), "{refused:?}");
    assert_eq!(refused.to_string(), "uid 1 may not write in /not/yours");
    let refused = client.end_override(9).await.unwrap_err();
    assert_eq!(refused.to_string(), "override 9: there is none in force");
    let query = FlowQuery { limit: 0, workload: None };
    let refused = client.flows(&query).await.unwrap_err();
    assert_eq!(refused.to_string(), "limit \"0\": expected a number from 1 to 131072");
}

#[tokio::test]
async fn malformed_requests_are_refused_by_status() {
    let served = Served::start().await;
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let body = "x".repeat(MAX_BODY_BYTES + 1);
    let long_body = format!(
        "POST /v1/explain HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let cases = [
        ("GET /v2/status HTTP/1.1\r\nconnection: close\r\n\r\n", "404", "/v2/status"),
        ("DELETE /v1/status HTTP/1.1\r\nconnection: close\r\n\r\n", "405", "expected GET"),
        ("PUT /v1/overrides HTTP/1.1\r\nconnection: close\r\n\r\n", "405", "expected GET, POST"),
        ("GET /v1/overrides/1 HTTP/1.1\r\nconnection: close\r\n\r\n", "405", "expected DELETE"),
        ("DELETE /v1/overrides/x HTTP/1.1\r\nconnection: close\r\n\r\n", "400", "its number"),
        ("GET /v1/overridesx HTTP/1.1\r\nconnection: close\r\n\r\n", "404", "overridesx"),
        ("GET /v1/reload HTTP/1.1\r\nconnection: close\r\n\r\n", "405", "expected POST"),
        (
            "GET /v1/policy/a/b.cedar HTTP/1.1\r\nconnection: close\r\n\r\n",
            "405",
            "expected PUT, DELETE",
        ),
        ("DELETE /v1/policy/a/../b.cedar HTTP/1.1\r\nconnection: close\r\n\r\n", "400", ".."),
        ("DELETE /v1/policy/a/.b.cedar HTTP/1.1\r\nconnection: close\r\n\r\n", "400", "file"),
        ("DELETE /v1/policy/a/b.txt HTTP/1.1\r\nconnection: close\r\n\r\n", "400", ".cedar"),
        ("DELETE /v1/policy/a/.cedar HTTP/1.1\r\nconnection: close\r\n\r\n", "400", "file"),
        ("GET /v1/flows?x=1 HTTP/1.1\r\nconnection: close\r\n\r\n", "400", "expected limit=N"),
        (
            "POST /v1/explain HTTP/1.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            "400",
            "expected {from, to, port}, {denial} or {flow}",
        ),
        (long_body.as_str(), "413", "at most 65536 bytes"),
        (long_path.as_str(), "4", ""),
        ("nonsense\r\n\r\n", "400", ""),
    ];
    for (request, status, words) in cases {
        let answer = served.raw(request.as_bytes()).await;
        let head = &request[..request.len().min(40)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:?}: {answer}");
        assert!(answer.contains(words), "{head:?}: {answer}");
    }
    assert!(served.client().status().await.is_ok(), "the server must outlive bad requests");
}

#[tokio::test]
async fn idle_connections_do_not_take_the_server_beyond_its_bound() {
    let served = Served::start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = UnixStream::connect(served.path()).await.unwrap();
        // One answered request shows that the connection has its slot.
        stream.write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let client = served.client();
    let mut waiting = tokio::spawn(async move { client.status().await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "one more than the bound must wait");
    idle.pop();
    assert!(waiting.await.unwrap().is_ok(), "a freed slot serves the one that waits");
}

#[tokio::test]
async fn socket_and_folder_are_for_their_owner_only() {
    let served = Served::start().await;
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(served.path()), 0o600);
    assert_eq!(mode(served.dir.path().join("i")), 0o700);
    assert_eq!(mode(served.dir.path().join("i").join("daemon.lock")), 0o600);
    let path = served.path();
    let dir = served.stop().await;
    assert!(!path.exists(), "the socket must be gone after the server");
    assert!(ControlSocket::bind(&dir.path().join("i"), None).await.is_ok());
}

#[tokio::test]
async fn a_second_daemon_is_refused_naming_the_first() {
    let served = Served::start().await;
    let dir = served.dir.path().join("i");
    let refused = ControlSocket::bind(&dir, None).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "instance folder {}: an enforcer already runs on it (pid {}); stop it, or give this one \
             another `instance`",
            dir.display(),
            std::process::id()
        )
    );
    // Even where the lock's file was taken away under the first one.
    std::fs::remove_file(dir.join("daemon.lock")).unwrap();
    let refused = ControlSocket::bind(&dir, None).await.unwrap_err();
    let pid = std::process::id().to_string();
    assert!(matches!(&refused, SocketError::Taken { pid: p, .. } if *p == pid), "{refused}");
    assert!(served.client().status().await.is_ok(), "the first one must be left alone");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_anything_else_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    // A listener that is dropped leaves its socket behind, as a killed daemon does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(ControlSocket::bind(dir.path(), None).await.unwrap());
    std::fs::write(&path, "precious").unwrap();
    let refused = ControlSocket::bind(dir.path(), None).await.unwrap_err();
    assert!(matches!(refused, SocketError::NotASocket { .. }), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn without_a_daemon_the_client_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    let told = Client::new(&path).status().await.unwrap_err().to_string();
    let start = format!("no enforcer answers on {}: is it running? start it with", path.display());
    assert!(told.starts_with(&start), "{told}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let told = Client::new(&path).status().await.unwrap_err().to_string();
    assert!(told.starts_with(&start), "{told}");
}

#[tokio::test]
async fn the_metrics_listener_serves_metrics_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let shutdown = async { stopped.await.unwrap_or_default() };
        serve_metrics(&listener, Arc::new(Fake::default()), shutdown).await;
    });
    for (path, expected) in [
        ("/metrics", "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4"),
        ("/v1/status", "HTTP/1.1 404"),
        ("/v1/reload", "HTTP/1.1 404"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
    stop.send(()).unwrap();
    task.await.unwrap();
}
