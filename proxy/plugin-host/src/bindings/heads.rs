//! `interface http`: the heads as a guest reads and edits them.
//!
//! Every edit goes by the rule book (`sluicegate-plugin-rules`) and can be undone.

use std::sync::Arc;

use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use sluicegate_plugin_rules as rules;
use wasmtime::component::Resource;

use super::{RequestHandle, ResponseHandle, State, wit};

impl wit::Host for State {}

impl wit::HostRequest for State {
    fn method(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.method.as_str().to_owned())
    }
    fn path(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.path.as_ref().to_owned())
    }
    fn query(&mut self, _: Resource<RequestHandle>) -> Option<String> {
        self.read(|head| head.query.as_deref().map(str::to_owned))
    }
    fn set_query(
        &mut self,
        _: Resource<RequestHandle>,
        query: Option<String>,
    ) -> Result<(), wit::EditError> {
        query.as_deref().map_or(Ok(()), rules::check_query)?;
        if let Some(head) = &mut self.request {
            self.undo.note_query(head.query.as_ref());
            head.query = query.map(Into::into);
        }
        Ok(())
    }
    fn scheme(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.scheme.to_owned())
    }
    fn host(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.host.as_ref().to_owned())
    }
    fn client_ip(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.client_ip.to_string())
    }
    fn request_id(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.request_id.as_ref().to_owned())
    }
    fn route(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.route.as_ref().to_owned())
    }
    fn tls(&mut self, _: Resource<RequestHandle>) -> Option<wit::TlsFacts> {
        self.read(|head| {
            head.facts.tls.as_ref().map(|tls| wit::TlsFacts {
                version: tls.version.to_owned(),
                cipher: tls.cipher.to_owned(),
                sni: tls.sni.as_deref().map(str::to_owned),
                client_subject: tls.client_subject.as_deref().map(str::to_owned),
            })
        })
    }
    fn header(&mut self, _: Resource<RequestHandle>, name: String) -> Option<Vec<u8>> {
        self.read(|head| first(&head.headers, &name))
    }
    fn header_values(&mut self, _: Resource<RequestHandle>, name: String) -> Vec<Vec<u8>> {
        self.read(|head| all(&head.headers, &name))
    }
    fn headers(&mut self, _: Resource<RequestHandle>) -> Vec<(String, Vec<u8>)> {
        self.read(|head| pairs(&head.headers))
    }
    fn set_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| rules::set_named(fields, name, &value))
    }
    fn add_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| rules::add_named(fields, name, &value))
    }
    fn remove_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| {
            fields.remove(name);
            Ok(())
        })
    }
    fn subprotocols(&mut self, _: Resource<RequestHandle>) -> Vec<String> {
        self.read(|head| {
            rules::subprotocols(&head.headers)
                .map(str::to_owned)
                .collect()
        })
    }
    fn set_subprotocols(
        &mut self,
        _: Resource<RequestHandle>,
        offered: Vec<String>,
    ) -> Result<(), wit::EditError> {
        self.edit_request(SEC_WEBSOCKET_PROTOCOL, |fields, _| {
            rules::set_subprotocols(fields, &offered)
        })
    }
    fn peer(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| {
            let peer = head.facts.peer;
            peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string())
        })
    }
    fn listener(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.listener.as_ref().to_owned())
    }
    fn http_version(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.http_version.to_owned())
    }
    fn is_websocket(&mut self, _: Resource<RequestHandle>) -> bool {
        self.read(|head| head.facts.is_websocket)
    }
    fn set_upstream(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
    ) -> Result<(), wit::EditError> {
        let mut allowed = self.plugin.grants.upstreams.iter();
        let name = allowed
            .find(|allowed| ***allowed == *name)
            .ok_or(wit::EditError::NotAllowed)?;
        if let Some(head) = &mut self.request {
            self.undo.note_upstream(head.upstream.as_ref());
            head.upstream = Some(Arc::clone(name));
        }
        Ok(())
    }
    fn label(&mut self, _: Resource<RequestHandle>, name: String) -> Option<String> {
        self.session().label(&name).map(str::to_owned)
    }
    fn labels(&mut self, _: Resource<RequestHandle>) -> Vec<(String, String)> {
        self.session().labels.clone()
    }
    fn set_label(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
        value: String,
    ) -> Result<(), wit::EditError> {
        self.edit_session(|session| session.set_label(&name, &value))
    }
    fn expire_at(&mut self, _: Resource<RequestHandle>, moment: u64) {
        let _never_refused = self.edit_session(|session| {
            session.expire_at(moment);
            Ok(())
        });
    }
    fn limit_lifetime(&mut self, _: Resource<RequestHandle>, milliseconds: u64) {
        let _never_refused = self.edit_session(|session| {
            session.limit_lifetime(milliseconds);
            Ok(())
        });
    }
    fn keep(&mut self, _: Resource<RequestHandle>, data: Vec<u8>) -> Result<(), wit::EditError> {
        self.keep_bytes(data)
    }
    fn drop(&mut self, _: Resource<RequestHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::HostResponse for State {
    fn status(&mut self, _: Resource<ResponseHandle>) -> u16 {
        self.read_response(|head| head.status.as_u16())
    }
    fn is_upgrade(&mut self, _: Resource<ResponseHandle>) -> bool {
        self.read_response(|head| head.is_upgrade)
    }
    fn header(&mut self, _: Resource<ResponseHandle>, name: String) -> Option<Vec<u8>> {
        self.read_response(|head| first(&head.headers, &name))
    }
    fn header_values(&mut self, _: Resource<ResponseHandle>, name: String) -> Vec<Vec<u8>> {
        self.read_response(|head| all(&head.headers, &name))
    }
    fn headers(&mut self, _: Resource<ResponseHandle>) -> Vec<(String, Vec<u8>)> {
        self.read_response(|head| pairs(&head.headers))
    }
    fn set_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| rules::set_named(fields, name, &value))
    }
    fn add_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| rules::add_named(fields, name, &value))
    }
    fn remove_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| {
            fields.remove(name);
            Ok(())
        })
    }
    fn set_subprotocol(
        &mut self,
        _: Resource<ResponseHandle>,
        chosen: Option<String>,
    ) -> Result<(), wit::EditError> {
        let Some(head) = &mut self.response else {
            return Ok(());
        };
        if !head.is_upgrade {
            return Err(wit::EditError::NotOffered);
        }
        self.undo.note_field(&head.headers, &SEC_WEBSOCKET_PROTOCOL);
        let chosen = chosen.as_deref();
        Ok(rules::set_subprotocol(
            &mut head.headers,
            &head.offered,
            chosen,
        )?)
    }
    fn label(&mut self, _: Resource<ResponseHandle>, name: String) -> Option<String> {
        self.session().label(&name).map(str::to_owned)
    }
    fn labels(&mut self, _: Resource<ResponseHandle>) -> Vec<(String, String)> {
        self.session().labels.clone()
    }
    fn set_label(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
        value: String,
    ) -> Result<(), wit::EditError> {
        self.edit_session(|session| session.set_label(&name, &value))
    }
    fn expire_at(&mut self, _: Resource<ResponseHandle>, moment: u64) {
        let _never_refused = self.edit_session(|session| {
            session.expire_at(moment);
            Ok(())
        });
    }
    fn limit_lifetime(&mut self, _: Resource<ResponseHandle>, milliseconds: u64) {
        let _never_refused = self.edit_session(|session| {
            session.limit_lifetime(milliseconds);
            Ok(())
        });
    }
    fn kept(&mut self, _: Resource<ResponseHandle>) -> Vec<u8> {
        self.kept.to_vec()
    }
    fn keep(&mut self, _: Resource<ResponseHandle>, data: Vec<u8>) -> Result<(), wit::EditError> {
        self.keep_bytes(data)
    }
    fn drop(&mut self, _: Resource<ResponseHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl From<rules::EditError> for wit::EditError {
    fn from(error: rules::EditError) -> Self {
        match error {
            rules::EditError::InvalidName => wit::EditError::InvalidName,
            rules::EditError::InvalidValue => wit::EditError::InvalidValue,
            rules::EditError::Protected => wit::EditError::Protected,
            rules::EditError::TooMany => wit::EditError::TooMany,
            rules::EditError::TooLarge => wit::EditError::TooLarge,
            rules::EditError::NotOffered => wit::EditError::NotOffered,
            rules::EditError::NotAllowed => wit::EditError::NotAllowed,
        }
    }
}

fn first(fields: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    fields.get(name).map(|value| value.as_bytes().to_vec())
}

fn all(fields: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    fields
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect()
}

fn pairs(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
        .collect()
}
