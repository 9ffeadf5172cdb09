//! Faults under load: thousands of sockets through a real proxy while its upstreams, plugins, configuration,
//! descriptors and clients fail; at the end, whether anything was lost, left behind or miscounted.
//!
//! Two rounds are the same but for their length. The first shows what a crowd leaves in the allocator; the second
//! may leave no more. Then the proxy is stopped under load. See `README.md` beside `Cargo.toml`.

mod clients;
mod ledger;
mod plan;
mod round;
mod said;
mod stop;
mod troubles;
mod upstreams;
mod verdict;
mod voice;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;

use ledger::Ledger;
use plan::Cli;
use verdict::leaks;
use world::World;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan = cli.plan();
    sluicegate_tests::raise_descriptor_limit();
    println!("seed {}: {plan:?}", plan.seed);
    let began = Instant::now();
    let ledger = Arc::new(Ledger::new(cli.verbose));
    let world = Arc::new(World::start(plan.clone(), Arc::clone(&ledger)).await);

    round::hold(&world, 1, plan.warm_up).await;
    let (samples, before) = leaks::settle(&world, None).await;
    println!("after the warm-up, at {:.0?}: {before:?}", began.elapsed());
    verdict::metrics::compare(&ledger, &samples);

    round::hold(&world, 2, plan.main).await;
    let (samples, after) = leaks::settle(&world, Some(before)).await;
    println!(
        "after the main round, at {:.0?}: {after:?}",
        began.elapsed()
    );
    verdict::metrics::compare(&ledger, &samples);

    stop::stop(world, 3).await;
    match verdict::report(&plan, &ledger, began.elapsed()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
