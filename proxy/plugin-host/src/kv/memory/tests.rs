use super::*;
use crate::clock::SettableClock;
use crate::kv::{MAX_KEY, MAX_VALUE};

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

const SECOND: Duration = Duration::from_secs(1);

/// What memory answers, it answers at once.
#[track_caller]
fn at_once<T>(answer: KvFuture<'_, T>) -> Result<T, KvError> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("memory does not wait"),
    }
}

fn store(plugin: u64, total: u64) -> (MemoryStore, Arc<SettableClock>) {
    let clock = Arc::new(SettableClock::new(Duration::ZERO));
    let limits = KvLimits { plugin, total };
    (MemoryStore::new(limits, clock.clone()), clock)
}

fn part() -> (Arc<dyn KvStore>, Arc<SettableClock>) {
    let (store, clock) = store(1 << 20, 1 << 20);
    (store.part("p"), clock)
}

#[track_caller]
fn check(part: &Arc<dyn KvStore>, key: &str, expect: Option<&str>) {
    let found = at_once(part.get(key)).unwrap();
    assert_eq!(found.as_deref(), expect.map(str::as_bytes), "{key}");
}

#[test]
fn what_is_set_is_there_until_it_is_deleted() {
    let (part, clock) = part();
    check(&part, "k", None);
    at_once(part.set("k", b"one", None)).unwrap();
    at_once(part.set("k", b"two", None)).unwrap();
    clock.advance(1_000_000_000 * SECOND);
    check(&part, "k", Some("two"));
    assert_eq!(at_once(part.delete("k")), Ok(true));
    assert_eq!(at_once(part.delete("k")), Ok(false));
    check(&part, "k", None);
}

#[test]
fn add_is_for_what_is_not_there() {
    let (part, clock) = part();
    assert_eq!(at_once(part.add("k", b"first", Some(SECOND))), Ok(true));
    assert_eq!(at_once(part.add("k", b"second", None)), Ok(false));
    check(&part, "k", Some("first"));
    clock.advance(SECOND);
    assert_eq!(at_once(part.add("k", b"third", None)), Ok(true), "expired");
    check(&part, "k", Some("third"));
}

#[test]
fn compare_and_set_wants_what_is_expected() {
    let (part, _) = part();
    let swap = |expected: Option<&[u8]>, new: &[u8]| {
        at_once(part.compare_and_set("k", expected, new, None)).unwrap()
    };
    assert!(!swap(Some(b"1"), b"x"), "there is none");
    assert!(swap(None, b"1"));
    assert!(!swap(None, b"x"), "there is one");
    assert!(!swap(Some(b"2"), b"x"), "another");
    assert!(swap(Some(b"1"), b"2"));
    check(&part, "k", Some("2"));
    at_once(part.increment("k", 5, None)).unwrap();
    assert!(swap(Some(b"7"), b"8"), "a number is its digits");
}

#[test]
fn increments_keep_the_first_time_to_live() {
    let (part, clock) = part();
    assert_eq!(at_once(part.increment("k", 1, Some(2 * SECOND))), Ok(1));
    clock.advance(SECOND);
    assert_eq!(at_once(part.increment("k", 4, Some(60 * SECOND))), Ok(5));
    check(&part, "k", Some("5"));
    clock.advance(SECOND);
    check(&part, "k", None);
    assert_eq!(at_once(part.increment("k", -3, None)), Ok(-3));
}

#[test]
fn increments_of_what_was_set() {
    for (before, by, expect) in [
        ("41", 1, Ok(42)),
        ("-1", 1, Ok(0)),
        ("9223372036854775807", 1, Ok(i64::MAX)),
        ("-9223372036854775808", i64::MIN, Ok(i64::MIN)),
        ("9223372036854775808", 1, Err(KvError::NotANumber)),
        ("", 1, Err(KvError::NotANumber)),
        ("1.5", 1, Err(KvError::NotANumber)),
        (" 1", 1, Err(KvError::NotANumber)),
        ("\u{ff}", 1, Err(KvError::NotANumber)),
    ] {
        let (part, _) = part();
        at_once(part.set("k", before.as_bytes(), None)).unwrap();
        assert_eq!(at_once(part.increment("k", by, None)), expect, "`{before}`");
    }
}

