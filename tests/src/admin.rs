//! Asking the proxy's admin listener: pages, metrics, reloads.

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::client::{self, Head};
use crate::proxy::Proxy;
use crate::{secrets, soon, until};

impl Proxy {
    /// `GET path` on the admin listener; status and body.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        let (head, body) = self.admin_request("GET", path, "").await;
        (head.status, body)
    }

    /// `POST /reload` as the command line sends it; status and the JSON of the outcome.
    pub async fn post_reload(&self) -> (u16, Value) {
        let (head, body) = self
            .admin_request("POST", "/reload", "X-Sluicegate-Admin: 1\r\n")
            .await;
        (head.status, serde_json::from_str(&body).unwrap())
    }

    /// A request with these extra field lines, each with its line end.
    pub async fn admin_request(&self, method: &str, path: &str, fields: &str) -> (Head, String) {
        let mut stream = client::tcp(self.admin()).await;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        let body = String::from_utf8(body).unwrap();
        secrets::assert_none_in(&body);
        (head, body)
    }

    /// The value of one series as it is written, `name{label="value"}`; `None` if it is not there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = self.admin_get("/metrics").await;
        assert_eq!(status, 200);
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .map(|value| value.parse().unwrap())
    }

    /// Waits until a series has this value.
    pub async fn until_metric(&self, series: &str, wanted: f64) {
        let what = format!("{series} = {wanted}");
        self.until_metric_is(&what, series, |value| value == wanted)
            .await;
    }

    /// Waits until the value of a series is as wanted, and gives it; `what` is what the wait is for.
    pub async fn until_metric_is(
        &self,
        what: &str,
        series: &str,
        wanted: impl Fn(f64) -> bool,
    ) -> f64 {
        until(what, async || {
            let value = self.metric(series).await?;
            wanted(value).then_some(value)
        })
        .await
    }

    /// The access log's line of this event, parsed.
    pub async fn access_event(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let line = self
            .access_line(event, |line| {
                serde_json::from_str(line)
                    .is_ok_and(|json: Value| json["event"] == event && wanted(&json))
            })
            .await;
        serde_json::from_str(&line).unwrap()
    }

    /// Resident memory, KiB.
    pub fn resident_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        let dir = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        dir.unwrap().count()
    }

    /// CPU time used so far, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name may hold blanks, but ends at the last parenthesis: utime and stime are the
        // twelfth and thirteenth behind it.
        let (_, rest) = text.rsplit_once(") ").unwrap();
        let ticks = rest.split(' ').skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Waits for the end and its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        soon("the end of the proxy", self.wait()).await.code()
    }
}
