//! The admin listener on real sockets.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use client::{ReloadRequestError, request_reload};

struct Fake {
    readiness: Mutex<Readiness>,
    outcome: ReloadOutcome,
}

impl AdminActions for Fake {
    async fn reload(&self) -> ReloadOutcome {
        self.outcome.clone()
    }

    fn readiness(&self) -> Readiness {
        *self.readiness.lock().unwrap()
    }
}

fn applied() -> ReloadOutcome {
    ReloadOutcome::Applied {
        generation: 3,
        warnings: String::new(),
    }
}

async fn start(bind: Bind, outcome: ReloadOutcome) -> (Bind, Arc<Fake>, oneshot::Sender<()>) {
    let listener = AdminListener::bind(&bind).await.unwrap();
    let bind = listener.local_addr().map_or(bind, Bind::Tcp);
    let actions = Arc::new(Fake {
        readiness: Mutex::new(Readiness::Starting),
        outcome,
    });
    let state = AdminState {
        metrics: Metrics::new(),
        actions: Arc::clone(&actions),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));
    (bind, actions, stop)
}

fn loopback() -> Bind {
    Bind::Tcp(([127, 0, 0, 1], 0).into())
}

async fn send(bind: &Bind, head: &str) -> String {
    let Bind::Tcp(addr) = bind else {
        panic!("not on TCP");
    };
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("{head}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn answers_each_path_and_refuses_browsers() {
    let (bind, _, _stop) = start(loopback(), applied()).await;
    let local = "Host: localhost:9900";
    let check = async |head: String, status: &str| {
        let answer = send(&bind, &head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}\n{answer}"
        );
        answer
    };
    let get = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\n{host}");
    let post = |more: &str| format!("POST /reload HTTP/1.1\r\n{more}");

    let text = check(get("/metrics", local), "200").await;
    assert!(text.contains("application/openmetrics-text") && text.contains("\n# EOF\n"));
    check(get("/healthz", "Host: [::1]:9900"), "200").await;
    check(get("/", local), "404").await;
    let text = check(get("/reload", local), "405").await;
    assert!(text.contains("\r\nallow: POST\r\n"), "{text}");
    check(format!("OPTIONS /reload HTTP/1.1\r\n{local}"), "405").await;
    check(format!("POST /metrics HTTP/1.1\r\n{local}"), "405").await;

    check(get("/metrics", "Host: rebound.example"), "403").await;
    check(get("/metrics", "Host: a\r\nHost: localhost"), "403").await;
    check(get("/metrics", "X-No-Host: 1"), "403").await;
    check(post(local), "403").await;
    let header = "X-Sluicegate-Admin: 1";
    check(post(&format!("{header}\r\nHost: rebound.example")), "403").await;
    let origin = "Origin: http://localhost";
    check(post(&format!("{local}\r\n{header}\r\n{origin}")), "403").await;
    let text = check(post(&format!("{local}\r\n{header}")), "200").await;
    assert!(
        text.contains(r#"{"result":"applied","generation":3"#),
        "{text}"
    );
}

#[tokio::test]
async fn readiness_follows_the_server() {
    let (bind, actions, _stop) = start(loopback(), applied()).await;
    for (readiness, status, body) in [
        (Readiness::Starting, "503", "starting"),
        (Readiness::Ready, "200", "ready"),
        (Readiness::Draining, "503", "draining"),
    ] {
        *actions.readiness.lock().unwrap() = readiness;
        let answer = send(&bind, "GET /readyz HTTP/1.1\r\nHost: localhost").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.trim_end().ends_with(body), "{answer}");
    }
}

#[tokio::test]
async fn reload_is_asked_for_over_tcp_and_unix() {
    let rejected = ReloadOutcome::Rejected {
        report: "error: unknown key `lisen`\n --> sluicegate.toml:1:1".to_owned(),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // A socket file that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    for (bind, outcome) in [
        (loopback(), applied()),
        (loopback(), rejected.clone()),
        (Bind::Unix(path.clone()), rejected),
    ] {
        let (bind, _, _stop) = start(bind, outcome.clone()).await;
        assert_eq!(request_reload(&bind).await.unwrap(), outcome);
    }
}

#[tokio::test]
async fn a_unix_socket_is_private_and_not_stolen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = AdminListener::bind(&Bind::Unix(path.clone()))
        .await
        .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = AdminListener::bind(&Bind::Unix(path.clone())).await;
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    assert!(!path.exists());
    let gone = request_reload(&Bind::Unix(path)).await;
    assert!(matches!(gone, Err(ReloadRequestError::Connect(_))));
}

#[tokio::test]
async fn big_heads_and_shutdown_end_a_connection() {
    let (bind, _, stop) = start(loopback(), applied()).await;
    let Bind::Tcp(addr) = bind else {
        panic!("not on TCP");
    };
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nX-Big: {}", "x".repeat(2 * MAX_HEAD));
    let mut answer = Vec::new();
    // The server may reset the connection while the head is still being sent.
    let _ = socket.write_all(head.as_bytes()).await;
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "));
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    drop(stop);
    assert!(!matches!(idle.read(&mut [0; 16]).await, Ok(1..)));
}

#[tokio::test(start_paused = true)]
async fn slow_heads_are_cut_off() {
    let (bind, _, _stop) = start(loopback(), applied()).await;
    let Bind::Tcp(addr) = bind else {
        panic!("not on TCP");
    };
    let begun = tokio::time::Instant::now();
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(begun.elapsed() < CONNECTION_TIMEOUT);
}
