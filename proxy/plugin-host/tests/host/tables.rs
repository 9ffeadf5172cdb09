//! What no Rust guest does, in modules written by hand: tables that grow, memory that is searched for what
//! others left in it, calls of the host from within one.

use crate::support::{host, modules, request};
use sluicegate_plugin_host::{Filter, FilterError, Grants, Limits, Verdict};

#[tokio::test]
async fn a_table_bomb_is_refused() {
    // It grows until it is refused, and traps if that never comes or comes at once.
    let bomb = r#"
        (loop $more
          (br_if $more
            (i32.and
              (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))
              (i32.lt_u (table.size $table) (i32.const 10000000)))))
        (if (i32.ge_u (table.size $table) (i32.const 10000000)) (then unreachable))
        (if (i32.lt_u (table.size $table) (i32.const 1000)) (then unreachable))"#;
    let filter = filter("(table $table 1 funcref)", bomb).await;
    for _ in 0..3 {
        assert!(continues(&filter).await.is_ok());
    }
}

#[tokio::test]
async fn recycled_memory_and_tables_are_as_new() {
    // Looks at all it was born with and all it grows by, then leaves its marks there.
    let search = r#"
        (local $at i32)
        (if (i32.ne (memory.grow (i32.const 4)) (i32.const 1)) (then unreachable))
        (local.set $at (i32.const 8192))
        (loop $look
          (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
          (i64.store (local.get $at) (i64.const -1))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br_if $look (i32.lt_u (local.get $at) (i32.const 327680))))
        (if (i32.ne (table.grow $table (ref.null func) (i32.const 500)) (i32.const 10))
          (then unreachable))
        (local.set $at (i32.const 0))
        (loop $look
          (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then unreachable))
          (table.set $table (local.get $at) (ref.func $drop_request))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $look (i32.lt_u (local.get $at) (i32.const 510))))"#;
    let declared = "(table $table 10 funcref) (elem declare func $drop_request)";
    let filter = filter(declared, search).await;
    for _ in 0..20 {
        let outcome = continues(&filter).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_call_from_within_a_call_is_refused() {
    // To be given a string, a guest is asked for memory; there it calls the host again.
    let text = modules::text(
        r#"(import "sluicegate:plugin/http@0.1.0" "[method]request.path"
             (func $path (param i32 i32)))"#,
        "",
        "(call $path (global.get $lent) (i32.const 2048))",
        "(call $path (local.get 0) (i32.const 2048)) (call $drop_request (local.get 0))",
    );
    let plugin = host(1)
        .load(
            "p",
            &modules::encoded(&text),
            Limits::default(),
            &Grants::default(),
        )
        .expect("it loads");
    let filter = plugin.configure("{}").await.expect("a config");
    let Err(FilterError::Trap { reason, .. }) = continues(&filter).await else {
        panic!("it traps");
    };
    assert!(reason.contains("cannot leave"), "{reason}");
}

#[test]
fn what_no_instance_could_hold_is_refused_when_it_is_loaded() {
    let host = host(1);
    let tables = "(table 1 funcref)".repeat(64);
    for (declared, expect) in [
        ("(table 100000000 funcref)", "table"),
        (&*tables, "table"),
        ("(memory 1)", "memor"),
    ] {
        let wasm = plugin(declared, "");
        let error = host
            .load("p", &wasm, Limits::default(), &Grants::default())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(expect), "{declared:.40}: {error}");
    }
    let limits = Limits {
        memory: 64 << 10,
        ..Limits::default()
    };
    let small = host.load("p", &plugin("", ""), limits, &Grants::default());
    small.expect("one page is all it has");
}

/// The plugin of [`plugin`], configured, in a host with room for one.
async fn filter(declared: &str, at_request: &str) -> Filter {
    let wasm = plugin(declared, at_request);
    let plugin = host(1)
        .load("p", &wasm, Limits::default(), &Grants::default())
        .expect("it loads");
    plugin.configure("{}").await.expect("a config")
}

async fn continues(filter: &Filter) -> Result<(), FilterError> {
    let outcome = filter.on_request(request(&[])).await.1?;
    assert!(matches!(outcome.verdict, Verdict::Continue));
    Ok(())
}

/// A plugin that continues, with these declarations, and this done at each request.
fn plugin(declared: &str, at_request: &str) -> Vec<u8> {
    let at_request = format!("(call $drop_request (local.get 0)) {at_request}");
    modules::encoded(&modules::text("", declared, "", &at_request))
}
