//! A plugin as it was built for version 0.1.0 of the interface: straight from the frozen WIT, without the
//! SDK. The host must go on running it.

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "bindings are generated into it")]
mod guest {
    wit_bindgen::generate!({
        world: "handshake-filter",
        path: "../../../plugin-sdk/wit/0.1.0",
    });

    use sluicegate::plugin::about::Hook;
    use sluicegate::plugin::http::Reply;
    use sluicegate::plugin::{clock, logging};

    struct Old;

    impl Guest for Old {
        fn describe() -> Description {
            Description {
                name: "old".to_owned(),
                version: "1.0.0".to_owned(),
                hooks: vec![Hook::Request, Hook::Response],
            }
        }

        fn configure(config: String) -> Result<(), String> {
            if config == "{}" {
                Ok(())
            } else {
                Err("takes no config".to_owned())
            }
        }

        fn on_request(req: &Request) -> Verdict {
            logging::log(
                logging::Level::Info,
                &format!("old plugin at {}", clock::now()),
            );
            if req.query().as_deref() == Some("refuse") {
                return Verdict::Respond(Reply {
                    status: 418,
                    headers: vec![("x-by".to_owned(), b"old".to_vec())],
                    body: req.method().into_bytes(),
                });
            }
            let refused = format!("{:?}", req.set_header("connection", b"close"));
            match req.set_header("x-old", refused.as_bytes()) {
                Ok(()) => Verdict::Continue,
                Err(_) => panic!("a harmless header"),
            }
        }

        fn on_response(res: &Response) -> Verdict {
            match res.set_header("x-old-answer", res.status().to_string().as_bytes()) {
                Ok(()) => Verdict::Continue,
                Err(_) => panic!("a harmless header"),
            }
        }
    }

    export!(Old);
}
