//! The long form of the tests that let things go wrong: for as long as it is given, with a report to read.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::programs::run;
use crate::{Result, cargo};

/// How many seeds a round has.
const ROUND: u64 = 100;

/// Tests of which one is run behind each round, in turn: its name, and which variable takes a seed.
const OTHERS: [(&str, &str); 5] = [
    ("killed", "KILL_SEED"),
    ("oversell", "OVERSELL_SEED"),
    ("processes", "KILL_SEED"),
    ("ways", "WAYS_SEED"),
    // It draws nothing: every context dies at every step.
    ("kill_matrix", "KILL_SEED"),
];

/// The simulation, built so that its runtime takes its chance from the seed, and quick enough for many of them.
pub(crate) fn simulation() -> Command {
    let flags = crate::programs::variable("RUSTFLAGS").unwrap_or_default();
    let mut test = cargo("test");
    test.env("RUSTFLAGS", format!("{flags} --cfg tokio_unstable").trim_start());
    test.args(["--profile", "simulation", "--package", "contract-tests", "--test", "simulation"]);
    test
}

/// Another test; with the features of the whole workspace, so that nothing is built twice.
fn other(name: &str) -> Command {
    let mut test = cargo("test");
    test.args(["--workspace", "--test", name]);
    test
}

/// What a seed came to.
struct Run {
    ok: bool,
    simulated: Duration,
    orders: u64,
    faults: Vec<String>,
}

/// A round of another test.
struct Other {
    name: &'static str,
    /// What runs it again.
    again: String,
    ok: bool,
    took: Duration,
}

#[derive(Default)]
struct Record {
    runs: Vec<Run>,
    others: Vec<Other>,
    /// What was said of seeds that failed.
    failures: Vec<String>,
}

/// Runs one seed, and shows it.
pub(crate) fn replay(seed: u64) -> Result<bool> {
    let mut test = simulation();
    test.args(["--", "--nocapture"]).env("SIMULATION_SEED", seed.to_string());
    Ok(test.status()?.success())
}

/// Goes on for so long once all is built, and until what was begun has ended; writes the report into the folder. Whether
/// nothing failed.
pub(crate) fn chaos(time: Duration, first: Option<u64>, folder: &Path) -> Result<bool> {
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    run(simulation().arg("--no-run"))?;
    for (name, _) in OTHERS {
        run(other(name).arg("--no-run"))?;
    }
    let mut others = OTHERS.iter().cycle();
    let (begun, mut seed, mut record) = (Instant::now(), first.unwrap_or(now), Record::default());
    while begun.elapsed() < time || record.runs.is_empty() {
        record.simulate(seed)?;
        if begun.elapsed() < time {
            record.others.extend(others.next().map(|test| Other::run(test, seed)).transpose()?);
        }
        seed += ROUND;
        record.write(folder, begun.elapsed())?;
    }
    eprintln!("the report is {}", folder.join("chaos.html").display());
    Ok(record.is_well())
}

impl Other {
    /// One process at a time is hurt: its tests take turns.
    fn run((name, variable): &(&'static str, &str), seed: u64) -> Result<Self> {
        let begun = Instant::now();
        let mut test = other(name);
        test.args(["--", "--nocapture", "--test-threads", "1"]).env(variable, seed.to_string());
        let ok = test.status()?.success();
        let again = format!("{variable}={seed} cargo test --workspace --test {name}");
        Ok(Self { name, again, ok, took: begun.elapsed() })
    }
}

impl Record {
    /// A round of seeds.
    fn simulate(&mut self, from: u64) -> Result {
        let mut test = simulation();
        test.args(["--", "--nocapture"]);
        test.env("SIMULATION_FROM", from.to_string()).env("SIMULATION_SEEDS", ROUND.to_string());
        let mut child = test.stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().ok_or("standard output is not piped")?;
        let (mut failing, before) = (false, self.runs.len());
        for line in BufReader::new(said).lines() {
            let line = line?;
            eprintln!("{line}");
            if let Some(run) = Run::read(&line) {
                failing = !run.ok;
                if failing {
                    self.failures.push(String::new());
                }
                self.runs.push(run);
            } else if failing && let Some(told) = self.failures.last_mut() {
                told.push_str(&line);
                told.push('\n');
                failing = !line.starts_with("replay: ");
            }
        }
        let status = child.wait()?;
        if self.runs.len() == before {
            return Err(format!("the simulation ended with {status} before its first run").into());
        }
        let well = self.runs[before..].iter().all(|run| run.ok);
        if well && !status.success() {
            self.failures
                .push(format!("the seeds from {from}: each is well, all together are not"));
        }
        Ok(())
    }

    fn is_well(&self) -> bool {
        self.failures.is_empty() && self.others.iter().all(|other| other.ok)
    }

    fn write(&self, folder: &Path, took: Duration) -> Result {
        fs::create_dir_all(folder)?;
        Ok(fs::write(folder.join("chaos.html"), self.page(took))?)
    }

