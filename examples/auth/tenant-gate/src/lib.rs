//! Lets in known tenants only: the first label of the host names the tenant, and the upstream
//! learns it from `X-Tenant`.

use sluicegate_plugin::{ConfigError, Filter, Reply, Request, Verdict, config, export};

#[config]
pub struct Config {
    tenants: Vec<String>,
}

pub struct TenantGate(Config);

impl Filter for TenantGate {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.tenants.is_empty() {
            return Err(ConfigError::key("tenants", "names nobody"));
        }
        Ok(TenantGate(config))
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let host = req.host();
        let tenant = host.split('.').next().unwrap_or_default();
        if !self.0.tenants.iter().any(|known| known == tenant) {
            return Reply::new(404).body("no such tenant\n").into();
        }
        match req.set_header("X-Tenant", tenant) {
            Ok(()) => Verdict::Continue,
            Err(error) => Reply::new(400).body(error.to_string()).into(),
        }
    }
}

export!(TenantGate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tenants_pass_and_are_named() {
        let tenants = vec!["acme".to_owned()];
        let gate = TenantGate::configure(Config { tenants }).unwrap_or_else(|e| panic!("{e}"));

        let mut req = Request::builder().host("acme.example.com").build();
        assert_eq!(gate.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.header("x-tenant").as_deref(), Some("acme"));

        let mut req = Request::builder().host("evil.example.com").build();
        assert_eq!(gate.on_request(&mut req).status(), Some(404));
    }

    #[test]
    fn an_empty_list_is_a_mistake() {
        let config = Config { tenants: vec![] };
        assert!(TenantGate::configure(config).is_err());
    }
}
