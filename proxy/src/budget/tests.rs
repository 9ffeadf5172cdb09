use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::task::Wake;
use std::thread;

use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Knows whether it was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn accounts<const N: usize>(budget: &Arc<Budget>, held: [usize; N]) -> [Account; N] {
    held.map(|held| {
        let account = budget.open(Kind::Tunnel);
        account.set(held);
        account
    })
}

/// Holds more, and waits.
fn grow(account: &Account, more: usize) {
    account.hold(more);
    account.settle();
}

fn told(accounts: &[Account]) -> Vec<bool> {
    accounts.iter().map(Account::is_shed).collect()
}

#[test]
fn only_what_is_worth_it_reaches_the_budget() {
    let budget = Budget::new(Some(MIB));
    let account = budget.open(Kind::Request);
    for (held, charged) in [
        (0, 0),
        (FREE - 1, 0),
        (FREE, STEP),
        (FREE + 1, 2 * STEP),
        (2 * STEP, 2 * STEP),
        (100 * KIB, 100 * KIB),
        (1, 0),
    ] {
        account.set(held);
        assert_eq!(budget.held(), charged, "{held}");
    }
}

#[test]
fn the_costliest_go_first_and_no_more_than_it_takes() {
    let budget = Budget::new(Some(16 * MIB));
    let mut crowd = accounts(&budget, [MIB, 6 * MIB, 2 * MIB, 5 * MIB, 8 * KIB]);
    assert_eq!(told(&crowd), [false; 5]);
    // 17.5 MiB: one is enough to be below 15.
    grow(&crowd[2], 3 * MIB + 512 * KIB);
    assert_eq!(told(&crowd), [false, true, false, false, false]);
    assert_eq!(budget.shed(Kind::Tunnel), 1);
    // While it is on its way a little more changes nothing.
    grow(&crowd[0], 100 * KIB);
    assert_eq!(budget.shed(Kind::Tunnel), 1);
    // Much more does: 22.6 MiB, of which 6 are going.
    grow(&crowd[4], 5 * MIB);
    assert_eq!(told(&crowd), [false, true, true, false, false]);
    for account in &mut crowd {
        account.set(0);
    }
    assert_eq!(budget.held(), 0);
    assert_eq!(budget.shed(Kind::Tunnel), 2);
}

#[test]
fn many_small_ones_are_shed_too() {
    let budget = Budget::new(Some(MIB));
    let crowd: Vec<_> = (0..100)
        .flat_map(|_| accounts(&budget, [16 * KIB]))
        .collect();
    let held: usize = crowd.iter().filter(|it| !it.is_shed()).count() * 16 * KIB;
    assert!(held <= MIB, "{held} bytes are left to those who stay");
    assert!(held > MIB / 2, "{held} bytes are too few");
}

#[test]
fn a_lower_limit_sheds_at_once_and_a_higher_one_ends_the_shortage() {
    let budget = Budget::new(Some(16 * MIB));
    let crowd = accounts(&budget, [4 * MIB, 5 * MIB]);
    assert!(!budget.is_short());
    budget.set_limit(Some(8 * MIB));
    assert_eq!(told(&crowd), [false, true]);
    assert!(budget.is_short());
    budget.set_limit(Some(64 * MIB));
    assert!(!budget.is_short());
}

#[test]
fn a_shortage_begins_at_nine_tenths_and_ends_below_eight() {
    let budget = Budget::new(Some(1000 * KIB));
    let account = budget.open(Kind::Request);
    for (held, short) in [
        (892, false),
        (900, true),
        (804, true),
        (800, true),
        (796, false),
        (896, false),
        (1000, true),
        (0, false),
    ] {
        account.set(held * KIB);
        assert_eq!(budget.is_short(), short, "{held} KiB");
    }
    assert!(!account.is_shed(), "the limit itself is allowed");
}

#[tokio::test(start_paused = true)]
async fn a_shortage_that_lasts_ends_at_the_cost_of_the_costliest() {
    let budget = Budget::new(Some(16 * MIB));
    let crowd = accounts(&budget, [6 * MIB, 5 * MIB, 4 * MIB]);
    assert!(budget.is_short(), "at 15 of 16");
    tokio::time::advance(SHORTAGE - Duration::from_millis(10)).await;
    assert!(budget.is_short());
    assert_eq!(told(&crowd), [false; 3]);
    tokio::time::advance(Duration::from_millis(10)).await;
    assert!(budget.is_short(), "until it has gone");
    assert_eq!(told(&crowd), [true, false, false]);
    crowd[0].set(0);
    assert!(!budget.is_short());
    // The next one has its own time.
    grow(&crowd[0], 6 * MIB);
    assert!(budget.is_short());
    assert_eq!(told(&crowd), [true, false, false]);
}

