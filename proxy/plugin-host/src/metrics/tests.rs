use super::*;

use std::thread;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// All series as text, one a line.
#[track_caller]
fn check(families: &[Family], expect: &[&str]) {
    let line = |name: &str, sample: &Sample| {
        let labels: Vec<_> = (sample.labels.iter())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let value = match &sample.value {
            Value::Counter(count) => count.to_string(),
            Value::Gauge(value) => format!("{value:?}"),
            Value::Histogram { buckets, sum } => {
                let counts: Vec<_> = buckets.iter().map(|(_, n)| n.to_string()).collect();
                format!("{} sum {sum}", counts.join(","))
            }
        };
        format!("{name}{{{}}} {value}", labels.join(","))
    };
    let found: Vec<String> = families
        .iter()
        .flat_map(|family| family.series.iter().map(|s| line(&family.name, s)))
        .collect();
    assert_eq!(found, expect);
}

#[test]
fn each_kind_counts_in_its_own_way() {
    let registry = Registry::new();
    let metrics = registry.plugin("p");
    metrics.count("hits", &[], 2).unwrap();
    metrics.count("hits", &[], 3).unwrap();
    metrics.gauge("level", &[], 2.5).unwrap();
    metrics.gauge("level", &[], -1.0).unwrap();
    for value in [0.0, 0.001, 0.0011, 10.0, 10.5, f64::NAN, f64::INFINITY] {
        metrics.observe("seconds", &[], value).unwrap();
    }
    check(
        &metrics.families(),
        &[
            "hits{} 5",
            "level{} -1.0",
            "seconds{} 2,1,0,0,0,0,0,0,0,0,0,0,1,1 sum 20.5021",
        ],
    );
}

#[test]
fn labels_tell_series_apart_in_any_order() {
    let metrics = Registry::new().plugin("p");
    let sent = |pairs: &[(String, String)]| metrics.count("hits", pairs, 1).unwrap();
    sent(&labels([("a", "1"), ("b", "2")]));
    sent(&labels([("b", "2"), ("a", "1")]));
    sent(&labels([("a", "2"), ("b", "1")]));
    sent(&labels([("a", "12"), ("b", "")]));
    check(
        &metrics.families(),
        &["hits{a=1,b=2} 2", "hits{a=12,b=} 1", "hits{a=2,b=1} 1"],
    );
}

#[test]
fn names_and_labels_have_rules() {
    use MetricError::{InvalidLabel, InvalidName};
    let metrics = Registry::new().plugin("p");
    let longest = format!("a{}", "z_9".repeat(21));
    assert_eq!(longest.len(), MAX_NAME);
    for name in [
        "",
        "A",
        "_a",
        "9a",
        "a-b",
        "a.b",
        "aB",
        "é",
        "a b",
        &format!("{longest}z"),
    ] {
        assert_eq!(metrics.count(name, &[], 1), Err(InvalidName), "`{name}`");
        let as_label = labels([(name, "v")]);
        assert_eq!(
            metrics.gauge("g", &as_label, 1.0),
            Err(InvalidName),
            "`{name}`"
        );
    }
    let longest_value = "v".repeat(MAX_LABEL_VALUE);
    for (pairs, expect) in [
        (labels([(&longest, &longest_value)]), Ok(())),
        (
            labels([("a", &format!("{longest_value}v"))]),
            Err(InvalidLabel),
        ),
        (labels([("le", "1")]), Err(InvalidLabel)),
        (labels([("plugin", "another")]), Err(InvalidLabel)),
        (labels([("a", "1"), ("a", "2")]), Err(InvalidLabel)),
        (
            labels([("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")]),
            Err(InvalidLabel),
        ),
    ] {
        assert_eq!(metrics.observe(&longest, &pairs, 1.0), expect, "{pairs:?}");
    }
    assert_eq!(metrics.families().len(), 1, "what was refused left nothing");
}

