use super::*;

#[track_caller]
fn check(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.encode();
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "no `{line}` in:\n{text}");
    }
}

#[test]
fn everything_counted_is_in_the_text() {
    let metrics = Metrics::new();
    let listener = metrics.listener(":443");
    let connection = listener.accepted();
    listener.tls_handshake("ok");
    listener.retired("requests");
    listener.refused("limit");
    listener.accept_failed();
    let route = metrics.route("chat");
    drop(route.websocket_open(Version::HTTP_11));
    let socket = route.websocket_open(Version::HTTP_11);
    let riding = route.websocket_open(Version::HTTP_2);
    route.handshake_refused(Version::HTTP_11, "origin");
    route.handshake_refused(Version::HTTP_2, "policy");
    route.websocket_closed(Duration::from_secs(30), Some(CloseCode(1001)));
    route.websocket_closed(Duration::from_secs(30), None);
    route.websocket_traffic(Direction::FromDownstream, 100, 2);
    route.recompressed(Direction::FromUpstream, 3);
    route.limit_closed("message_size");
    route.ping_round_trip(Side::FromClient, Duration::from_millis(20));
    route.request(
        &Method::GET,
        StatusCode::NOT_FOUND,
        Duration::from_millis(3),
    );
    let brew = Method::from_bytes(b"BREW").unwrap();
    route.request(&brew, StatusCode::OK, Duration::ZERO);
    route.request_traffic(7, 8);
    metrics.request_rejected("bad_head");
    metrics.response_cut("too_slow");
    let endpoint = metrics.endpoint("backend", "10.0.0.1:3000");
    let lease = endpoint.lease();
    let http2 = endpoint.http2_connection();
    endpoint.connect_error("refused");
    endpoint.connected(Duration::from_millis(1));
    let plugin = metrics.plugin("auth", "chat");
    plugin.call("continue", Duration::from_micros(30));
    plugin.message("replace", Duration::from_micros(3));
    plugin.quarantined(Instant::now() + Duration::from_secs(600));
    let other_plugin = metrics.plugin("ban", "chat");
    other_plugin.quarantined(Instant::now());
    metrics.reload_applied(7);
    metrics.reload_rejected();
    metrics.set_draining(true);
    metrics.set_certificates(vec![("ws.crt".to_owned(), 1_800_000_000)]);
    metrics.export_dropped("access", Arc::new(AtomicU64::new(4)));
    check(
        &metrics,
        &[
            r#"sluicegate_connections_open{listener=":443"} 1"#,
            r#"sluicegate_connections_accepted_total{listener=":443"} 1"#,
            r#"sluicegate_connections_refused_total{listener=":443",reason="limit"} 1"#,
            r#"sluicegate_accept_errors_total{listener=":443"} 1"#,
            r#"sluicegate_tls_handshakes_total{listener=":443",result="ok"} 1"#,
            r#"sluicegate_connections_retired_total{listener=":443",reason="requests"} 1"#,
            r#"sluicegate_responses_cut_total{reason="too_slow"} 1"#,
            r#"sluicegate_websockets_open{route="chat",http_version="1.1"} 1"#,
            r#"sluicegate_websockets_open{route="chat",http_version="2"} 1"#,
            r#"sluicegate_handshakes_total{route="chat",http_version="1.1",result="accepted"} 2"#,
            r#"sluicegate_handshakes_total{route="chat",http_version="1.1",result="origin"} 1"#,
            r#"sluicegate_handshakes_total{route="chat",http_version="2",result="accepted"} 1"#,
            r#"sluicegate_handshakes_total{route="chat",http_version="2",result="policy"} 1"#,
            r#"sluicegate_websocket_duration_seconds_count{route="chat"} 2"#,
            r#"sluicegate_websocket_duration_seconds_bucket{le="60.0",route="chat"} 2"#,
            r#"sluicegate_websocket_closes_total{route="chat",code="1001"} 1"#,
            r#"sluicegate_websocket_closes_total{route="chat",code="none"} 1"#,
            r#"sluicegate_websocket_bytes_total{route="chat",direction="from_downstream"} 100"#,
            r#"sluicegate_websocket_messages_total{route="chat",direction="from_downstream"} 2"#,
            r#"sluicegate_websocket_recompressed_messages_total{route="chat",direction="from_upstream"} 3"#,
            r#"sluicegate_websocket_limit_closes_total{route="chat",limit="message_size"} 1"#,
            r#"sluicegate_websocket_ping_round_trip_seconds_bucket{le="0.01",route="chat",side="client"} 0"#,
            r#"sluicegate_websocket_ping_round_trip_seconds_bucket{le="0.025",route="chat",side="client"} 1"#,
            r#"sluicegate_requests_total{route="chat",method="GET",status="4xx"} 1"#,
            r#"sluicegate_requests_total{route="chat",method="other",status="2xx"} 1"#,
            r#"sluicegate_request_bytes_total{route="chat",direction="from_downstream"} 7"#,
            r#"sluicegate_request_bytes_total{route="chat",direction="from_upstream"} 8"#,
            r#"sluicegate_request_duration_seconds_bucket{le="0.005",route="chat"} 2"#,
            r#"sluicegate_requests_rejected_total{reason="bad_head"} 1"#,
            r#"sluicegate_upstream_up{upstream="backend",endpoint="10.0.0.1:3000"} 1"#,
            r#"sluicegate_upstream_leases{upstream="backend",endpoint="10.0.0.1:3000"} 1"#,
            r#"sluicegate_upstream_http2_connections{upstream="backend",endpoint="10.0.0.1:3000"} 1"#,
            r#"sluicegate_upstream_connect_errors_total{upstream="backend",endpoint="10.0.0.1:3000",kind="refused"} 1"#,
            r#"sluicegate_plugin_calls_total{plugin="auth",route="chat",result="continue"} 1"#,
            r#"sluicegate_plugin_call_duration_seconds_count{plugin="auth",route="chat"} 1"#,
            r#"sluicegate_plugin_messages_total{plugin="auth",route="chat",verdict="replace"} 1"#,
            r#"sluicegate_plugin_message_duration_seconds_bucket{le="0.000005",plugin="auth",route="chat"} 1"#,
            r#"sluicegate_plugin_quarantines_total{plugin="auth",route="chat"} 1"#,
            r#"sluicegate_plugin_quarantined{plugin="auth",route="chat"} 1"#,
            r#"sluicegate_plugin_quarantined{plugin="ban",route="chat"} 0"#,
            r#"sluicegate_reloads_total{result="applied"} 1"#,
            r#"sluicegate_reloads_total{result="rejected"} 1"#,
            "sluicegate_config_generation 7",
            "sluicegate_draining 1",
            r#"sluicegate_certificate_expiry_timestamp_seconds{cert="ws.crt"} 1800000000"#,
            r#"sluicegate_log_lines_dropped_total{stream="access"} 4"#,
            concat!(
                r#"sluicegate_build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
            "# EOF",
        ],
    );
    drop((connection, socket, riding, lease, http2));
    check(
        &metrics,
        &[
            r#"sluicegate_connections_open{listener=":443"} 0"#,
            r#"sluicegate_websockets_open{route="chat",http_version="1.1"} 0"#,
            r#"sluicegate_websockets_open{route="chat",http_version="2"} 0"#,
            r#"sluicegate_upstream_leases{upstream="backend",endpoint="10.0.0.1:3000"} 0"#,
            r#"sluicegate_upstream_http2_connections{upstream="backend",endpoint="10.0.0.1:3000"} 0"#,
        ],
    );
}

#[test]
fn series_live_as_long_as_a_handle() {
    let metrics = Metrics::new();
    let old = metrics.route("chat");
    old.handshake_refused(Version::HTTP_11, "origin");
    let new = metrics.route("chat");
    drop(old);
    let line = r#"sluicegate_handshakes_total{route="chat",http_version="1.1",result="origin"} 1"#;
    check(&metrics, &[line]);
    let tunnel = new.websocket_open(Version::HTTP_11);
    drop(new);
    check(&metrics, &[line]);
    drop(tunnel);
    assert!(!metrics.encode().contains("chat"));
    let fresh = metrics.route("chat");
    assert!(!metrics.encode().contains(line));
    drop(fresh);
}

#[test]
fn plugins_count_for_themselves() {
    let metrics = Metrics::new();
    let registry = Arc::new(PluginRegistry::new());
    metrics.export_plugins(Arc::clone(&registry));
    let auth = registry.plugin("my-auth");
    let reason = [("reason".to_owned(), "no \"key\"\n".to_owned())];
    auth.count("refused_total", &reason, 3).unwrap();
    auth.gauge("keys", &[], 2.5).unwrap();
    auth.observe("lookup_seconds", &[], 0.002).unwrap();
    check(
        &metrics,
        &[
            "# TYPE sluicegate_plugin_my_auth_refused counter",
            r#"sluicegate_plugin_my_auth_refused_total{plugin="my-auth",reason="no \"key\"\n"} 3"#,
            "# TYPE sluicegate_plugin_my_auth_keys gauge",
            r#"sluicegate_plugin_my_auth_keys{plugin="my-auth"} 2.5"#,
            r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="0.001",plugin="my-auth"} 0"#,
            r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="0.0025",plugin="my-auth"} 1"#,
            r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="+Inf",plugin="my-auth"} 1"#,
            r#"sluicegate_plugin_my_auth_lookup_seconds_count{plugin="my-auth"} 1"#,
            r#"sluicegate_plugin_my_auth_lookup_seconds_sum{plugin="my-auth"} 0.002"#,
        ],
    );
}

