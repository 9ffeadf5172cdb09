//! A plugin that asks the host for whatever a request's query names (`?ask=kv`), and answers with what
//! it got, or lets the request pass.

use std::time::Duration;

use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::{
    ConfigError, Filter, Hook, Reply, Request, Response, ResponseFilter, Verdict, clock, config,
    export, kv, log, metrics, outbound, random,
};

#[config]
pub struct Config {
    /// The upstream of its own requests, and the one that requests are sent to.
    #[serde(default)]
    upstream: String,
    /// Calls the clock in `configure`, which may not.
    #[serde(default)]
    impure: bool,
    /// Use the response hook.
    #[serde(default)]
    answers: bool,
    /// Answer with the labels that the filters before have set.
    #[serde(default)]
    reveals: bool,
}

pub struct Services(Config);

impl Filter for Services {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.impure {
            log::event(log::Level::Info, "about to ask", &[("what", "the time")]);
            return Err(ConfigError::key(
                "impure",
                format!("it is {:?}", clock::now()),
            ));
        }
        Ok(Services(config))
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Request || self.0.answers
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        if self.0.reveals {
            return Reply::new(200).body(format!("{:?}", req.labels())).into();
        }
        let answer = match req.query_param("ask").as_deref() {
            Some("kv") => store(),
            Some("outbound") => self.send(req),
            Some("crypto") => {
                let hash = crypto::hash(Hash::Sha256, b"abc");
                format!(
                    "{:02x}{:02x} {:?}",
                    hash[0],
                    hash[1],
                    crypto::verify_password("x", "y")
                )
            }
            Some("random") => format!("{}", random::bytes(16) != random::bytes(16)),
            Some("clock") => format!("{}", clock::unix_seconds()),
            Some("metrics") => {
                let counted = metrics::count("asked", &[("what", "metrics")], 2);
                format!("{counted:?} {:?}", metrics::count("Bad Name", &[], 1))
            }
            Some("facts") => format!(
                "{} {} {} {}",
                req.listener(),
                req.http_version(),
                req.is_websocket(),
                req.peer().starts_with("127.0.0.1:")
            ),
            Some("elsewhere") => match req.set_upstream(&self.0.upstream) {
                Ok(()) => return Verdict::Continue,
                Err(error) => error.to_string(),
            },
            Some("label") => {
                let set = req.set_label("sub", "ci \"quoted\"");
                return pass_or_tell(set.and_then(|()| req.set_label("tenant", "acme")));
            }
            Some("expire") => {
                let _ = req.set_label("sub", "short");
                req.expire_at(clock::now() + Duration::from_millis(400));
                req.limit_lifetime(Duration::from_secs(600));
                return Verdict::Continue;
            }
            Some("lifetime") => {
                req.limit_lifetime(Duration::from_millis(300));
                return Verdict::Continue;
            }
            Some("log") => {
                let fields = [("key", "a\nb"), ("other", "c d")];
                log::event(log::Level::Warn, "with fields", &fields);
                return Verdict::Continue;
            }
            _ => return Verdict::Continue,
        };
        Reply::new(200).body(answer).into()
    }
}

impl ResponseFilter for Services {
    fn on_response(&self, res: &mut Response) -> Verdict {
        if res.is_upgrade() {
            let chosen = res.set_subprotocol(Some("answered"));
            let other = res.set_subprotocol(Some("never-offered"));
            let told = format!("{chosen:?} {other:?} {:?}", res.label("sub"));
            return pass_or_tell(res.set_header("x-told", told));
        }
        pass_or_tell(res.set_header("x-told", "no upgrade"))
    }
}

export!(Services);

impl Services {
    fn send(&self, req: &Request) -> String {
        let path = req.query_param("path").unwrap_or_else(|| "/".to_owned());
        let upstream = req
            .query_param("at")
            .unwrap_or_else(|| self.0.upstream.clone());
        let timeout = Duration::from_millis(700);
        let request = outbound::Request::post(upstream, path)
            .header("x-asked-by", "guest")
            .body("a question")
            .timeout(timeout);
        match request.send() {
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                format!("{} {:?} {body}", answer.status, answer.header("x-from"))
            }
            Err(error) => format!("{error:?}"),
        }
    }
}

fn store() -> String {
    let minute = Some(Duration::from_secs(60));
    let all = || -> Result<String, kv::Error> {
        let count = kv::increment("count", 1, minute)?;
        let first = kv::add("first", count.to_string(), None)?;
        let read = kv::get("count")?.map(|value| String::from_utf8_lossy(&value).into_owned());
        let swapped = kv::compare_and_set("first", Some(b"never"), "x", None)?;
        let gone = kv::delete("not there")?;
        Ok(format!("{count} {first} {read:?} {swapped} {gone}"))
    };
    all().unwrap_or_else(|error| error.to_string())
}

fn pass_or_tell(edited: Result<(), sluicegate_plugin::EditError>) -> Verdict {
    match edited {
        Ok(()) => Verdict::Continue,
        Err(error) => Reply::new(500).body(error.to_string()).into(),
    }
}