#[test]
fn a_name_is_one_metric() {
    let metrics = Registry::new().plugin("p");
    metrics
        .count("hits_total", &labels([("a", "1")]), 1)
        .unwrap();
    metrics.count("hits", &labels([("a", "1")]), 1).unwrap();
    metrics.observe("took", &[], 1.0).unwrap();
    metrics.gauge("level", &[], 1.0).unwrap();
    metrics.gauge("queue_sum", &[], 1.0).unwrap();
    let one = labels([("a", "1")]);
    let mismatches = [
        metrics.gauge("hits", &one, 1.0),
        metrics.gauge("hits_total", &[], 1.0),
        metrics.count("hits", &[], 1),
        metrics.count("hits", &labels([("b", "1")]), 1),
        metrics.count("hits", &labels([("a", "1"), ("b", "1")]), 1),
        metrics.count("level", &[], 1),
        metrics.observe("level", &[], 1.0),
        metrics.gauge("took", &[], 1.0),
        metrics.gauge("took_count", &[], 1.0),
        metrics.count("took_sum", &[], 1),
        metrics.observe("queue", &[], 1.0),
    ];
    assert_eq!(mismatches, [Err(MetricError::Mismatch); 11]);
    let names: Vec<_> = metrics.families().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["hits", "level", "queue_sum", "took"]);
}

#[test]
fn series_are_bounded() {
    let registry = Registry::new();
    let metrics = registry.plugin("p");
    let made = (0..1000)
        .filter(|n| {
            let user = labels([("user", &n.to_string())]);
            metrics.count("hits", &user, 1) == Ok(())
        })
        .count();
    assert_eq!(made, MAX_SERIES);
    assert_eq!(metrics.gauge("level", &[], 1.0), Err(MetricError::TooMany));
    assert_eq!(metrics.count("hits", &labels([("user", "7")]), 1), Ok(()));
    assert_eq!(registry.plugin("q").gauge("level", &[], 1.0), Ok(()));
}

#[test]
fn metrics_live_as_long_as_somebody_has_them() {
    let registry = Registry::new();
    let old = registry.plugin("p");
    old.count("hits", &[], 1).unwrap();
    let new = registry.plugin("p");
    drop(old);
    new.count("hits", &[], 1).unwrap();
    check(&registry.families(&[]), &["plugin_p_hits{plugin=p} 2"]);
    drop(new);
    check(&registry.families(&[]), &[]);
    let fresh = registry.plugin("p");
    check(&registry.families(&[]), &[]);
    drop(fresh);
}

#[test]
fn exported_names_never_run_into_each_other() {
    let registry = Registry::new();
    let all = ["My-Auth", "a", "a_b", "call", "my_auth"].map(|name| registry.plugin(name));
    let [upper, a, a_b, call, lower] = &all;
    upper.count("hits", &labels([("a", "1")]), 1).unwrap();
    lower.count("hits", &[], 2).unwrap();
    upper.gauge("level", &[], 1.0).unwrap();
    lower.count("level", &[], 1).unwrap();
    a.observe("b_c", &[], 1.0).unwrap();
    a_b.gauge("c_sum", &[], 7.0).unwrap();
    a_b.gauge("d", &[], 8.0).unwrap();
    call.observe("duration_seconds", &[], 1.0).unwrap();
    check(
        &registry.families(&[("plugin_call_duration_seconds", MetricKind::Histogram)]),
        &[
            "plugin_a_b_c{plugin=a} 0,0,0,0,0,0,0,0,0,1,0,0,0,0 sum 1",
            "plugin_a_b_d{plugin=a_b} 8.0",
            "plugin_my_auth_hits{plugin=My-Auth,a=1} 1",
            "plugin_my_auth_hits{plugin=my_auth} 2",
            "plugin_my_auth_level{plugin=My-Auth} 1.0",
        ],
    );
}

#[test]
fn threads_lose_no_count() {
    let metrics = Registry::new().plugin("p");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..2_000 {
                    let part = labels([("part", &(n % 5).to_string())]);
                    metrics.count("hits", &part, 1).unwrap();
                    metrics.observe("took", &[], 0.5).unwrap();
                }
            });
        }
    });
    let expect: Vec<_> = (0..5).map(|n| format!("hits{{part={n}}} 1600")).collect();
    let mut expect: Vec<&str> = expect.iter().map(String::as_str).collect();
    expect.push("took{} 0,0,0,0,0,0,0,0,8000,0,0,0,0,0 sum 4000");
    check(&metrics.families(), &expect);
}
