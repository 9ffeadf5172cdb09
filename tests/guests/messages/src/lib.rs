//! A filter of messages that does what they tell it, straight from the WIT, without the SDK: for what no
//! honest plugin would do, and for what the host promises to one that does.
//!
//! Its config holds one key, `does`, with words that say how it misbehaves outside of messages (`open-trap`,
//! `close-loop` and so on), what it wants (`wants-close`) and what it hides (`silent`).

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "bindings are generated into it")]
mod guest {
    use std::cell::{Cell, RefCell};

    wit_bindgen::generate!({
        world: "message-filter",
        path: "../../../plugin-sdk/wit/0.2.0",
    });

    use exports::sluicegate::plugin::messages::{
        self as wit, CloseFrame, Conversation, Ending, GuestConversation, Injection, Interest,
        Kinds, Message, Moment, Opening, Reaction, Side,
    };
    use sluicegate::plugin::{crypto, kv, logging, outbound};

    struct Plugin;

    /// One tunnel's.
    struct Talk {
        messages: Cell<u32>,
        opening: String,
        kept: Vec<u8>,
    }

    thread_local! {
        static DOES: RefCell<String> = const { RefCell::new(String::new()) };
        /// Messages of all conversations.
        static ALL: Cell<u32> = const { Cell::new(0) };
        /// Conversations that were opened and not dropped.
        static OPEN: Cell<u32> = const { Cell::new(0) };
        static TIMERS: Cell<u32> = const { Cell::new(0) };
    }

    fn does(word: &str) -> bool {
        DOES.with_borrow(|does| does.split(' ').any(|does| does == word))
    }

    /// Fails as the config says for this moment.
    fn misbehave(moment: &str) {
        if does(&format!("{moment}-trap")) {
            trap_as_asked();
        }
        if does(&format!("{moment}-loop")) {
            loop {
                std::hint::spin_loop();
            }
        }
        if does(&format!("{moment}-memory")) {
            bomb();
        }
    }

    #[inline(never)]
    fn trap_as_asked() -> ! {
        std::process::abort()
    }

    fn bomb() {
        let mut hoard: Vec<Vec<u8>> = Vec::new();
        loop {
            hoard.push(vec![1; 1 << 20]);
            std::hint::black_box(&hoard);
        }
    }

    impl Guest for Plugin {
        fn describe() -> Description {
            Description {
                name: "messages".to_owned(),
                version: "1.0.0".to_owned(),
                hooks: Hooks::REQUEST | Hooks::RESPONSE | Hooks::MESSAGES,
                config_schema: None,
                optional: vec!["kv".to_owned(), "outbound".to_owned()],
            }
        }

        fn configure(config: String) -> Result<Hooks, ConfigError> {
            let does = config
                .strip_prefix("{\"does\":\"")
                .and_then(|rest| rest.strip_suffix("\"}"))
                .unwrap_or_default();
            DOES.set(does.to_owned());
            let used = [("request", Hooks::REQUEST), ("response", Hooks::RESPONSE)];
            let mut hooks = match self::does("silent") {
                true => Hooks::empty(),
                false => Hooks::MESSAGES,
            };
            for (_, hook) in used.into_iter().filter(|(word, _)| self::does(word)) {
                hooks = hooks | hook;
            }
            Ok(hooks)
        }

        fn on_request(req: &Request) -> Verdict {
            let refused = req.keep(&[0; 5000]).is_err();
            let kept = req.keep(format!("refused {refused}").as_bytes());
            if does("request-trap") || kept.is_err() {
                trap_as_asked();
            }
            Verdict::Continue
        }

        fn on_response(res: &Response) -> Verdict {
            let mut kept = res.kept();
            kept.extend_from_slice(b", and more");
            if res.keep(&kept).is_err() || does("response-trap") {
                trap_as_asked();
            }
            Verdict::Continue
        }
    }

    impl wit::Guest for Plugin {
        type Conversation = Talk;

        fn wants() -> Interest {
            misbehave("wants");
            let data = Kinds::TEXT | Kinds::BINARY;
            let nothing = does("wants-nothing");
            let or_none = |kinds| if nothing { Kinds::empty() } else { kinds };
            Interest {
                from_client: or_none(data | Kinds::PING),
                from_server: or_none(data),
                max_size: does("wants-small").then_some(1000),
                every: does("wants-timer").then_some(5),
                close: does("wants-close"),
            }
        }

        fn open(opening: Opening) -> Option<Conversation> {
            misbehave("open");
            if opening.path == "/none" {
                return None;
            }
            OPEN.set(OPEN.get() + 1);
            let Opening {
                request_id,
                route,
                host,
                path,
                query,
                client_ip,
                headers,
                subprotocol,
                labels,
                kept,
            } = opening;
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
                .collect();
            Some(Conversation::new(Talk {
                messages: Cell::new(0),
                opening: format!(
                    "{request_id} {route} {host} {path} {query:?} {client_ip} {headers:?} {subprotocol:?} {labels:?}"
                ),
                kept,
            }))
        }
    }