/// Those that begin with `plugin_` are all told to the plugins' registry.
#[test]
fn no_plugin_can_take_the_name_of_a_family_of_ours() {
    let metrics = Metrics::new();
    let own = metrics.plugin("p", "route");
    own.call("continue", Duration::ZERO);
    own.message("forward", Duration::ZERO);
    let text = metrics.encode();
    let mut found = 0;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# TYPE sluicegate_plugin_") {
            let (name, _) = name.split_once(' ').unwrap();
            let full = format!("plugin_{name}");
            assert!(collect::OWN.iter().any(|(own, _)| *own == full), "{full}");
            found += 1;
        }
    }
    assert_eq!(found, collect::OWN.len());
    let registry = Arc::new(PluginRegistry::new());
    let call = registry.plugin("call");
    call.observe("duration_seconds", &[], 1.0).unwrap();
    metrics.export_plugins(registry);
    assert!(!metrics.encode().contains(r#"plugin="call""#), "left out");
}

#[test]
fn what_a_route_does_not_do_has_no_series() {
    let metrics = Metrics::new();
    let _route = metrics.route("chat");
    let _plugin = metrics.plugin("auth", "chat");
    let text = metrics.encode();
    assert!(text.contains("sluicegate_websocket_messages_total"));
    for family in [
        "ping_round_trip",
        "recompressed",
        "plugin_message",
        r#"http_version="2""#,
    ] {
        assert!(!text.contains(family), "{family} in:\n{text}");
    }
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new();
    let route = metrics.route("a\"b\nc");
    route.handshake_refused(Version::HTTP_11, "origin");
    check(
        &metrics,
        &[r#"sluicegate_handshakes_total{route="a\"b\nc",http_version="1.1",result="origin"} 1"#],
    );
}
