//! What events make of the view. Each system has a file of its own; payments and notices belong to no system.

mod homemovie;
mod notice;
mod outerpark;
mod payment;

use mesh::Policy;

/// The policies that make the view: one for each log, so that what happens to one order there stays in order.
pub(crate) fn policies() -> Vec<Policy> {
    homemovie::policies()
        .into_iter()
        .chain(outerpark::policies())
        .chain(payment::policies())
        .chain(notice::policies())
        .collect()
}

/// Whether a resource is an order of one of the systems.
fn is_order(name: &str) -> bool {
    let orders = [homemovie::ORDERS, outerpark::ORDERS];
    name.split_once('/').is_some_and(|(collection, _)| orders.contains(&collection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_systems_orders_are_known_by_name() {
        for name in ["movieApplications/1", "musicalReservations/1"] {
            assert!(is_order(name), "{name}");
        }
        for name in ["", "musicalReservations", "musicals/1", "channels/1"] {
            assert!(!is_order(name), "{name}");
        }
    }
}