    impl GuestConversation for Talk {
        fn on_message(&self, sender: Side, message: Message) -> Reaction {
            self.messages.set(self.messages.get() + 1);
            ALL.set(ALL.get() + 1);
            let text = match message {
                Message::Text(text) => text,
                Message::Binary(data) => {
                    let sum = data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                    return if sum == 0 {
                        forward()
                    } else {
                        replace(Message::Binary(vec![sum as u8]))
                    };
                }
                Message::Ping(data) => return replace(Message::Ping(data)),
                Message::Pong(_) => return forward(),
            };
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match word {
                "drop" => reaction(wit::Verdict::Drop),
                "count" => say(format!(
                    "{} of {}, {} open",
                    self.messages.get(),
                    ALL.get(),
                    OPEN.get()
                )),
                "opening" => say(self.opening.clone()),
                "kept" => say(String::from_utf8_lossy(&self.kept).into_owned()),
                "sender" => say(format!("{sender:?}")),
                "close" => {
                    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                    reaction(wit::Verdict::Close(CloseFrame {
                        code: code.parse().unwrap_or(0),
                        reason: reason.repeat(if reason == "long" { 100 } else { 1 }),
                    }))
                }
                "inject" => Reaction {
                    verdict: wit::Verdict::Forward,
                    inject: (0..rest.parse().unwrap_or(0))
                        .map(|n| Injection {
                            to: if n % 2 == 0 {
                                Side::Client
                            } else {
                                Side::Server
                            },
                            moment: if n % 3 == 0 {
                                Moment::Before
                            } else {
                                Moment::After
                            },
                            message: Message::Text(n.to_string()),
                        })
                        .collect(),
                },
                "large" => replace(Message::Binary(vec![7; rest.parse().unwrap_or(0)])),
                "as-ping" => replace(Message::Ping(vec![7; rest.parse().unwrap_or(0)])),
                "as-binary" => replace(Message::Binary(rest.as_bytes().to_vec())),
                "inject-ping" => Reaction {
                    verdict: wit::Verdict::Forward,
                    inject: vec![Injection {
                        to: Side::Client,
                        moment: Moment::After,
                        message: Message::Ping(vec![7; rest.parse().unwrap_or(0)]),
                    }],
                },
                "trap" => trap_as_asked(),
                "loop" => loop {
                    std::hint::spin_loop();
                },
                "spin" => {
                    let mut n = rest.parse::<u64>().unwrap_or(0) * 1_000_000;
                    while std::hint::black_box(n) > 0 {
                        n -= 1;
                    }
                    say(format!("{} of {}", self.messages.get(), ALL.get()))
                }
                "memory" => {
                    bomb();
                    forward()
                }
                "log" => {
                    logging::log(logging::Level::Warn, "told to", &[]);
                    forward()
                }
                "kv" => say(format!("{:?}", kv::increment("count", 1, None))),
                "password" => say(format!("{:?}", crypto::verify_password("x", "y"))),
                "outbound" => {
                    let answer = outbound::send(&outbound::OutboundRequest {
                        upstream: "idp".to_owned(),
                        method: "GET".to_owned(),
                        path: "/".to_owned(),
                        headers: Vec::new(),
                        body: Vec::new(),
                        timeout: None,
                    });
                    let answer =
                        answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
                    say(format!(
                        "{answer:?} {} of {}",
                        self.messages.get(),
                        ALL.get()
                    ))
                }
                _ => forward(),
            }
        }

        fn on_timer(&self) -> Reaction {
            misbehave("timer");
            TIMERS.set(TIMERS.get() + 1);
            if does("timer-drops") {
                return reaction(wit::Verdict::Drop);
            }
            Reaction {
                verdict: wit::Verdict::Forward,
                inject: vec![Injection {
                    to: Side::Client,
                    moment: Moment::After,
                    message: Message::Text(format!("timer {}", TIMERS.get())),
                }],
            }
        }

        fn on_close(&self, ending: Ending) {
            misbehave("close");
            let Ending { code, by, cause } = ending;
            logging::log(
                logging::Level::Warn,
                &format!(
                    "over after {}: {code:?} {by:?} {cause}",
                    self.messages.get()
                ),
                &[],
            );
        }
    }

    impl Drop for Talk {
        fn drop(&mut self) {
            misbehave("drop");
            OPEN.set(OPEN.get() - 1);
        }
    }

    fn reaction(verdict: wit::Verdict) -> Reaction {
        Reaction {
            verdict,
            inject: Vec::new(),
        }
    }

    fn forward() -> Reaction {
        reaction(wit::Verdict::Forward)
    }

    fn replace(message: Message) -> Reaction {
        reaction(wit::Verdict::Replace(message))
    }

    fn say(text: String) -> Reaction {
        replace(Message::Text(text))
    }

    export!(Plugin);
}