#[test]
fn a_shortage_that_was_found_too_late_heals() {
    let budget = Budget::new(Some(16 * MIB));
    let [account] = accounts(&budget, [15 * MIB]);
    account.set(0);
    // As by a thread that was stopped between its charge and this.
    budget.has_grown(15 * MIB);
    assert!(!budget.is_short());
}

#[test]
fn who_is_told_is_woken() {
    let budget = Budget::new(Some(MIB));
    let [account] = accounts(&budget, [512 * KIB]);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut cx = Context::from_waker(&waker);
    assert!(account.poll_shed(&mut cx).is_pending());
    let [_small] = accounts(&budget, [500 * KIB]);
    assert!(!alarm.0.load(Ordering::Relaxed));
    grow(&account, MIB);
    assert!(alarm.0.load(Ordering::Relaxed));
    assert!(account.poll_shed(&mut cx).is_ready());
}

#[tokio::test]
async fn one_task_may_wait_while_another_fills_the_memory() {
    let budget = Budget::new(Some(MIB));
    let [account] = accounts(&budget, [512 * KIB]);
    let waiting = tokio::spawn({
        let account = account.clone();
        async move { poll_fn(|cx| account.poll_shed(cx)).await }
    });
    tokio::task::yield_now().await;
    let _other = accounts(&budget, [508 * KIB, 16 * KIB]);
    waiting.await.unwrap();
}

#[test]
fn kept_bytes_count_until_their_last_piece_is_dropped() {
    let budget = Budget::new(Some(MIB));
    let account = budget.open(Kind::Request);
    let mut bytes = account.keep(Bytes::from(vec![7; 64 * KIB]));
    let piece = bytes.split_to(10);
    assert_eq!(budget.held(), 0, "nobody waits yet");
    account.settle();
    drop(account);
    assert_eq!(budget.held(), 64 * KIB);
    drop(bytes);
    assert_eq!(piece, [7; 10][..]);
    assert_eq!(budget.held(), 64 * KIB);
    drop(piece);
    assert_eq!(budget.held(), 0);
}

#[test]
fn what_outlives_who_was_told_has_others_go_in_its_place() {
    let budget = Budget::new(Some(16 * MIB));
    let crowd = accounts(&budget, [5 * MIB, 4 * MIB]);
    let costliest = budget.open(Kind::Request);
    let under_way = costliest.keep(Bytes::from(vec![7; 2 * MIB]));
    grow(&costliest, 6 * MIB);
    assert!(costliest.is_shed());
    assert_eq!(told(&crowd), [false; 2], "8 of 17 go");
    costliest.give_back(6 * MIB);
    grow(&crowd[1], 6 * MIB - 512 * KIB);
    assert_eq!(told(&crowd), [false; 2], "14.5, and 2 that go");
    drop(costliest);
    assert_eq!(told(&crowd), [false, true], "16.5, of which nothing goes");
    assert_eq!(budget.shed(Kind::Request), 1, "once");
    drop(under_way);
    assert_eq!(budget.held(), 14 * MIB + 512 * KIB);
    assert_eq!(
        budget.going.load(Ordering::Relaxed).unsigned_abs(),
        9 * MIB + 512 * KIB
    );
}

#[test]
fn who_is_told_and_goes_with_all_it_holds_takes_nobody_along() {
    let budget = Budget::new(Some(16 * MIB));
    let crowd = accounts(&budget, [5 * MIB, 6 * MIB, 4 * MIB]);
    grow(&crowd[1], 2 * MIB);
    let [first, told, last] = crowd;
    assert!(told.is_shed());
    drop(told);
    assert!(!first.is_shed() && !last.is_shed());
    assert_eq!(budget.held(), 9 * MIB);
}

#[test]
fn what_may_come_besides_counts_from_the_next_wait_on() {
    let budget = Budget::new(Some(MIB));
    let account = budget.open(Kind::Request);
    account.hold(8 * KIB);
    account.reserve(128 * KIB);
    assert_eq!(budget.held(), 0);
    account.settle();
    assert_eq!(budget.held(), 136 * KIB);
    account.reserve(0);
    assert_eq!(budget.held(), 8 * KIB, "and no longer than that");
}

#[test]
fn who_waits_for_an_empty_account_is_woken_once_it_is() {
    let budget = Budget::new(Some(MIB));
    let [account] = accounts(&budget, [100 * KIB]);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut cx = Context::from_waker(&waker);
    assert!(account.poll_empty(&mut cx).is_pending());
    account.give_back(90 * KIB);
    assert!(!alarm.0.load(Ordering::Relaxed));
    account.give_back(10 * KIB);
    assert!(alarm.0.load(Ordering::Relaxed));
    assert_eq!(account.poll_empty(&mut cx), Poll::Ready(true));
    grow(&account, 2 * MIB);
    assert_eq!(account.poll_empty(&mut cx), Poll::Ready(false));
}