#[test]
fn set_changes_the_time_to_live() {
    let (part, clock) = part();
    for (ttl, lives_on) in [
        (Some(SECOND), false),
        (None, true),
        (Some(Duration::ZERO), false),
        (Some(Duration::MAX), true),
        (Some(SECOND), false),
    ] {
        at_once(part.set("k", b"v", ttl)).unwrap();
        clock.advance(SECOND);
        check(&part, "k", lives_on.then_some("v"));
    }
}

#[test]
fn the_time_of_day_expires_nothing() {
    let (part, clock) = part();
    at_once(part.set("k", b"v", Some(SECOND))).unwrap();
    clock.set(1_000_000 * SECOND);
    check(&part, "k", Some("v"));
}

#[test]
fn keys_and_values_are_bounded() {
    let (part, _) = part();
    let (longest_key, longest_value) = ("k".repeat(MAX_KEY), vec![7; MAX_VALUE]);
    assert_eq!(
        at_once(part.set(&longest_key, &longest_value, None)),
        Ok(())
    );
    assert_eq!(at_once(part.get(&longest_key)), Ok(Some(longest_value)));
    let too_long = "k".repeat(MAX_KEY + 1);
    for key in ["", &too_long] {
        let all = [
            at_once(part.get(key)).map(|_| ()),
            at_once(part.set(key, b"", None)),
            at_once(part.add(key, b"", None)).map(|_| ()),
            at_once(part.compare_and_set(key, None, b"", None)).map(|_| ()),
            at_once(part.increment(key, 1, None)).map(|_| ()),
            at_once(part.delete(key)).map(|_| ()),
        ];
        assert_eq!(all, [Err(KvError::TooLarge); 6]);
    }
    let large = vec![0; MAX_VALUE + 1];
    at_once(part.set("there", b"1", None)).unwrap();
    let all = [
        at_once(part.set("k", &large, None)),
        at_once(part.add("k", &large, None)).map(|_| ()),
        at_once(part.add("there", &large, None)).map(|_| ()),
        at_once(part.compare_and_set("k", Some(b""), &large, None)).map(|_| ()),
    ];
    assert_eq!(all, [Err(KvError::TooLarge); 4]);
}

#[test]
fn plugins_share_nothing_but_the_total() {
    let (store, _) = store(1 << 20, 1 << 20);
    let (one, other) = (store.part("one"), store.part("other"));
    at_once(one.set("k", b"mine", None)).unwrap();
    check(&other, "k", None);
    assert_eq!(at_once(other.delete("k")), Ok(false));
    check(&one, "k", Some("mine"));
}

#[test]
fn a_part_lives_as_long_as_somebody_has_it() {
    let (store, _) = store(1 << 20, 1 << 20);
    let old = store.part("p");
    at_once(old.set("k", b"v", None)).unwrap();
    let new = store.part("p");
    drop(old);
    check(&new, "k", Some("v"));
    assert!(store.used() > 0);
    drop(new);
    assert_eq!(store.used(), 0);
    check(&store.part("p"), "k", None);
}

/// Sets `0`, `1` … until one finds no room; says how many found it.
fn fill(part: &Arc<dyn KvStore>, value: &[u8], ttl: Option<Duration>) -> usize {
    (0..)
        .find(
            |n: &usize| match at_once(part.set(&n.to_string(), value, ttl)) {
                Ok(()) => false,
                Err(error) => {
                    assert_eq!(error, KvError::Full);
                    true
                }
            },
        )
        .unwrap()
}

#[test]
fn a_full_part_keeps_what_it_has_and_takes_back_what_expired() {
    let (store, clock) = store(100_000, 1 << 20);
    let part = store.part("p");
    let found_room = fill(&part, &[1; 800], Some(SECOND));
    assert!((90..=100).contains(&found_room), "{found_room}");
    assert!(store.used() <= 100_000);
    check(&part, "0", Some(str::from_utf8(&[1; 800]).unwrap()));
    // Smaller in the place of larger goes, larger does not, and nothing was lost.
    assert_eq!(at_once(part.set("0", &[1; 799], Some(SECOND))), Ok(()));
    assert_eq!(
        at_once(part.set("1", &[1; 60_000], None)),
        Err(KvError::Full)
    );
    check(&part, "1", Some(str::from_utf8(&[1; 800]).unwrap()));
    clock.advance(SECOND);
    // Nothing came by the other shards, and still their room is there.
    assert_eq!(at_once(part.set("new", &[1; 60_000], None)), Ok(()));
    assert!(store.used() < 62_000, "{}", store.used());
}

