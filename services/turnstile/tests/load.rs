//! The load, as an operator runs it: figures as one JSON object, and the procedure T-CB in a short form.

mod common;

use std::process::Output;

use common::{PASSWORD, Up, turnstile};
use serde_json::Value;
use tokio::process::Command;

/// A slow callee for a debug build on a busy machine: unloaded it answers well within the 610 ms of the edge, and it
/// passes some 8 calls a second, so that 30 users overload it for certain. A breaker that opens for 2 s instead of 5
/// goes through more turns in the same time.
const SLOW_PAYMENT: [(&str, &str); 3] = [
    ("TURNSTILE_PAYMENT_DELAY_MS", "100-150"),
    ("TURNSTILE_PAYMENT_CONCURRENCY", "1"),
    ("TURNSTILE_EDGE_HOMEMOVIE_APP_PAYMENT_BREAKER_OPEN_MS", "2000"),
];
const SLOW_MUSICAL: [(&str, &str); 3] = [
    ("TURNSTILE_MUSICAL_DELAY_MS", "100-150"),
    ("TURNSTILE_MUSICAL_CONCURRENCY", "1"),
    ("TURNSTILE_EDGE_OUTERPARK_RESERVATION_OUTERPARK_MUSICAL_BREAKER_OPEN_MS", "2000"),
];

/// Runs a load to its end: what it said, and its figures, which are all that is on standard output.
async fn figures(command: &mut Command) -> (Output, Value) {
    let output = command.arg("--json").output().await.expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    let figures = serde_json::from_str(&shown)
        .unwrap_or_else(|error| panic!("{error} in {shown}: {}", said(&output)));
    (output, figures)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn count(figures: &Value, pointer: &str) -> u64 {
    figures
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer}: {figures}"))
}

async fn t_cb(scenario: &str, slow: &[(&str, &str)]) {
    let mut load = turnstile();
    load.args(["load", scenario, "--users", "30", "--duration", "12s", "--unloaded", "20"])
        .envs(slow.iter().copied());
    let (output, figures) = figures(&mut load).await;
    assert!(output.status.success(), "{figures}: {}", said(&output));
    assert_eq!(figures["scenario"], scenario);
    assert!(count(&figures, "/completed") > 0 && count(&figures, "/fallbacks") > 0, "{figures}");
    for turn in ["/breaker/opened", "/breaker/half_opened", "/breaker/closed"] {
        assert!(count(&figures, turn) > 0, "{turn}: {figures}");
    }
    assert_eq!(figures["breaker"]["state"], "CLOSED", "{figures}");
    assert_eq!(count(&figures, "/breaker/sent_while_open"), 0, "{figures}");
    let books = (count(&figures, "/books/left_count"), count(&figures, "/books/right_count"));
    assert!(books.0 == books.1 && books.0 >= count(&figures, "/completed"), "{figures}");
}

#[tokio::test]
async fn hm_n5_a_slow_payment_opens_the_breaker_and_it_heals() {
    t_cb("homemovie-breaker", &SLOW_PAYMENT).await;
}

#[tokio::test]
async fn op_n5_a_slow_seats_side_opens_the_breaker_and_it_heals() {
    t_cb("outerpark-breaker", &SLOW_MUSICAL).await;
}

#[tokio::test]
async fn a_private_system_takes_the_load_and_ends_well() {
    for scenario in ["homemovie", "outerpark"] {
        let mut load = turnstile();
        load.args(["load", scenario, "--users", "4", "--duration", "1s"]);
        let (output, figures) = figures(&mut load).await;
        assert!(output.status.success(), "{figures}: {}", said(&output));
        assert!(count(&figures, "/completed") > 0, "{figures}");
        assert_eq!((count(&figures, "/users"), count(&figures, "/errors")), (4, 0), "{figures}");
        assert_eq!(figures["faults"], Value::Array(Vec::new()));
    }
}

#[tokio::test]
async fn a_running_system_takes_calls_at_a_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let target = format!("http://{}", up.address);
    let mut load = turnstile();
    load.args(["load", "homemovie", "--users", "2", "--rate", "5", "--duration", "2s"])
        .args(["--target", &target]);
    let (output, figures) = figures(&mut load).await;
    assert!(output.status.success(), "{figures}: {}", said(&output));
    // Whatever comes of them, so many are due.
    let answered = count(&figures, "/completed") + count(&figures, "/fallbacks");
    assert_eq!((answered, figures["intended_per_s"].as_f64()), (10, Some(5.0)), "{figures}");

    let table = turnstile()
        .args(["load", "homemovie-breaker", "--users", "2", "--duration", "1s", "--unloaded", "1"])
        .args(["--target", &target])
        .output()
        .await
        .expect("it runs");
    let shown = String::from_utf8_lossy(&table.stdout);
    assert!(
        !table.status.success() && shown.contains("not as it should be: the breaker opens"),
        "{shown}"
    );
    assert!(
        said(&table).contains("left out:") && !said(&table).contains(PASSWORD),
        "{}",
        said(&table)
    );

    let refused = turnstile()
        .env("TURNSTILE_ADMIN_PASSWORD", "another password")
        .args(["load", "outerpark", "--target", &target])
        .output()
        .await
        .expect("it runs");
    let why = "turnstile: refused: the email or the password is wrong (Unauthenticated)";
    assert!(!refused.status.success() && said(&refused).contains(why), "{}", said(&refused));
    up.terminate().await;
}
