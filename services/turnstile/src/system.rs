//! The one place that knows every context.

use mesh::{Context, Mesh};

use crate::client::Failure;
use crate::settings::Config;

/// The synchronous edges between contexts: each has settings of its own.
pub(crate) const EDGES: [&str; 3] =
    ["homemovie.app->payment", "outerpark.reservation->outerpark.musical", "notice->identity"];

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
    for context in contexts(config) {
        mesh.start(&context).await?;
        if context.name() == "identity" {
            mesh.read_keys_from(identity::keys_of(mesh)?);
        }
    }
    Ok(())
}