#[test]
fn the_total_holds_over_all_plugins() {
    let (store, clock) = store(80_000, 100_000);
    let (one, other) = (store.part("one"), store.part("other"));
    fill(&one, &[0; 1000], Some(SECOND));
    fill(&other, &[0; 100], None);
    assert!((99_000..=100_000).contains(&store.used()));
    assert_eq!(
        at_once(other.set("x", &[0; 2000], None)),
        Err(KvError::Full)
    );
    clock.advance(SECOND);
    assert_eq!(at_once(other.set("x", &[0; 2000], None)), Ok(()));
    assert!(store.used() < 30_000, "{}", store.used());
}

#[test]
fn writes_take_out_what_expired_before_it_fills_the_store() {
    let (store, clock) = store(1 << 20, 1 << 20);
    let part = store.part("p");
    for n in 0..20_000 {
        at_once(part.set(&n.to_string(), b"v", Some(SECOND))).unwrap();
        clock.advance(Duration::from_millis(1));
    }
    // A thousand live at a time; a shard may wait for its turn.
    assert!(store.used() < 1_200 * (ENTRY_COST + 6), "{}", store.used());
}

#[test]
fn all_bytes_come_back() {
    let (store, clock) = store(1 << 20, 1 << 20);
    let part = store.part("p");
    for n in 0..1000u64 {
        let key = (n % 50).to_string();
        let ttl = (n % 3 > 0).then(|| SECOND * u32::try_from(n % 5).unwrap());
        match n % 7 {
            0 => at_once(part.delete(&key)).map(|_| ()),
            1 => at_once(part.add(&key, b"1", ttl)).map(|_| ()),
            2 => at_once(part.increment(&key, 3, ttl)).map(|_| ()),
            3 => at_once(part.compare_and_set(&key, None, b"9", ttl)).map(|_| ()),
            _ => at_once(part.set(&key, n.to_string().as_bytes(), ttl)),
        }
        .unwrap();
        clock.advance(Duration::from_millis(100));
    }
    for n in 0..50 {
        at_once(part.set(&n.to_string(), b"", None)).unwrap();
        at_once(part.delete(&n.to_string())).unwrap();
    }
    assert_eq!(store.used(), 0);
}

#[test]
fn threads_lose_nothing_to_each_other() {
    const THREADS: usize = 4;
    const ROUNDS: i64 = 2_000;
    let (store, _) = store(1 << 20, 1 << 20);
    let part = store.part("p");
    let added: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut added = 0;
                    for round in 0..ROUNDS {
                        at_once(part.increment("sum", 1, None)).unwrap();
                        let once = format!("once-{round}");
                        added += usize::from(at_once(part.add(&once, b"", None)).unwrap());
                        // A lock made of compare-and-set: each round adds one under it.
                        loop {
                            let before = at_once(part.get("cas")).unwrap();
                            let number = before.as_deref().map_or(0, |digits| {
                                str::from_utf8(digits).unwrap().parse::<i64>().unwrap()
                            });
                            let after = (number + 1).to_string();
                            let expected = before.as_deref();
                            let swap =
                                part.compare_and_set("cas", expected, after.as_bytes(), None);
                            if at_once(swap).unwrap() {
                                break;
                            }
                        }
                    }
                    added
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let total = (THREADS as i64 * ROUNDS).to_string();
    check(&part, "sum", Some(&total));
    check(&part, "cas", Some(&total));
    assert_eq!(added, ROUNDS as usize, "each key is added once");
}

#[test]
fn threads_never_pass_the_limits() {
    let (store, clock) = store(60_000, 100_000);
    let parts = [store.part("one"), store.part("other")];
    thread::scope(|scope| {
        for part in &parts {
            for thread in 0..2 {
                let (store, clock) = (&store, &clock);
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let ttl = (n % 2 == 0).then_some(SECOND);
                        let key = format!("{thread}-{}", n % 300);
                        let result = at_once(part.set(&key, &[0; 300], ttl));
                        assert!(matches!(result, Ok(()) | Err(KvError::Full)));
                        assert!(store.used() <= 100_000);
                        clock.advance(SECOND / 100);
                    }
                });
            }
        }
    });
    drop(parts);
    assert_eq!(store.used(), 0);
}
