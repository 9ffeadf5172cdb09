//! What is fuzzed, replayed over the seeds: see `proxy/fuzz`.

#[path = "../fuzz/src/bodies.rs"]
#[expect(unreachable_pub, reason = "public in the fuzz crate")]
mod bodies;

#[test]
fn the_seeds_of_every_fuzz_target_pass() {
    for target in &bodies::TARGETS {
        let mut seen = 0;
        for seed in bodies::seeds(target.seeds) {
            // Cut short, each is a seed of its own.
            for end in 0..=seed.len() {
                (target.body)(&seed[..end]);
            }
            seen += 1;
        }
        assert!(seen >= 10, "the seeds of {} were not found", target.name);
    }
}
