//! The one place that knows every context.

use mesh::{Context, Mesh};

use crate::client::Failure;
use crate::settings::Config;

/// The synchronous edges between contexts: each has settings of its own.
pub(crate) const EDGES: [&str; 3] =
    ["homemovie.app->payment", "outerpark.reservation->outerpark.musical", "notice->identity"];

/// The contexts, by name.
pub(crate) const CONTEXTS: [&str; 8] = [
    "identity",
    "payment",
    "mypage",
    "homemovie.movie",
    "homemovie.app",
    "notice",
    "outerpark.musical",
    "outerpark.reservation",
];

/// Every context, in the order in which they start.
pub(crate) fn contexts(config: &Config) -> Vec<Context> {
    vec![
        identity::context(config.identity.clone()),
        payment::context(config.payment.clone()),
        mypage::context(),
        homemovie_movie::context(!config.empty),
        homemovie_app::context(),
        notice::context(config.notice.clone()),
        outerpark_musical::context(config.musical.clone()),
        outerpark_reservation::context(config.reservation.clone()),
    ]
}

/// Starts every context in `mesh`.
pub(crate) async fn start(mesh: &Mesh, config: &Config) -> Result<(), Failure> {
    start_some(mesh, &contexts(config)).await
}

/// Starts these contexts in `mesh`. Whether identity is up does not matter: its keys are asked for when one is needed.
pub(crate) async fn start_some(mesh: &Mesh, contexts: &[Context]) -> Result<(), Failure> {
    mesh.read_keys_from(identity::keys_of(mesh)?);
    for context in contexts {
        mesh.start(context).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_context_has_its_name_in_the_list() {
        let cli = <crate::cli::Cli as clap::Parser>::parse_from(["turnstile"]);
        let config = crate::settings::read(&cli, None).unwrap();
        let names: Vec<_> =
            contexts(&config).iter().map(|context| context.name().to_owned()).collect();
        assert_eq!(names, CONTEXTS);
    }
}
