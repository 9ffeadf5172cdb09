//! Lets in who knows the token.

use sluicegate_plugin::{
    ConfigError, Filter, Reply, Request, Secret, Verdict, config, export, info,
};

#[config]
pub struct Config {
    /// What a client must send as `X-Token`.
    token: Secret,
}

pub struct TokenGate(Config);

impl Filter for TokenGate {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.token.is_empty() {
            return Err(ConfigError::key("token", "is empty"));
        }
        Ok(TokenGate(config))
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        match req.header("x-token") {
            Some(given) if self.0.token.matches(&given) => {}
            _ => {
                info!("no token, or a wrong one");
                return Reply::new(401).body("a token, please\n").into();
            }
        }
        match req.set_header("x-filtered-by", "rust") {
            Ok(()) => Verdict::Continue,
            Err(error) => Reply::new(400).body(error.to_string()).into(),
        }
    }
}

export!(TokenGate);

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(token: &str) -> Result<TokenGate, ConfigError> {
        let token = token.into();
        TokenGate::configure(Config { token })
    }

    #[test]
    fn only_who_knows_the_token_gets_in() {
        let gate = gate("s3cret").unwrap();

        let mut req = Request::builder().header("X-Token", "s3cret").build();
        assert_eq!(gate.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.header("x-filtered-by").as_deref(), Some("rust"));

        for mut req in [
            Request::builder().build(),
            Request::builder().header("X-Token", "wrong").build(),
        ] {
            assert_eq!(gate.on_request(&mut req).status(), Some(401));
        }
    }

    #[test]
    fn an_empty_token_is_a_mistake() {
        assert!(gate("").is_err());
    }
}