#[test]
fn threads_that_share_an_account_leave_nothing_behind() {
    let budget = Budget::new(Some(8 * MIB));
    let account = budget.open(Kind::Request);
    thread::scope(|scope| {
        for seed in 1..=4 {
            let (budget, account) = (&budget, &account);
            scope.spawn(move || {
                for round in 0..5_000 {
                    let size = (round * seed * 7919) % (3 * MIB);
                    grow(account, size);
                    let own = budget.open(Kind::Tunnel);
                    own.set(size / 2);
                    account.give_back(size);
                }
            });
        }
    });
    assert!(account.is_empty());
    assert_eq!(budget.held(), 0, "without another word");
    drop(account);
    assert_eq!(budget.going.load(Ordering::Relaxed), 0);
    let listed: usize = budget.holders.iter().map(|shard| lock(shard).len()).sum();
    assert_eq!(listed, 0);
    assert!(!budget.is_short());
}

/// Two threads do this with one account after the other, both at the same moment.
fn at_once(accounts: &[Account], one: impl Fn(&Account) + Sync, other: impl Fn(&Account)) {
    let turns = [const { AtomicUsize::new(0) }; 2];
    let meet = |own: usize, turn: usize| {
        turns[own].store(turn, Ordering::SeqCst);
        let mut waited = 0;
        while turns[1 - own].load(Ordering::SeqCst) < turn {
            std::hint::spin_loop();
            waited += 1;
            if waited % 100 == 0 {
                thread::yield_now();
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for (turn, account) in accounts.iter().enumerate() {
                meet(0, turn + 1);
                one(account);
            }
        });
        for (turn, account) in accounts.iter().enumerate() {
            meet(1, turn + 1);
            other(account);
        }
    });
}

/// Enough that two threads meet within a few instructions.
fn many(budget: &Arc<Budget>) -> Vec<Account> {
    let account = |_| budget.open(Kind::Request);
    (0..20_000).map(account).collect()
}

#[test]
fn who_waits_while_another_thread_gives_back_is_charged_nothing() {
    let budget = Budget::new(Some(usize::MAX));
    let accounts = many(&budget);
    for account in &accounts {
        account.hold(8 * KIB);
    }
    at_once(&accounts, Account::settle, |it| it.give_back(8 * KIB));
    assert_eq!(budget.held(), 0);
}

#[test]
fn who_is_told_while_it_gives_back_has_nothing_that_goes() {
    let budget = Budget::new(Some(usize::MAX));
    let accounts = many(&budget);
    for account in &accounts {
        account.set(8 * KIB);
    }
    at_once(&accounts, |it| it.entry().tell(), |it| it.set(0));
    assert_eq!(budget.going.load(Ordering::Relaxed), 0);
}

proptest! {
    /// Whatever is held, given back, dropped and told: the sum is that of the accounts, and nothing stays.
    #[test]
    fn the_sum_never_drifts(
        steps in prop::collection::vec((0..6_usize, 0..4_usize, 0..300_usize), 1..200)
    ) {
        let budget = Budget::new(Some(512 * KIB));
        let mut accounts: Vec<(Account, usize)> = Vec::new();
        for (which, what, size) in steps {
            if which >= accounts.len() {
                accounts.push((budget.open(Kind::Tunnel), 0));
                continue;
            }
            let size = size * 997;
            let (account, held) = &mut accounts[which];
            match what {
                0 => {
                    grow(account, size);
                    *held += size;
                }
                1 => {
                    let less = size.min(*held);
                    account.give_back(less);
                    *held -= less;
                }
                2 => {
                    account.set(size);
                    *held = size;
                }
                _ => drop(accounts.swap_remove(which)),
            }
            let charged: usize = accounts
                .iter()
                .map(|(_, held)| match *held {
                    0..FREE => 0,
                    held => held.next_multiple_of(STEP),
                })
                .sum();
            prop_assert_eq!(budget.held(), charged);
            let staying: usize = accounts
                .iter()
                .filter(|(account, held)| !account.is_shed() && *held >= FREE)
                .map(|(_, held)| held)
                .sum();
            let light: usize = accounts.iter().filter(|it| it.1 < FREE).map(|it| it.1).sum();
            prop_assert!(staying + light <= budget.limit() + 6 * STEP, "{} stay", staying);
        }
        drop(accounts);
        prop_assert_eq!(budget.held(), 0);
    }
}
