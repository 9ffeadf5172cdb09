//! Whether everything that was promised was kept, after all clients of a round have gone.

pub(crate) mod leaks;
pub(crate) mod metrics;

use std::time::Duration;

use crate::ledger::Ledger;
use crate::plan::Plan;

/// What a run says at its end; true if nothing was broken.
pub(crate) fn report(plan: &Plan, ledger: &Ledger, took: Duration) -> bool {
    println!("\nmet:");
    for (fault, times) in ledger.all_met() {
        println!("{times:>9}  {fault}");
    }
    println!("seen by the clients, and by the metrics:");
    for (count, times) in ledger.counts() {
        println!("{times:>9}  {count}");
    }
    let short: Duration = ledger.shortages().iter().sum();
    println!("{:>8.1}s  without descriptors", short.as_secs_f64());
    let broken = ledger.broken();
    for (promise, broken) in &broken {
        println!("BROKEN, {} times: {promise}", broken.times);
        for example in &broken.examples {
            println!("    {example}");
        }
    }
    let seed = plan.seed;
    let took = took.as_secs();
    match broken.is_empty() {
        true => println!("every promise was kept; {took} s, seed {seed}"),
        false => println!(
            "{} promises were broken; {took} s, seed {seed}",
            broken.len()
        ),
    }
    broken.is_empty()
}
