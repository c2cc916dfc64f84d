// SPDX-License-Identifier: GPL-2.0

//! The rules, held against random sequences of all that may happen to a machine.
//!
//! A model that knows the rules, and nothing of how the code keeps them, says in exact arithmetic
//! what each counter may be. A sequence that fails is made as short as possible before it is
//! shown. The sequences are the same in each run, but for other values of the environment:
//! PROPTEST_CASES is their number, PROPTEST_RNG_SEED the seed.

mod guest;
mod host;
mod interruption;
mod interval;
mod machine;
mod step;
mod world;

use std::env;

use proptest::{
    collection::vec,
    test_runner::{
        Config,
        RngSeed,
        TestCaseError,
        TestRunner, //
    },
};

use world::World;

/// What is not as the rules want it, if anything.
type Check = Result<(), String>;

/// How many sequences a run tries.
const CASES: u32 = 2000;

fn config() -> Config {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if let RngSeed::Random = config.rng_seed {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

#[test]
fn the_rules_hold_in_any_sequence() {
    let config = config();
    println!("{} cases, {:?}", config.cases, config.rng_seed);
    TestRunner::new(config)
        .run(&vec(step::step(), 1..120), |steps| {
            let mut world = World::new();
            for (number, step) in steps.into_iter().enumerate() {
                world.take(step).map_err(|error| {
                    TestCaseError::fail(format!("after step {number}: {error}"))
                })?;
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
