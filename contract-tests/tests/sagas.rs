//! The four checks of a saga, for every saga there is.
#![allow(clippy::unwrap_used, reason = "what does not hold is said by the failure")]

use std::path::Path;

use contract_tests::homemovie::Homemovie;
use contract_tests::mortal::saga::{
    what_is_done_twice_has_one_effect, what_is_undone_twice_is_undone_once,
    whatever_fails_is_undone,
};
use contract_tests::outerpark::Outerpark;

#[tokio::test]
async fn g11_what_is_done_twice_has_one_effect() {
    what_is_done_twice_has_one_effect::<Homemovie>().await.unwrap();
    what_is_done_twice_has_one_effect::<Outerpark>().await.unwrap();
}

#[tokio::test]
async fn g11_whatever_fails_is_undone_and_the_world_is_as_before() {
    whatever_fails_is_undone::<Homemovie>().await.unwrap();
    whatever_fails_is_undone::<Outerpark>().await.unwrap();
}

#[tokio::test]
async fn g11_what_is_undone_twice_is_undone_once() {
    what_is_undone_twice_is_undone_once::<Homemovie>().await.unwrap();
    what_is_undone_twice_is_undone_once::<Outerpark>().await.unwrap();
}

/// A new saga must be added above.
#[test]
fn g11_there_is_no_other_saga() {
    let mut sagas = Vec::new();
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services");
    let mut folders = vec![services];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                sagas.extend(text.lines().filter_map(|line| {
                    line.strip_prefix("impl CallThenRegister for ").map(ToOwned::to_owned)
                }));
            }
        }
    }
    sagas.sort();
    assert_eq!(sagas, ["PickMovie {", "Reserve {"]);
}
