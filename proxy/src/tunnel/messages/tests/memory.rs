//! A tunnel that is to give its memory back while the court still has some of it.

use std::future::poll_fn;
use std::task::Poll;

use super::*;
use crate::budget::{Budget, Kind as AccountKind};

/// Never answers, and counts how often it is looked after.
struct Sleeper(Arc<AtomicU32>);

impl Judge for Sleeper {
    fn interest(&self, _: Side) -> Interest {
        Interest {
            text: true,
            max_size: u64::MAX,
            ..Interest::default()
        }
    }

    fn judge(self: Box<Self>, _: Side, _: Message) -> Judging {
        Box::pin(poll_fn(move |_| {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Pending
        }))
    }

    fn tick(self: Box<Self>) -> Judging {
        unreachable!("it has no clock")
    }

    fn next_tick(&self) -> Option<Instant> {
        None
    }

    fn poll_failed(&mut self, _: &mut Context<'_>) -> Poll<Box<Stop>> {
        Poll::Pending
    }

    fn part(self: Box<Self>, _: Summary) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async {})
    }
}

const KIB: usize = 1 << 10;

/// The process runs out of memory, or the tunnel holds more than it may: both sides are told, once, and the
/// tunnel rests until one of them answers.
#[tokio::test]
async fn what_is_in_court_is_waited_for_in_peace() {
    for (memory, code) in [(None, 1013_u16), (Some(512 * KIB), 1009)] {
        let (mut client, downstream) = socket();
        let (mut server, upstream) = socket();
        let drain = Drain::default();
        let budget = Budget::new(Some(1024 * KIB));
        let looks = Arc::new(AtomicU32::new(0));
        let level = Level::Messages(Box::new(Terms {
            rules: Arc::default(),
            compression: Legs::default(),
            memory,
            judge: Some(Box::new(Sleeper(Arc::clone(&looks)))),
        }));
        let tunnel = Tunnel {
            idle_timeout: Duration::from_secs(3600),
            budget: Arc::clone(&budget),
            ..tunnel(downstream, upstream, level, &drain)
        };
        let tunnel = tokio::spawn(tunnel.run());
        let mut message = Vec::new();
        let data = vec![b'x'; 600 * KIB];
        encode_message(DataKind::Text, &data, Some([1, 2, 3, 4]), &mut message);
        client.write_all(&message).await.unwrap();
        let other = budget.open(AccountKind::Tunnel);
        if memory.is_none() {
            while budget.held() < 600 * KIB {
                tokio::task::yield_now().await;
            }
            other.set(500 * KIB);
        }
        let mut close = [0; 4];
        client.read_exact(&mut close).await.unwrap();
        assert_eq!(close[0], 0x88);
        assert_eq!(close[2..], code.to_be_bytes());
        server.read_exact(&mut close).await.unwrap();
        assert_eq!(close[0], 0x88);
        assert!(!other.is_shed());
        let before = looks.load(Ordering::Relaxed);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let looks = looks.load(Ordering::Relaxed) - before;
        assert!(looks < 10, "{code}: looked after {looks} times");
        tunnel.abort();
    }
}
