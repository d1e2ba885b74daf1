//! RSA keys on all cores, and what `generate-csr` does with them.

use std::time::Instant;

use kubepki::edge::{FreshKeys, KeySource as _, KeyStock, generate_all};
use pki::KeyAlgorithm;

use crate::measure::{Failure, Sample, table, thread_cpu};

/// What RKE makes, and so do we.
const RSA: KeyAlgorithm = KeyAlgorithm::Rsa(2048);

/// Prints rates: one thread, all cores, and keys taken from a stock.
pub fn run(keys: usize, rounds: usize) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism()?.get();
    println!("keys: {rounds} rounds of {keys} RSA-2048 keys, {cores} cores");
    let wanted = vec![RSA; keys];
    let (mut one, mut one_cpu, mut all) = (Sample::default(), Sample::default(), Sample::default());
    let (mut ratio, mut taken) = (Sample::default(), Sample::default());
    for _ in 0..rounds {
        let (begin, cpu) = (Instant::now(), thread_cpu());
        for kind in &wanted {
            std::hint::black_box(FreshKeys.generate(*kind)?);
        }
        let single = begin.elapsed().as_secs_f64();
        one.push(single);
        one_cpu.push(thread_cpu() - cpu);
        let begin = Instant::now();
        std::hint::black_box(generate_all(&FreshKeys, &wanted)?);
        let parallel = begin.elapsed().as_secs_f64();
        all.push(parallel);
        ratio.push(single / parallel / cores as f64);
        let stock = KeyStock::new(&FreshKeys);
        stock.fill(&wanted)?;
        let begin = Instant::now();
        for kind in &wanted {
            std::hint::black_box(stock.generate(*kind)?);
        }
        taken.push(begin.elapsed().as_secs_f64());
    }
    let each = 1e3 / keys as f64;
    table(
        &["", "milliseconds each"],
        &[
            vec!["one thread, wall".to_owned(), one.range(each, 1)],
            vec!["one thread, CPU".to_owned(), one_cpu.range(each, 1)],
            vec!["all cores, wall".to_owned(), all.range(each, 1)],
            vec!["taken from a stock, wall".to_owned(), taken.range(each, 4)],
        ],
    );
    println!(
        "\nrate of all cores over cores x rate of one: {} (wanted: 0.8)",
        ratio.range(1.0, 2)
    );
    Ok(())
}