    fn page(&self, took: Duration) -> String {
        let count = self.runs.len();
        let orders: u64 = self.runs.iter().map(|run| run.orders).sum();
        let simulated: f64 = self.runs.iter().map(|run| run.simulated.as_secs_f64()).sum();
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>Chaos</title><style>\
             body{{font:15px/1.5 system-ui;max-width:56rem;margin:2rem auto;padding:0 1rem}}\
             td,th{{text-align:left;padding:.1rem 1rem .1rem 0}}pre{{background:#f4f4f4;padding:1rem;overflow:auto}}\
             </style><h1>Chaos: {}</h1><table>",
            if self.is_well() { "all is well" } else { "something failed" },
        );
        let mut row = |what: &str, value: String| {
            let _ = write!(page, "<tr><th>{what}<td>{value}");
        };
        row("took", format!("{:.1} min", took.as_secs_f64() / 60.0));
        row("seeds", format!("{count}, {:.1} a second", count as f64 / took.as_secs_f64()));
        row("simulated", format!("{:.1} h", simulated / 3600.0));
        row("orders answered", orders.to_string());
        row("failed", self.failures.len().to_string());
        page.push_str("</table>");
        self.tell_failures(&mut page);
        page.push_str("<h2>What went wrong on purpose</h2>");
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for kind in self.runs.iter().flat_map(|run| &run.faults) {
            match kinds.iter_mut().find(|(known, _)| known == kind) {
                Some((_, times)) => *times += 1,
                None => kinds.push((kind.clone(), 1)),
            }
        }
        kinds.sort();
        page.push_str(&bars(&kinds));
        page.push_str("<h2>Simulated seconds until everything had come to its end</h2>");
        let longest = self.runs.iter().map(|run| run.simulated.as_secs() / 5).max().unwrap_or(0);
        let times: Vec<_> = (0..=longest)
            .map(|fives| {
                let within = |run: &&Run| run.simulated.as_secs() / 5 == fives;
                let label = format!("{} to {}", fives * 5, fives * 5 + 5);
                (label, self.runs.iter().filter(within).count())
            })
            .collect();
        page.push_str(&bars(&times));
        if !self.others.is_empty() {
            page.push_str("<h2>Other tests</h2><table><tr><th>test<th>outcome<th>took<th>again");
        }
        for Other { name, again, ok, took } in &self.others {
            let (outcome, took) = (if *ok { "ok" } else { "FAILED" }, took.as_secs());
            let _ = write!(page, "<tr><td>{name}<td>{outcome}<td>{took} s<td><code>{again}</code>");
        }
        page.push_str("</table>\n");
        page
    }

    fn tell_failures(&self, page: &mut String) {
        for failure in &self.failures {
            let failure = failure.replace('&', "&amp;").replace('<', "&lt;");
            let _ = write!(page, "<pre>{failure}</pre>");
        }
    }
}

impl Run {
    /// `run 17 ok 310 14500 16 4642b2c47aaca18a Crash,Clock`: seed, outcome, milliseconds here and there, orders, hash,
    /// faults.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("run ")?.split(' ');
        let (_, outcome, _) = (words.next()?.parse::<u64>().ok()?, words.next()?, words.next()?);
        let simulated = Duration::from_millis(words.next()?.parse().ok()?);
        let (orders, _) = (words.next()?.parse().ok()?, words.next()?);
        let faults = words.next().unwrap_or_default().split(',');
        let faults = faults.filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
        Some(Self { ok: outcome == "ok", simulated, orders, faults })
    }
}

/// A bar for each number.
fn bars(numbers: &[(String, usize)]) -> String {
    let most = numbers.iter().map(|(_, number)| *number).max().unwrap_or(0).max(1);
    let height = numbers.len() * 22;
    let mut plot = format!("<svg width=720 height={height} font-size=13>");
    for (n, (label, number)) in numbers.iter().enumerate() {
        let (y, width) = (n * 22, number * 480 / most);
        let _ = write!(
            plot,
            "<text x=0 y={}>{label}</text><rect x=140 y={y} width={width} height=16 fill=#468 />\
             <text x={} y={}>{number}</text>",
            y + 13,
            146 + width,
            y + 13,
        );
    }
    plot + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_run_is_read() {
        let run = Run::read("run 17 failed 310 14500 16 4642b2c47aaca18a Crash,Clock").unwrap();
        assert_eq!((run.ok, run.orders), (false, 16));
        assert_eq!((run.simulated.as_millis(), run.faults.len()), (14500, 2));
        assert!(Run::read("running 1 test").is_none());
    }

    #[test]
    fn a_report_says_what_failed_and_how_often_what_went_wrong() {
        let mut record = Record::default();
        for line in ["run 1 ok 310 14500 16 46 Crash,Clock", "run 2 failed 310 61000 16 46 Crash"] {
            record.runs.push(Run::read(line).unwrap());
        }
        assert!(record.is_well());
        record.failures.push("seed 2: a < b\nreplay: cargo xtask chaos --seed 2".to_owned());
        let page = record.page(Duration::from_secs(60));
        for part in ["something failed", "a &lt; b", "--seed 2", ">Crash</text>", "60 to 65"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!record.is_well());
    }
}
