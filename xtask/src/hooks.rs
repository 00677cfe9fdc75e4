//! That the program which others run has none of the hooks that tests use (S-38).

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::programs::run;

/// What only a program for tests has in it: the variable that kills it, steps, mistakes to plant.
const WORDS: [&str; 5] = [
    "TURNSTILE_KILL_AT",
    "TURNSTILE_NEXT_RELEASE",
    "store.before_commit",
    "calling.after_call",
    "as planned",
];

/// Builds the program as it is released but for optimisation, and looks for hooks in it. The one of the tests, which is
/// there before, shows that they would be found.
pub(crate) fn are_absent(program: &Path) -> Result {
    if !has_words(program)? {
        return Err("the program of the tests has no hooks: this looks for the wrong words".into());
    }
    run(Command::new("cargo").args(["build", "--package", "turnstile"]))?;
    if has_words(program)? {
        return Err(format!("{} has hooks that only tests use", program.display()).into());
    }
    let mut told = Command::new(program);
    told.arg("check-config").env(WORDS[0], "saga.called:1");
    let answer = told.stdin(Stdio::null()).output()?;
    match String::from_utf8_lossy(&answer.stderr).contains("there is no such setting") {
        true => Ok(()),
        false => Err(format!("{} knows {}", program.display(), WORDS[0]).into()),
    }
}

fn has_words(program: &Path) -> Result<bool> {
    let mut grep = Command::new("grep");
    grep.args(["--text", "--quiet", "--fixed-strings"]);
    for word in WORDS {
        grep.args(["-e", word]);
    }
    let status = grep.arg(program).status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(format!("grep {}: {status}", program.display()).into()),
    }
}
