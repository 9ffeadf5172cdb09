//! What is fuzzed, replayed over the seeds: see `proxy/fuzz`.

#[path = "../../fuzz/src/bodies.rs"]
#[expect(unreachable_pub, reason = "public in the fuzz crate")]
mod bodies;

#[test]
fn the_seeds_of_every_fuzz_target_pass() {
    let check = |body: fn(&[u8]), text: &str| {
        let mut seen = 0;
        for seed in bodies::seeds(text) {
            // Cut short, each is a seed of its own.
            for end in 0..=seed.len() {
                body(&seed[..end]);
            }
            seen += 1;
        }
        assert!(seen >= 10, "the seeds were not found");
    };
    check(bodies::head, include_str!("../../fuzz/seeds/head.txt"));
    check(
        bodies::follower,
        include_str!("../../fuzz/seeds/follower.txt"),
    );
    check(bodies::reader, include_str!("../../fuzz/seeds/reader.txt"));
    check(
        bodies::deflate,
        include_str!("../../fuzz/seeds/deflate.txt"),
    );
}
