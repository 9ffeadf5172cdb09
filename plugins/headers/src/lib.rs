//! Sets, adds and removes headers, on requests and on responses.
//!
//! Removals come first, then `set`, then `add`, as in the proxy's own `request_headers`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use sluicegate_plugin::{
    ConfigError, EditError, Filter, Hook, Reply, Request, Response, ResponseFilter, Verdict,
    check_header, config, export,
};

#[config]
#[derive(Debug, Default)]
pub struct Config {
    /// Edits of what goes upstream.
    #[serde(default)]
    request: Edits,
    /// Edits of what the client gets, a WebSocket's 101 included.
    #[serde(default)]
    response: Edits,
}

#[config]
#[derive(Debug, Default)]
struct Edits {
    /// Names to remove; comes first.
    #[serde(default)]
    remove: Vec<String>,
    /// Name = value; replaces all values.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// Name = value; added to what is there.
    #[serde(default)]
    add: BTreeMap<String, String>,
}

pub struct Headers(Config);

impl Filter for Headers {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        config.request.check("request")?;
        config.response.check("response")?;
        Ok(Headers(config))
    }

    fn uses(&self, hook: Hook) -> bool {
        match hook {
            Hook::Request => self.0.request.each().next().is_some(),
            Hook::Response => self.0.response.each().next().is_some(),
            _ => true,
        }
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        verdict(self.0.request.apply(|edit| match edit {
            Edit::Remove(name) => req.remove_header(name),
            Edit::Set(name, value) => req.set_header(name, value),
            Edit::Add(name, value) => req.add_header(name, value),
        }))
    }
}

impl ResponseFilter for Headers {
    fn on_response(&self, res: &mut Response) -> Verdict {
        verdict(self.0.response.apply(|edit| match edit {
            Edit::Remove(name) => res.remove_header(name),
            Edit::Set(name, value) => res.set_header(name, value),
            Edit::Add(name, value) => res.add_header(name, value),
        }))
    }
}

export!(Headers);

enum Edit<'a> {
    Remove(&'a str),
    Set(&'a str, &'a str),
    Add(&'a str, &'a str),
}

impl Edits {
    fn each(&self) -> impl Iterator<Item = Edit<'_>> {
        let remove = self.remove.iter().map(|name| Edit::Remove(name));
        let set = self.set.iter().map(|(name, value)| Edit::Set(name, value));
        let add = self.add.iter().map(|(name, value)| Edit::Add(name, value));
        remove.chain(set).chain(add)
    }

    /// The first edit that fails ends it; its name comes with the reason.
    fn apply(
        &self,
        mut edit: impl FnMut(Edit<'_>) -> Result<(), EditError>,
    ) -> Result<(), (String, EditError)> {
        self.each().try_for_each(|one| {
            let (Edit::Remove(name) | Edit::Set(name, _) | Edit::Add(name, _)) = one;
            edit(one).map_err(|error| (name.to_owned(), error))
        })
    }

    /// Finds at start-up what the proxy would refuse on every request.
    fn check(&self, side: &str) -> Result<(), ConfigError> {
        for edit in self.each() {
            let (list, name, value) = match edit {
                Edit::Remove(name) => ("remove", name, ""),
                Edit::Set(name, value) => ("set", name, value),
                Edit::Add(name, value) => ("add", name, value),
            };
            check_header(name, value).map_err(|error| {
                ConfigError::key(format!("{side}.{list}"), format!("`{name}`: {error}"))
            })?;
        }
        Ok(())
    }
}

fn verdict(result: Result<(), (String, EditError)>) -> Verdict {
    match result {
        Ok(()) => Verdict::Continue,
        // Only a head that is full already gets here; half the edits would be worse than none.
        Err((name, error)) => {
            sluicegate_plugin::warn!("header `{name}`: {error}");
            Reply::new(500).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> Edits {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        let remove = remove.iter().map(|name| (*name).into()).collect();
        Edits {
            remove,
            set: map(set),
            add: map(add),
        }
    }

    #[test]
    fn removals_come_first_then_set_then_add() {
        let all = || {
            edits(
                &["x-a", "x-b"],
                &[("x-b", "1"), ("x-c", "2")],
                &[("x-c", "3")],
            )
        };
        let Ok(filter) = Headers::configure(Config {
            request: all(),
            response: all(),
        }) else {
            panic!("a good config")
        };
        let mut req = Request::builder()
            .header("X-A", "old")
            .header("X-B", "old")
            .build();
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.header("x-a"), None);
        assert_eq!(req.header_values("x-b"), [b"1".to_vec()]);
        assert_eq!(req.header_values("x-c"), [b"2".to_vec(), b"3".to_vec()]);

        let mut res = Response::builder()
            .header("X-A", "old")
            .header("X-C", "old")
            .build();
        assert_eq!(filter.on_response(&mut res), Verdict::Continue);
        assert_eq!(res.header("x-a"), None);
        assert_eq!(res.header_values("x-c"), [b"2".to_vec(), b"3".to_vec()]);
    }

    #[test]
    fn a_hook_without_edits_is_not_used() {
        #[track_caller]
        fn check(request: Edits, response: Edits, expect: [bool; 2]) {
            let filter = Headers::configure(Config { request, response }).ok();
            let used = [Hook::Request, Hook::Response].map(|hook| {
                let filter = filter.as_ref();
                filter.is_some_and(|filter| filter.uses(hook))
            });
            assert_eq!(used, expect);
        }
        let none = Edits::default;
        check(none(), none(), [false, false]);
        check(edits(&["x-a"], &[], &[]), none(), [true, false]);
        check(none(), edits(&[], &[("x-a", "1")], &[]), [false, true]);
        check(
            edits(&[], &[], &[("x-a", "1")]),
            edits(&["x-a"], &[], &[]),
            [true, true],
        );
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(request: Edits, expect: &str) {
            let config = Config {
                request,
                ..Config::default()
            };
            assert_eq!(
                Headers::configure(config)
                    .map(|_| ())
                    .unwrap_err()
                    .to_string(),
                expect
            );
        }
        check(
            edits(&["x y"], &[], &[]),
            "`request.remove`: `x y`: not a field name",
        );
        check(
            edits(&[], &[("", "v")], &[]),
            "`request.set`: ``: not a field name",
        );
        check(
            edits(&[], &[], &[("x", "a\r\nb")]),
            "`request.add`: `x`: not a valid value",
        );
        check(
            edits(&[], &[("Content-Length", "1")], &[]),
            "`request.set`: `Content-Length`: written by the proxy itself",
        );
    }
}
